"""Targets per second of test-time training as pr1855 does it (ttt_phased), and the hours that all of val would take.

The adapters are measured alone, then with phases, each of which trains all weights on the tokens that were scored before. Documents have
1,000 tokens. The contest allows ten minutes on eight GPUs for all of val.
"""

import torch

from benchmarks.gpu import training, trees
from benchmarks.gpu.context import Context
from stages.runtime.base import plugin
from stages.runtime.scoring import harness

VAL_TARGETS = 47_851_520  # of the published runs of #1855
GOAL = VAL_TARGETS / (8 * 600)  # targets per second and GPU: ten minutes on eight GPUs
CASES = (("adapters alone", 2, []), ("with a phase after each of two documents", 3, [1, 2]))


def measure(context: Context) -> None:
    tree = trees.of("pr1855", context.device, small=context.is_small)
    options = tree["package"]["options"]
    model = training.random_model(tree, context.device)
    torch.set_default_device(context.device)  # as the artifact does
    for name, documents, phases in CASES:
        with context.attempt(name):
            with torch.device("cpu"):
                length = 50 if context.is_small else training.DOCUMENT
                tokens = training.random_tokens(tree["vocabulary"]["size"], documents * length + 1, document=length)
            evaluator = plugin.load("evaluators", "ttt_phased").Evaluator(model, **options | {"phases": phases})
            ledger = harness.score(evaluator, tokens)
            rate = len(ledger.nats) / ledger.seconds
            goal = {} if context.is_small else {"goal": f"{GOAL:,.0f}", "holds": rate >= GOAL}
            context.note(f"{name}, {len(ledger.nats):,} targets", rate, "targets/s", **goal)
            if not context.is_small:
                context.note(f"{name}: all of val on one GPU", VAL_TARGETS / rate / 3600, "hours")
