"""The training loop: tensors and small dataclasses in, tensors and a curve out; files only through the checkpoint folder.

Per step: scale the learning rates -> forward and backward -> average gradients over processes -> clip -> Muon and AdamW ->
running averages. The budget is in steps, or in seconds of training.
"""

import sys
import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from stages.lib import checkpoints, launch, scoring
from stages.lib.averages import Averages
from stages.lib.data.loaders import base
from stages.lib.data.tokens import Split
from stages.lib.optim.muon import Muon
from stages.runtime.model import gpt
from stages.train import schedule

HOLDOUT_TARGETS = 32_768  # of the curve: enough to see the trend, cheap enough not to slow the run


@dataclass(frozen=True)
class Optimization:
    """What the loop needs of the `train` section; see params.yaml for units and sources."""

    steps: int
    seconds: float | None
    sequence_length: int
    matrix_learning_rate: float
    embedding_learning_rate: float
    scalar_learning_rate: float
    weight_decay: float
    momentum: float
    momentum_start: float
    momentum_warmup_steps: int
    warmdown: float
    learning_rate_floor: float
    gradient_clip: float
    holdout_every: int
    checkpoint_seconds: float


@dataclass
class Run:
    """State of a training: everything that a checkpoint must hold."""

    model: gpt.GPT
    optimizers: list[torch.optim.Optimizer]
    averages: Averages
    step: int = 0
    seconds: float = 0.0
    curve: list[dict] = field(default_factory=list)

    def weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.model.named_parameters()}


def start(model: gpt.GPT, settings: Optimization, decays: tuple[float, ...]) -> Run:
    """A fresh run. Every parameter is in exactly one optimizer group."""
    groups = gpt.groups(model)
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    muon = Muon(groups["matrices"], lr=settings.matrix_learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay)
    adam = torch.optim.AdamW(
        [{"params": groups["tables"], "lr": settings.embedding_learning_rate, "weight_decay": settings.weight_decay},
         {"params": groups["scalars"], "lr": settings.scalar_learning_rate, "weight_decay": 0.0}],
        betas=(0.9, 0.95), eps=1e-8)  # the field's betas
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return Run(model, [muon, adam], Averages(model, decays))


def train(run: Run, batches: base.Loader, holdout: Split, settings: Optimization, *, world: launch.World, autocast: bool,
          folder: checkpoints.Folder | None) -> None:
    """Bring `run` to the end of its budget, in place. Raises ValueError when the loss stops being a number."""
    model, clock, saved = run.model, time.perf_counter(), time.perf_counter()
    bar = tqdm(total=settings.steps, initial=run.step, desc="train", unit=" steps", disable=not world.is_main, mininterval=1.0)
    while not _spent(run, settings):
        fraction = run.step / settings.steps if settings.seconds is None else run.seconds / settings.seconds
        rate = schedule.scale(fraction, warmdown=settings.warmdown, floor=settings.learning_rate_floor)
        model.progress(step=run.step, fraction=fraction)
        loss = _step(run, batches, settings, rate, world, autocast)
        run.step += 1
        run.seconds = _slowest(run.seconds + time.perf_counter() - clock, world)
        clock = time.perf_counter()
        last = _spent(run, settings)
        row = {"step": run.step, "train_loss": loss, "learning_rate_scale": rate, "holdout_bits_per_byte": None}
        if last or run.step % settings.holdout_every == 0:
            row["holdout_bits_per_byte"] = scoring.chunked(
                model, holdout, window=settings.sequence_length, max_targets=HOLDOUT_TARGETS).bits_per_byte
        run.curve.append(row)
        speed = run.step * batches.batch_tokens / run.seconds
        bar.set_postfix(loss=f"{loss:.3f}", tokens_per_second=f"{speed:.0f}", refresh=False)
        bar.update(1)
        if folder and world.is_main and not last and time.perf_counter() - saved > settings.checkpoint_seconds:
            folder.save(run.step, state(run), {"step": run.step, "seconds": run.seconds, "curve": run.curve, "loader": batches.state()})
            saved = time.perf_counter()
        clock = time.perf_counter()  # measuring and saving are not training
    bar.close()
    recurrence = model.features.get("depth_recurrence")
    if recurrence and not recurrence.looping and world.is_main:
        print(f"DEPTH_RECURRENCE NEVER STARTED: {run.step} steps ended before it, and the finished model repeats layers that were not "
              "trained for it; lower model.features.depth_recurrence.start_step or start_fraction", file=sys.stderr)
    model.progress()  # from here on the model is what its configuration says, whatever the budget reached


