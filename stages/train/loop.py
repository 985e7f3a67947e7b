"""The training loop. It takes and returns tensors and small dataclasses; it writes files only through the checkpoint folder.

Per step: learning-rate scale, recurrence and rounding for this share of the budget -> forward and backward -> optimizers (gradients
averaged over processes, clipped, applied) -> running averages. The budget is in steps, or in seconds of training.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from stages.lib.node import launch
from stages.lib.node.launch import World
from stages.lib.tokens import window_score
from stages.lib.tokens.loader import Batch
from stages.lib.tokens.splits import Split
from stages.lib.tokens.stream import Stream
from stages.lib.training import flops, schedule
from stages.lib.training.averages import Averages
from stages.runtime.network import gpt
from stages.runtime.network.attention import Rotary
from stages.train import checkpoints, loss, numerics
from stages.train.kernels import softcap_cross_entropy
from stages.train.optimizers import Optimizers
from stages.train.prefetch import Prefetcher
from stages.train.qat import Rounding
from stages.train.settings import TrainSettings
from stages.train.techniques import Moment

GRAPHS = 64  # compiled graphs at most: packed rows have varying numbers of segments (#1855 has the same limit)
PRIMED_LENGTHS = 4  # lengths of cu_seqlens that priming compiles: up to eight times the fewest possible segments
# auto compiles from so many FLOPs of training on: what an H100 does in about 25 s, while each compiled graph takes about as long
WORTH_COMPILING = 1e16
DIVERGED_STEPS = 20
ADVICE = (
    "lower train.matrix_learning_rate or train.embedding_learning_rate, or set train.gradient_clip; checkpoints that were made "
    "before are in scratch/train"
)
PACE_STEPS = 50  # number of last steps from which the progress bar's speed is computed
HOLDOUT_TARGETS = 32_768  # targets per point of the curve: enough to see the trend, and fast enough


@dataclass(frozen=True)
class Hardware:
    """What is needed to tell how well the hardware is used: FLOPs of training per token, before and after the recurrence starts, and FLOPs
    per second of matrix products, summed over all processes."""

    plain: int
    looped: int
    matmul_rate: float

    def per_token(self, *, looping: bool) -> int:
        return self.looped if looping else self.plain


@dataclass
class Run:
    """The state of a training: everything that a checkpoint must hold."""

    model: gpt.GPT
    optimizers: Optimizers
    averages: Averages
    rounding: Rounding
    loss: Callable[..., Tensor]  # from loss.py, compiled if that was chosen
    hardware: Hardware
    step: int = 0
    seconds: float = 0.0
    flops: int = 0
    curve: list[dict] = field(default_factory=list)
    times: list[tuple[int, float]] = field(default_factory=list)  # (step, seconds of training after it)
    events: list[int] = field(default_factory=list)  # steps before which something switched on

    def weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.model.named_parameters()}


def start(model: gpt.GPT, settings: TrainSettings, world: World, tokens: Stream | None = None) -> Run:
    """The state of a new run. With the train text, techniques may change the initial weights, and the time for it counts as training."""
    optimizers, took = Optimizers(model, settings, world), 0.0
    if tokens is not None and settings.techniques:
        began = time.perf_counter()
        optimizers.each("initialise", tokens)
        took = time.perf_counter() - began
    return Run(
        model,
        optimizers,
        Averages(model, settings.averages),
        Rounding(model, settings.qat),
        loss_of(model, settings, world),
        hardware_of(model, settings, world),
        seconds=took,
    )


def hardware_of(model: gpt.GPT, settings: TrainSettings, world: World) -> Hardware:
    """Measure the speed of matrix products (a fifth of a second), and count FLOPs by running the network without values."""
    counts = []
    for fraction in (0.0, 1.0):
        with torch.device("meta"):
            net = gpt.GPT(model.config)
        net.progress(step=0 if fraction == 0 else math.inf, fraction=fraction)
        counts.append(flops.training(net, length=settings.sequence_length))
    half = numerics.resolve(settings.precision, world.device.type) == "bf16"
    return Hardware(*counts, world.size * launch.matmul_rate(world.device, torch.bfloat16 if half else torch.float32))


def programs(settings: TrainSettings, device: str, model: gpt.GPT) -> dict[str, bool]:
    """Whether the loss is compiled and whether it is fused, on a device of type cpu or cuda: as `settings` say, or the fastest choice for
    auto. ValueError for a choice that cannot run here."""
    training = 6 * sum(weight.numel() for weight in model.parameters()) * settings.batch_tokens * settings.steps  # FLOPs, roughly
    can_fuse = device == "cuda" and softcap_cross_entropy.is_available()
    if settings.fused_loss == "always" and not can_fuse:
        raise ValueError("train.fused_loss is always, but it needs a GPU and the package triton; set it to auto or never")
    return {
        "compiled": settings.compile == "always" or (settings.compile == "auto" and device == "cuda" and training >= WORTH_COMPILING),
        "fused_loss": settings.fused_loss != "never" and can_fuse,
    }


def loss_of(model: gpt.GPT, settings: TrainSettings, world: World) -> Callable[..., Tensor]:
    """The loss by the chosen programs. If compiled, it is one graph for each shape and each state of recurrence and rounding. Priming
    compiles them before the clock starts."""
    chosen = programs(settings, world.device.type, model)
    of = loss.of(model, softcap_cross_entropy.fused if chosen["fused_loss"] else softcap_cross_entropy.plain)
    if not chosen["compiled"]:
        return of
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())  # makes the compiler deterministic too
    torch._dynamo.config.recompile_limit = GRAPHS
    fast, rotations = torch.compile(of, dynamic=False, fullgraph=True), [part for part in model.modules() if isinstance(part, Rotary)]

    def compiled(tokens_BT: Tensor, *rest) -> Tensor:
        for rotary in rotations:  # a graph that fills the cache of angles itself does not fit the second call
            rotary.angles(tokens_BT.size(1), tokens_BT.size(1), tokens_BT.device)
        return fast(tokens_BT, *rest)

    return compiled


def clock_of(settings: TrainSettings) -> schedule.Clock:
    return schedule.Clock(steps=settings.steps, seconds=settings.seconds, reserve_seconds=settings.reserve_seconds, knots=settings.clock)


def train(
    run: Run,
    batches: Prefetcher,
    holdout: Split,
    settings: TrainSettings,
    *,
    world: World,
    precision: str,
    folder: checkpoints.Folder,
    seen: Callable[[dict], None] | None = None,
) -> None:
    """Train `run` to the end of its budget, in place. `seen` gets each row of the curve. ValueError if the loss becomes NaN or infinite."""
    model, clock = run.model, clock_of(settings)
    if run.step == 0:
        prime(run, batches, settings, world=world, precision=precision)
        _snapshot(run, settings, world, folder)
    saved = run.seconds
    bar = tqdm(total=settings.steps, initial=run.step, desc="train", unit=" steps", disable=not world.is_main, mininterval=1.0)
    started, pace = time.perf_counter(), deque([(run.step, run.seconds)], maxlen=PACE_STEPS)
    while not clock.is_over(run.step, run.seconds):
        spent = clock.spent(run.step, run.seconds)
        moment = _prepare(run, batches, settings, clock)
        value = _step(run, batches.parts(run.step), moment, world, precision)
        run.step += 1
        per_token = run.hardware.per_token(looping=_loops(run))
        run.flops += batches.batch_tokens * per_token
        ended = time.perf_counter()
        nats, run.seconds = _arrived(value, run.seconds + ended - started, world)
        run.times.append((run.step, run.seconds))
        last, waited = clock.is_over(run.step, run.seconds), time.perf_counter() - ended
        run.seconds += waited * last  # no step follows for which it could count
        _check(run, nats)
        row = {"step": run.step, "train_loss": nats, "learning_rate_scale": moment.matrices, "holdout_bits_per_byte": None}
        if last or run.step % settings.holdout_every == 0:
            with numerics.cast_at_use(precision, world.device.type):
                row["holdout_bits_per_byte"] = window_score.chunked(
                    model, holdout, window=settings.sequence_length, max_targets=HOLDOUT_TARGETS
                ).bits_per_byte
        run.curve.append(row)
        if seen:
            seen(row)
        pace.append((run.step, run.seconds))
        speed = (pace[-1][0] - pace[0][0]) * batches.batch_tokens / max(pace[-1][1] - pace[0][1], 1e-9)
        bar.set_postfix(
            loss=f"{nats:.3f}", tokens_per_second=f"{speed:.0f}", mfu=f"{per_token * speed / run.hardware.matmul_rate:.0%}", refresh=False
        )
        bar.update(1)
        if _crosses(spent, clock.spent(run.step, run.seconds), clock.budget, settings.averages.power_snapshots) or last:
            _snapshot(run, settings, world, folder)
        if not last and run.seconds - saved > settings.checkpoint_seconds:
            checkpoint(run, batches, world, folder)
            saved = run.seconds
        started = time.perf_counter() - waited  # measuring and saving do not count as training time
    bar.close()
    recurrence = model.features.get("depth_recurrence")
    if recurrence and not recurrence.looping and world.is_main:
        print(
            f"DEPTH_RECURRENCE NEVER STARTED: {run.step} steps ended before it, and the finished model repeats layers that were not "
            "trained for it; lower model.features.depth_recurrence.start_step or start_fraction",
            file=sys.stderr,
        )
    model.progress()  # the finished model is what its configuration says, whatever state the budget reached


def _check(run: Run, nats: float) -> None:
    """ValueError if the loss is not a number, or if a run is worse than at its start, where it guesses. The spike of the first steps is
    normal. No checkpoint of such a step is kept."""
    if not math.isfinite(nats):
        raise ValueError(f"the training loss is {nats} at step {run.step}; {ADVICE}")
    recent = [row["train_loss"] for row in run.curve[-DIVERGED_STEPS + 1 :]]
    if run.step >= 5 * DIVERGED_STEPS and (sum(recent) + nats) / DIVERGED_STEPS > run.curve[0]["train_loss"] + 1:
        raise ValueError(
            f"the training loss has been {nats:.2f} nats and the like for {DIVERGED_STEPS} steps at step {run.step}, it began "
            f"with {run.curve[0]['train_loss']:.2f}: the training has diverged; {ADVICE}"
        )


def _prepare(run: Run, batches: Prefetcher, settings: TrainSettings, clock: schedule.Clock) -> Moment:
    """Everything that depends on the share of the budget, before a step."""
    spent, budget = clock.spent(run.step, run.seconds), clock.budget
    if settings.schedule == "fraction":
        scale = schedule.fraction_scale(spent / budget, warmdown=settings.warmdown, floor=settings.learning_rate_floor)
    else:
        scale = schedule.iteration_scale(
            clock.pace(run.step, run.seconds), spent=spent, budget=budget, warmdown=settings.warmdown, floor=settings.learning_rate_floor
        )
    before = _switches(run, batches)
    run.model.progress(step=run.step, fraction=spent / budget)
    moment = moment_of(run, settings, scale, spent / budget)
    run.rounding.progress(run.step, moment.matrices)
    warmup = batches.progress(run.step, spent / budget)
    moment.matrices, moment.others = moment.matrices * warmup, moment.others * warmup
    if run.step and _switches(run, batches) != before:
        run.events.append(run.step)
    return moment


def moment_of(run: Run, settings: TrainSettings, scale: float, fraction: float) -> Moment:
    """The rates of the next step: those of the schedule, as the techniques change them."""
    muon = settings.muon
    momentum = schedule.momentum(run.step, start=muon.momentum_start, end=muon.momentum, warmup_steps=muon.momentum_warmup_steps)
    taper = schedule.decay_taper(fraction, start=settings.weight_decay_taper_start, floor=settings.weight_decay_taper_floor)
    moment = Moment(run.step, fraction, scale, scale, momentum, taper, _loops(run))
    run.optimizers.each("plan", moment)
    return moment


def _switches(run: Run, batches: Prefetcher) -> tuple:
    return _loops(run), run.rounding.started_at, batches.loader.longest_segment


def _loops(run: Run) -> bool:
    return "depth_recurrence" in run.model.features and run.model.features["depth_recurrence"].looping


def _crosses(before: float, after: float, budget: float, parts: int) -> bool:
    """Whether a step passed the end of one of `parts` equal parts of the budget."""
    return parts > 0 and int(before / budget * parts) < int(after / budget * parts)


def _arrived(value: Tensor, seconds: float, world: World) -> tuple[float, float]:
    """The loss of a step, and the largest of all processes' clocks: schedule, recurrence and end must come at the same step everywhere, or
    the weights differ. This is the only time that a step waits for a GPU, so `seconds` were read before: the time that the GPU still needs
    counts for the next step, and a run of seconds ends up to one step later."""
    if world.size == 1:
        return value.item(), seconds
    clock = torch.full((), seconds, dtype=torch.float64, device=world.device)
    dist.all_reduce(clock, dist.ReduceOp.MAX)
    nats, seconds = torch.stack((value.double(), clock)).tolist()
    return nats, seconds


def _step(run: Run, parts: list[Batch], moment: Moment, world: World, precision: str) -> Tensor:
    """One step from the parts of this process's rows. Returns the mean loss of all processes, on the device."""
    run.model.zero_grad(set_to_none=True)
    value, each = torch.zeros((), device=world.device), run.optimizers.each
    each("look_ahead", moment)
    for number, part in enumerate(parts):
        each("begin_part", moment, number, len(part.inputs))
        with numerics.cast_at_use(precision, world.device.type), run.rounding.active():
            nats = run.loss(part.inputs, part.targets, part.cu_seqlens, part.max_seqlen) / len(parts)
        nats.backward()
        value += nats.detach()
    each("end_parts")
    if world.size > 1:
        dist.all_reduce(value)
        value /= world.size
    run.optimizers.step(scale=moment.matrices, others=moment.others, momentum=moment.momentum, taper=moment.decay)
    each("stepped", moment)
    run.averages.update(run.step + 1, moment.matrices)
    return value


