"""What a published run takes on one H100 and on eight, node by node: arithmetic from its sizes, and what a rehearsal measured on a CPU.

    work of a network     max(FLOPs / rate, kernels x LAUNCH_SECONDS)     FLOPs as in lib/training/flops.py, kernels counted in one pass
    work of a processor   measured seconds of one core, times the size where it grows with one
    training              the published seconds, on eight GPUs; one GPU takes eight times as long

The rate of a GPU is its published peak times a share that is assumed here (SHARE): nothing of this was measured on a GPU. Evaluators
score in float32, so the rate is that of float32. An evaluator that carries what it learns runs in one process on any number of GPUs.
"""

from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stages.lib.text import accounting
from stages.lib.training import flops
from stages.recipes import describe, header
from stages.runtime.base import plugin

PEAK_FP32 = 66.9e12  # FLOPs a second: NVIDIA H100 Tensor Core GPU data sheet, SXM5
SHARE = 0.5  # of the peak, assumed
LAUNCH_SECONDS = 5e-6  # from one kernel to the next when Python starts each of them, assumed
GPUS = 8
WHOLE_POSITIONS, WHOLE_REACH = 12, 20_000  # of the check `withheld`
HOLDOUT_TARGETS = 2_000 * 957  # of the contest's data: documents, and targets of one
GROWS = {
    "prepare": "bytes of the shards",
    "text_compressors": "bytes of val",
    "vocabulary": "nothing; it comes with the shards",
    "tokenize": "nothing; the shards are linked",
    "train": "steps × tokens of a step",
    "ema": "parameters",
    "calibrate": "sequences × length",
    "quantize": "parameters",
    "plain_score": "val tokens",
    "compress": "parameters",
    "evaluate": "val tokens",
    "audit": "tokens that it tries; val and train tokens that it reads",
    "certify": "val tokens, twice, one by one",
}


@dataclass(frozen=True)
class Row:
    """Seconds of one node in the published run, on one H100 and on eight; None where nothing here says them."""

    node: str
    one: float | None
    eight: float | None

    @property
    def grows(self) -> str:
        return GROWS.get(self.node.split("@")[0], "nothing")


@dataclass(frozen=True)
class Work:
    """An evaluator's work on the network: FLOPs and kernels of a target when chunks are scored, and of one distribution of the stream."""

    flops: float
    kernels: float
    row_flops: float
    row_kernels: float

    @property
    def seconds(self) -> float:
        return seconds(self.flops, self.kernels)

    @property
    def row_seconds(self) -> float:
        return seconds(self.row_flops, self.row_kernels)


def seconds(number: float, kernels: float) -> float:
    """Of so many FLOPs in float32, in so many kernels, on one H100."""
    return max(number / (SHARE * PEAK_FP32), kernels * LAUNCH_SECONDS)