def _spent(run: Run, settings: Optimization) -> bool:
    return run.step >= settings.steps or (settings.seconds is not None and run.seconds >= settings.seconds)


def _slowest(seconds: float, world: launch.World) -> float:
    """The largest of all processes' clocks: schedule, recurrence and end must come at the same step everywhere, or weights part."""
    if world.size == 1:
        return seconds
    clock = torch.tensor(seconds, dtype=torch.float64, device=world.device)
    dist.all_reduce(clock, dist.ReduceOp.MAX)
    return clock.item()


def _step(run: Run, batches: base.Loader, settings: Optimization, rate: float, world: launch.World, autocast: bool) -> float:
    batch = batches.batch(run.step, rank=world.rank, world_size=world.size).to(world.device)
    with torch.autocast(world.device.type, torch.bfloat16, enabled=autocast):
        logits_BTV = run.model(batch.inputs, batch.cu_seqlens, batch.max_seqlen)
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets.flatten())
    run.model.zero_grad(set_to_none=True)
    loss.backward()
    launch.average_gradients(run.model, world)
    value = loss.detach()
    if world.size > 1:
        dist.all_reduce(value)
        value /= world.size
    if not torch.isfinite(value):
        raise ValueError(f"the training loss is {value.item()} at step {run.step + 1}; lower train.matrix_learning_rate or "
                         "train.embedding_learning_rate, the checkpoint before it is kept in scratch/")
    if settings.gradient_clip > 0:
        nn.utils.clip_grad_norm_(run.model.parameters(), settings.gradient_clip)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
            if "momentum" in group:
                group["momentum"] = schedule.momentum(run.step, start=settings.momentum_start, end=settings.momentum,
                                                      warmup_steps=settings.momentum_warmup_steps)
        optimizer.step()
    run.averages.update()
    return value.item()


def state(run: Run) -> dict[str, Tensor]:
    """Every tensor of the run under a flat name; the inverse of `restore`."""
    out = {f"model/{name}": weight for name, weight in run.weights().items()}
    names = {id(weight): name for name, weight in run.model.named_parameters()}
    for optimizer in run.optimizers:
        for weight, slots in optimizer.state.items():
            out |= {f"optimizer/{names[id(weight)]}/{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    for average, weights in run.averages.tensors.items():
        out |= {f"average/{average}/{name}": weight for name, weight in weights.items()}
    return out


@torch.no_grad()
def restore(run: Run, batches: base.Loader, saved: dict[str, Tensor], facts: dict) -> None:
    """Continue from a checkpoint: `run` and `batches` are as they were after `facts["step"]` steps, bit for bit."""
    batches.restore(facts["loader"])
    parameters = dict(run.model.named_parameters())
    owner = {id(weight): optimizer for optimizer in run.optimizers for group in optimizer.param_groups for weight in group["params"]}
    for key, tensor in saved.items():
        kind, rest = key.split("/", 1)
        if kind == "model":
            parameters[rest].copy_(tensor)
        elif kind == "optimizer":
            name, slot = rest.rsplit("/", 1)
            weight = parameters[name]
            # torch keeps AdamW's step counter on the CPU
            owner[id(weight)].state[weight][slot] = tensor.clone() if slot == "step" else tensor.to(weight.device, copy=True)
        else:
            average, name = rest.split("/", 1)
            run.averages.tensors[average][name].copy_(tensor)
    run.step, run.seconds, run.curve = facts["step"], facts["seconds"], facts["curve"]