def prime(run: Run, batches: Prefetcher, settings: TrainSettings, *, world: World, precision: str) -> None:
    """Run full steps without lasting effect, so that compiling and allocating take no training time: `priming_steps` for each state of
    context, recurrence and rounding, and of packed rows one more for each of PRIMED_LENGTHS lengths of cu_seqlens. Weights and loader are
    restored, optimizers and averages created anew. Only before the first step."""
    if not settings.priming_steps:
        return
    before, place = {name: weight.clone() for name, weight in run.weights().items()}, batches.position()
    recurrence, primed = run.model.features.get("depth_recurrence"), []
    for fraction in sorted({0.0, *batches.loader.changes, *((recurrence.start_fraction, 1.0) if recurrence else ())}):
        run.model.progress(step=0 if fraction == 0 else sys.maxsize, fraction=fraction)
        batches.progress(0, fraction)
        if (state := (_loops(run), batches.loader.longest_segment)) in primed:
            continue
        primed.append(state)
        for started_at in (None, 0) if run.rounding.layers else (None,):
            run.rounding.started_at = started_at
            for _ in range(settings.priming_steps):
                parts = batches.parts(run.step)
                _step(run, parts, moment_of(run, settings, 1.0, fraction), world, precision)
                run.step += 1
            for doublings in range(PRIMED_LENGTHS if parts[0].cu_seqlens is not None else 0):
                _step(run, [parts[0].evenly_cut(doublings)], moment_of(run, settings, 1.0, fraction), world, precision)
    for name, weight in run.weights().items():
        weight.copy_(before[name])
    batches.go_to(place)
    run.optimizers, run.averages = Optimizers(run.model, settings, world), Averages(run.model, settings.averages)
    run.step, run.rounding.started_at = 0, None