class _Counting(TorchDispatchMode):
    """Counts the operators that compute something; views start no kernel."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def kernels(net, length: int) -> int:
    """The number of kernels of one forward pass, as torch starts them without a compiler."""
    with _Counting() as counter, torch.no_grad():
        net(flops.tokens(length))
    return counter.count


def work(run: dict, tree: dict, cost: describe.Description, passes: int, targets: int) -> Work | None:
    """The work of one entry of evaluate.runs on a val split of `targets`; `passes` is the number of kernels of a forward pass. None for an
    evaluator whose work is not known here."""
    options, each = run["options"], cost.flops
    evaluator = options["network"] if run["evaluator"] == "tilt" else run["evaluator"]  # a hint costs no work of the network
    window = options["window"]
    if evaluator in ("sliding", "slot"):
        head = 2 * tree["model"]["width"] * tree["vocabulary"]["size"]
        steps = options.get("steps", 0)
        one = window * (each + steps * head)  # a step of SLOT passes the head once, and its gradient is of one row
        return Work(one / options["stride"], (passes + 10 * steps) / (options["stride"] * options["batch"]), one, passes + 10 * steps)
    if evaluator in ("ttt_lora", "ttt_phased"):
        context = min(window, targets / accounting.VAL_DOCUMENTS / 2 + options["chunk"])  # the middle of a document of the mean length
        merged = 2 * options["rank"] * cost.parameters  # W + (alpha / rank) B A of every matrix
        forward = context * each + merged
        learned = flops.TRAINING * forward  # the forward pass of the chunk, and the backward pass
        phases = flops.TRAINING * each * sum(options.get("phases", ())) * targets / accounting.VAL_DOCUMENTS
        return Work(
            (forward + learned) / options["chunk"] + phases / targets, (1 + flops.TRAINING) * passes / options["chunk"], forward, passes
        )
    return None


def rows(tree: dict, head: header.Header, record: dict, growth: dict) -> list[Row]:
    """A row for each node of the rehearsal `record`, and one for `certify` of each causal run. `tree`: the published params.yaml."""
    cost, net = describe.describe(tree), describe.network(tree)
    targets, window = accounting.VAL_TOKENS[tree["prepare"]["fineweb"]["variant"]] - 1, tree["plain_score"]["window"]
    passes = kernels(net, window)
    measured = {node["node"]: node["cpu_seconds"] for node in record["nodes"]}
    scored = seconds(targets * flops.forward(net, length=window), 0)
    calibrated = seconds(tree["calibrate"]["sequences"] * tree["calibrate"]["sequence_length"] * 2 * cost.flops, 0)
    published = head.published[0].train_seconds or 600.0
    shards = 1e8 * tree["prepare"]["fineweb"]["train_shards"] + targets
    text = accounting.VAL_BYTES / 1e6
    known = {
        "prepare": _both(growth["prepare"]["seconds"] * shards / 1e6),
        "text_compressors": _both(growth["text_compressors"]["seconds"] * text),
        "train": (GPUS * published, published),
        "calibrate": (calibrated, calibrated / GPUS),
        "plain_score": _both(scored + _reading(growth, targets)),
    }
    out = []
    for node, spent in measured.items():
        name, _, variant = node.partition("@")
        found = known.get(name, _both(spent))
        if name in ("evaluate", "audit"):
            run, take = tree["evaluate"]["runs"][variant], _evaluated if name == "evaluate" else _audited
            found = take(run, tree, cost, passes, targets, record, growth)
        out.append(Row(node, *found))
    for name, run in tree["evaluate"]["runs"].items():
        if "causal" not in plugin.load("evaluators", run["evaluator"]).CLAIMS:
            continue  # no decoder could follow it
        spent = work(run, tree, cost, passes, targets)
        learning = spent.seconds if spent and _carries(run) else 0
        out.append(Row(f"certify@{name}", *_both(None if spent is None else 2 * targets * (spent.row_seconds + learning))))
    return out


def _both(value: float | None) -> tuple[float | None, float | None]:
    """What takes as long on eight GPUs as on one."""
    return value, value


def _carries(run: dict) -> bool:
    return getattr(plugin.load("evaluators", run["evaluator"]).Evaluator, "carries", True)


def _reading(growth: dict, targets: int) -> float:
    """Seconds to open val with its sidecar and to write and read a ledger."""
    return growth["ledger"]["seconds"] * targets / 1e6


def _evaluated(run: dict, tree: dict, cost, passes: int, targets: int, record: dict, growth: dict) -> tuple[float | None, float | None]:
    found = work(run, tree, cost, passes, targets)
    if found is None:
        return None, None
    around = record["decode_seconds"] + _reading(growth, targets)
    scoring = targets * found.seconds + growth["harness"]["seconds"] * targets / 1e6
    return scoring + around, scoring / (1 if _carries(run) else GPUS) + around


def _audited(run: dict, tree: dict, cost, passes: int, targets: int, record: dict, growth: dict) -> tuple[float | None, float | None]:
    """Replays of val and of holdout and the round trip on the network, and the checks that read val and train on a core."""
    found = work(run, tree, cost, passes, targets)
    if found is None:
        return None, None
    audit, carries, options = tree["audit"], _carries(run), run["options"]
    chunk = options["batch"] * options["stride"] if "batch" in options else options.get("chunk", options["window"])
    whole = WHOLE_POSITIONS * chunk + (WHOLE_REACH if carries else 0)
    reach = min(audit["replay_reach"] or targets, targets) if carries else 0
    other = HOLDOUT_TARGETS if carries else audit["memorization_tokens"]  # claimed, and walked through once more if anything is carried
    tokens = whole + reach + other * (2 if carries else 1)
    replayed = (2 * audit["round_trip"] + 2 * audit["replayed"]) * found.row_seconds + tokens * found.seconds
    reading = (
        growth["overlap"]["seconds"] * 2 * audit["overlap_tokens"] / 1e6
        + growth["trigrams"]["seconds"] * 20
        + growth["byte_count"]["seconds"] * targets / 1e6
        + growth["push"]["seconds"] * targets / 1e6
    )
    return _both(replayed + reading + record["decode_seconds"] + _reading(growth, targets))
