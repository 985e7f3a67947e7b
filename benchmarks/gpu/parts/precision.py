"""The number formats of a half-precision training step are those of stages/train/numerics.py, for every recipe.

Each stack trains some steps from the same weights in bfloat16 and in float32, with small sizes and without the compiler; the two losses
must stay close. They differ by the rounding of every product, not by a constant, so the tolerance is a coarse one.
"""

import torch

from benchmarks.gpu import training, trees
from benchmarks.gpu.context import Context
from stages.lib.tokens.loader import Batch
from stages.recipes import catalog
from stages.train import loop, numerics

FIRST = ("pr1855", "naive")
STEPS, TOLERANCE = 8, 0.05  # nats
HALF, FULL = {torch.bfloat16}, {torch.float32}


def measure(context: Context) -> None:
    for name in FIRST if context.is_small else [*FIRST, *(name for name in catalog.stacks() if name not in FIRST)]:
        with context.attempt(name):
            losses = {precision: trained(name, precision, context) for precision in ("bf16", "fp32")}
            found = abs(losses["bf16"] - losses["fp32"])
            context.note(f"{name}: bf16 against fp32 after {STEPS} steps", found, "nats", goal=f"{TOLERANCE:g}", holds=found <= TOLERANCE)


def trained(name: str, precision: str, context: Context) -> float:
    """The loss after STEPS steps, in nats."""
    tree = trees.of(name, context.device, small=True, more={"train.precision": precision, "train.compile": "never"})
    with training.started(tree) as (run, loader):
        for step in range(STEPS):
            nats = loss_of(run, loader.batch(step).to(context.device), precision)
            run.model.zero_grad(set_to_none=True)
            nats.backward()
            run.optimizers.step(scale=1.0, momentum=0.95, taper=1.0)
            run.averages.update(step + 1, 1.0)
        if precision == "bf16":
            wrong = deviations(run)
            context.note(f"{name}: tensors with another type than the policy's", ", ".join(wrong) or 0, goal="0", holds=not wrong)
        return loss_of(run, loader.batch(STEPS).to(context.device), precision).item()


def loss_of(run: loop.Run, batch: Batch, precision: str) -> torch.Tensor:
    with numerics.cast_at_use(precision, batch.inputs.device.type):
        return run.loss(batch.inputs, batch.targets, batch.cu_seqlens, batch.max_seqlen)


def deviations(run: loop.Run) -> list[str]:
    """Names of parameters, gradients, moments, averages and results of a step whose type is not that of the policy."""
    tables = {id(table.weight) for table in numerics.tables(run.model)}
    types = {}
    for name, weight in run.model.named_parameters():
        types[name] = HALF if id(weight) in tables else FULL
    found = {name: (weight, types[name]) for name, weight in run.model.named_parameters()}
    found |= {f"gradient of {name}": (weight.grad, types[name]) for name, weight in run.model.named_parameters() if weight.grad is not None}
    for slot, tensor in run.optimizers.state().items():
        if tensor.ndim:  # a count of steps has no dimensions
            found[slot] = (tensor, types[slot.rpartition("/")[0]])
    found |= {f"average {name}": (tensor, FULL) for name, tensor in run.averages.state().items()}
    device = next(run.model.parameters()).device
    with torch.no_grad(), numerics.cast_at_use("bf16", device.type):
        ids = torch.full((1, 8), 5, device=device)
        hidden = run.model.hidden(ids)
        found |= {"stream": (hidden, HALF), "logits": (run.model.uncapped(hidden), HALF), "loss": (run.loss(ids, ids), FULL)}
    return [name for name, (tensor, wanted) in found.items() if tensor.dtype not in wanted]