def _snapshot(run: Run, settings: TrainSettings, world: World, folder: checkpoints.Folder) -> None:
    if world.is_main and settings.averages.power and settings.averages.power_snapshots:
        folder.save_snapshot(run.step, run.averages.power_averages(), half=numerics.half(run.model))


def checkpoint(run: Run, batches: Prefetcher, world: World, folder: checkpoints.Folder) -> None:
    """Save everything. With several processes this is a collective: all must call it."""
    tensors = state(run)
    if world.is_main:
        folder.save(run.step, tensors, facts_of(run, batches))


def state(run: Run) -> dict[str, Tensor]:
    """Every tensor of the run under a flat name. `restore` takes these tensors and `facts_of`."""
    out = {f"model/{name}": weight for name, weight in run.weights().items()}
    out |= {f"optimizer/{name}": tensor for name, tensor in run.optimizers.state().items()}
    return out | {f"average/{name}": tensor for name, tensor in run.averages.state().items()}


def facts_of(run: Run, batches: Prefetcher) -> dict:
    return {
        "step": run.step,
        "seconds": run.seconds,
        "flops": run.flops,
        "curve": run.curve,
        "times": run.times,
        "events": run.events,
        "loader": batches.position(),
        "averages": run.averages.facts(),
        "rounding": run.rounding.started_at,
        "looping": _loops(run),
    }


@torch.no_grad()
def restore(run: Run, batches: Prefetcher, saved: dict[str, Tensor], facts: dict) -> None:
    """Continue from a checkpoint. `run` and `batches` become what they were after `facts["step"]` steps, bit for bit."""
    batches.go_to(facts["loader"])
    kinds: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
    for key, tensor in saved.items():
        kind, name = key.split("/", 1)
        kinds[kind][name] = tensor
    for name, weight in run.model.named_parameters():
        weight.copy_(kinds["model"][name])
    run.optimizers.restore(kinds["optimizer"])
    run.averages.restore(kinds["average"], facts["averages"])
    run.rounding.started_at = facts["rounding"]
    if "depth_recurrence" in run.model.features:  # a newly built model has it on, but `events` needs the true state
        run.model.features["depth_recurrence"].looping = facts["looping"]
    run.step, run.seconds, run.flops, run.curve = facts["step"], facts["seconds"], facts["flops"], list(facts["curve"])
    run.times, run.events = [tuple(pair) for pair in facts["times"]], list(facts["events"])
