"""Read the numbers in a training log of the contest, in every spelling that its scripts print.

    passes     `<name> val_loss:2.05 val_bpb:1.21 [eval_time:67952ms]`, in the order of the log; each `exact` line belongs to its pass
    tokens     `val_tokens: 62021632`, or `tokens:62021632` on the line of the val loader
    seconds    `stopping_early: wallclock_cap train_time:599973ms`, `prequant_ttt:done in 494.9s`, `GPTQ:collected 67 Hessians in 2.7s`
    bytes      `Total submission size <codec>: 15787627 bytes` (the last), `Code size: 50051 bytes`

Losses are nats per token, bpb bits per byte. A number that a log does not state is None; nothing is guessed.
"""

import re
from dataclasses import dataclass, field

NUMBER = r"([0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"
PASS = re.compile(rf"^(?P<name>.*?)\s*\bval_loss\s*[:=]\s*{NUMBER}[ ,]+val_bpb\s*[:=]\s*{NUMBER}(?P<rest>.*)$")
STEP = re.compile(r"(^|\s)(step\s*[:=]?\s*)?\d+\s*/\s*\d+\b|epoch")
BEFORE_PACKING = re.compile(r"pre-?quant|post[-_ ]?ema|diagnostic|prequant", re.IGNORECASE)
EVAL_TIME = re.compile(rf"(?:eval_time|elapsed|time)\s*[:=]\s*{NUMBER}\s*(ms|s)\b")
FIELDS = {
    "seed": re.compile(r"^\s*seed\s*[:=]\s*(\d+)"),
    "val_tokens": re.compile(r"val_tokens\s*[:=]\s*(\d+)|val_loader\S*.*\btokens\s*[:=]\s*(\d+)"),
    "train_shards": re.compile(r"train_shards\s*[:=]\s*(\d+)"),
    "world_size": re.compile(r"world_size\s*[:=]\s*(\d+)"),
    # with the codec's name; the line without it has the size before quantization
    "total_bytes": re.compile(r"Total submission size(?!\s*:)[^:]*:\s*([\d,]+)\s*bytes", re.IGNORECASE),
}
CODE = re.compile(r"Code size[^:]*:\s*([\d,]+)\s*bytes", re.IGNORECASE)
TRAIN = re.compile(rf"stopping_early.*train_time\s*[:=]\s*{NUMBER}\s*(ms|s)|^(?:step:)?\d+/\d+ .*train_time\s*[:=]\s*{NUMBER}\s*ms")
ADAPTED = re.compile(rf"pre-?quant\w*\s*:\s*(?:done|complete)\w*\s+in\s+{NUMBER}\s*s", re.IGNORECASE)
CALIBRATED = re.compile(rf"(?:GPTQ|gptq|hessian)\S*.*\bin\s+{NUMBER}\s*s\b", re.IGNORECASE)
RESERVED = re.compile(rf"reserv\w*\s+{NUMBER}\s*s?.*effective|gptq_reserve_seconds\s*[:=]\s*{NUMBER}", re.IGNORECASE)
TOTAL_EVAL = re.compile(rf"total_eval_time\s*[:=]\s*{NUMBER}\s*s")
GPU = re.compile(r"(?:NVIDIA\s+|\b|x)((?:[AHBLTV]|GB|GH)\d{1,3}S?|RTX ?\w*\d{4})\b")  # a letter and digits: H100, A100, L40S; 8xH100


@dataclass(frozen=True)
class Pass:
    """One scoring of the validation split. `digits`: decimals of the two numbers; `packed`: whether the artifact was written before it."""

    name: str
    loss_nats: float
    bits_per_byte: float
    loss_digits: int
    bits_digits: int
    seconds: float | None
    packed: bool


@dataclass
class Log:
    """The numbers of one log; `file` is its name in the folder."""

    file: str
    seed: int | None = None
    val_tokens: int | None = None
    train_shards: int | None = None
    world_size: int | None = None
    total_bytes: int | None = None
    code_bytes: list[int] = field(default_factory=list)
    train_seconds: float | None = None
    adapted_seconds: float | None = None
    calibrated_seconds: float | None = None
    reserved_seconds: float | None = None
    total_eval_seconds: float | None = None
    gpus: set[str] = field(default_factory=set)
    passes: list[Pass] = field(default_factory=list)

    @property
    def score(self) -> Pass | None:
        """The last pass over the packed artifact, or else the last pass that is not a diagnostic."""
        for candidates in ([run for run in self.passes if run.packed], self.passes):
            final = [run for run in candidates if not BEFORE_PACKING.search(run.name)]
            if final:
                return final[-1]
        return None

    @property
    def making_seconds(self) -> float | None:
        """Seconds for making the artifact: training, adaptation before quantization, calibration."""
        if self.train_seconds is None:
            return None
        return self.train_seconds + (self.adapted_seconds or 0.0) + (self.calibrated_seconds or 0.0)

    @property
    def eval_seconds(self) -> float | None:
        """Seconds of all passes over the packed artifact together; None if no pass states its time."""
        times = [run.seconds for run in self.passes if run.packed and run.seconds is not None]
        return sum(times) if times else self.total_eval_seconds

    @property
    def score_seconds(self) -> float | None:
        """Seconds of the pass that gave the score, or the total that the log states if it is longer."""
        own = self.score.seconds if self.score else None
        stated = [seconds for seconds in (own, self.total_eval_seconds) if seconds is not None]
        return max(stated) if stated else None


def parse(file: str, text: str) -> Log:
    """Read one log. Some logs begin with source code, which is skipped because its lines are format strings, not numbers."""
    log, packed = Log(file), False
    for line in text.splitlines():
        if len(line) > 2000 or "{" in line:
            continue
        for name, pattern in FIELDS.items():
            if found := pattern.search(line):
                setattr(log, name, _whole(next(group for group in found.groups() if group)))
                packed |= name == "total_bytes"
        if found := CODE.search(line):
            log.code_bytes.append(_whole(found[1]))
        _times(log, line)
        log.gpus |= set(GPU.findall(line)) if "NVIDIA" in line or "x" in line else set()
        if (found := PASS.match(line)) and not STEP.search(found["name"]):
            _add(log, found, packed)
    if log.seed is None and (found := re.search(r"seed[_-]?(\d+)|[_-]s(\d+)\b", file)):
        log.seed = int(found[1] or found[2])
    return log


def _times(log: Log, line: str) -> None:
    if found := TRAIN.search(line):
        log.train_seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found[1] else float(found[3]) / 1000
    for name, pattern in (
        ("adapted_seconds", ADAPTED),
        ("calibrated_seconds", CALIBRATED),
        ("total_eval_seconds", TOTAL_EVAL),
        ("reserved_seconds", RESERVED),
    ):
        if found := pattern.search(line):
            setattr(log, name, float(next(group for group in found.groups() if group)))


def _add(log: Log, found: re.Match, packed: bool) -> None:
    """Append a pass; an `exact` line instead gives its digits to the pass that it repeats."""
    name = found["name"].strip(" :,-").split("] ")[-1]
    loss, bits = found[2], found[3]
    timed = EVAL_TIME.search(found["rest"])
    seconds = float(timed[1]) / (1000 if timed[2] == "ms" else 1) if timed else None
    run = Pass(name, float(loss), float(bits), _digits(loss), _digits(bits), seconds, packed)
    last = log.passes[-1] if log.passes else None
    if (
        last
        and abs(last.bits_per_byte - run.bits_per_byte) <= 0.5 * 10.0 ** -min(last.bits_digits, run.bits_digits)
        and (name.startswith(last.name) or last.seconds is None or seconds is None)
    ):
        seconds = last.seconds if seconds is None else seconds
        sharper = run if run.bits_digits >= last.bits_digits else last
        log.passes[-1] = Pass(
            last.name, sharper.loss_nats, sharper.bits_per_byte, sharper.loss_digits, sharper.bits_digits, seconds, last.packed
        )
    else:
        log.passes.append(run)


def _digits(number: str) -> int:
    return len(number.partition(".")[2])


def _whole(number: str) -> int:
    return int(number.replace(",", ""))
