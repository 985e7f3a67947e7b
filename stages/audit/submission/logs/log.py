"""What a log says, each with the number of its line. Nothing is guessed: what a log does not state is None.

passes     lines with bits per byte, with or without a loss; an `exact` line gives its digits to the pass that it repeats
numbers    seed, val_tokens, val_bytes, train_shards, world_size, sizes in bytes
timed      seconds by phase (phases.py)
settings   name: value lines before the first pass, among them what is switched on or off
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from stages.audit.submission.logs import lines as texts
from stages.audit.submission.logs import phases
from stages.audit.submission.logs.lines import CHARACTERS, COUNT, NUMBER, SECONDS, SEED, Line, clean, is_code, read, uncertainty, whole

TELLING = re.compile(
    r"\b[0-3]\.\d{5}|awq|bpb|bits|seed|tokens|bytes|size|shard|world|time|elapsed| in \d|took|GPU|NVIDIA|H100|A100|"
    r"[:=] ?(true|false|\d)|calib|valid|gptq|ttt|nan|files?\b|path",
    re.IGNORECASE,
)
STEP_LINE = re.compile(r"^(?:\[?\w{0,12}\]? ?)?(?:step[: ]*)?\d+/\d+:? train_loss.*?train_time: ?([\d.]{1,15}) ?(ms|s|m)\b", re.IGNORECASE)
BITS = re.compile(rf"([\w./-]*(?:bpb|bits[ _]per[ _]byte))[\"']?\)? ?(?:[:=]|is|of)? ?[\"']?({NUMBER})", re.IGNORECASE)
LOSS = re.compile(rf"([\w./-]*(?:loss|nll)\w*)[\"']?\)? ?[:=]? ?({NUMBER})", re.IGNORECASE)
NO_SCORE = re.compile(
    r"delta|gain|diff|std|target|margin|baseline|record|sota|prev|best_so|train_loss|improve|threshold|expected|running|cum", re.IGNORECASE
)
PROGRESS = re.compile(
    r"(^|[\s\[(])(step[: ]*)?\d+ ?/ ?\d+\b|epoch|\d+(\.\d+)?%|^ttp|chunk[ _]?\d|batch[ _]?\d|seed[ =:]\d+.*mean|\bmean\b|average",
    re.IGNORECASE,
)
DIAGNOSTIC = re.compile(r"pre-?_?quant|post[-_ ]?ema|diagnostic|before|unquantized|raw_model|bf16|fp32|float|\bema\b|swa", re.IGNORECASE)
TOTAL = re.compile(
    rf"((?:total )?(?:submission|artifact|package)(?:[ _]total)?[ _]?(?:size|bytes)?)([^:=]{{0,60}})[:=] ?({COUNT}) ?(?:bytes|B)?\b",
    re.IGNORECASE,
)
MODEL = re.compile(
    rf"(?:serialized model|model|blob|compressed model|weights)[ _]?(?:size|bytes)?([^:=]{{0,60}})[:=] ?({COUNT}) ?(?:bytes|B)\b",
    re.IGNORECASE,
)
CODE = re.compile(rf"code[ _]?(?:size|bytes)?[^:=\d]{{0,60}}[:=] ?({COUNT}) ?(?:bytes|B)?\b", re.IGNORECASE)
CODECS = re.compile(r"brotli|lzma|zlib|zstd|lrzip|zpaq|int\d|quant|compress|packed|\bxz\b|bz2|ans\b|final", re.IGNORECASE)
VAL_TOKENS = re.compile(
    rf"(?:val(?:idation)?|eval|scored)[ _](?:tokens|targets)[\"']? ?[:=] ?({COUNT})|val_loader\S*.*?\btokens ?[:=] ?({COUNT})",
    re.IGNORECASE,
)
VAL_BYTES = re.compile(rf"(?:val(?:idation)?|scored|eval|total_val)[ _](?:utf-?8[ _])?bytes[\"']? ?[:=] ?({COUNT})", re.IGNORECASE)
LISTED_SEED = re.compile(r"[{ ,][\"']seed[\"'] ?: ?(\d{1,12})\b", re.IGNORECASE)  # in a table of settings, which may have several
GPU = re.compile(r"(?:NVIDIA\s+|\b|x)((?:[AHBLTV]|GB|GH)\d{2,3}S?|RTX ?\w*\d{4})\b")
COUNT_OF_GPUS = re.compile(r"\b(\d{1,3}) ?(?:x|×|\*) ?(?:NVIDIA )?[AHBLTV]\d{2,3}", re.IGNORECASE)
SHARDS = re.compile(rf"(?:train_)?shards ?[:=] ?({COUNT})", re.IGNORECASE)
TRAIN_DATA = re.compile(
    r"train[_ ](?:files?|data|path|glob|loader\S*|shards?)\S* ?[:=]? ?.*(fineweb_val\S*|\S*[/_]val[/_]\S*)", re.IGNORECASE
)
VAL_CALIBRATION = re.compile(
    r"(calib|hessian|gptq|awq).*\b(val|validation)([-_ ]?(data|tokens|set|split))\b|\b(val|"
    r"validation)[-_ ](data|tokens|set|split)\b.*(calib|hessian|gptq|awq)",
    re.IGNORECASE,
)
NEGATED = re.compile(r"\b(no|not|without|never|disabled|skip\w*|false|off)\b", re.IGNORECASE)
SETTING = re.compile(r"^\W{0,4}(\w[\w.]{1,60}) ?[:=] ?(\S{1,120})$")
MAX_PASSES, MAX_FIGURES, MAX_RUNS = 2_000, 20_000, 64
FIGURE = re.compile(r"(?<![\w.])[0-3]\.\d{3,12}(?![\d.])")
REVERSED = re.compile(r"(?<![\w.])(\d\.\d{2,12}) ?(?:val_)?(bpb|bits[ /_]?per[ /_]?byte|bits/byte)\b", re.IGNORECASE)
TIMED = re.compile(
    r"(\w*(?:eval_?time|eval_seconds|elapsed)\w*)[\"']? ?[:=] ?(\d{1,12}(?:\.\d{1,12})?) ?(ms|s|sec|seconds|m|min)?\b", re.IGNORECASE
)
OTHER_TIMES = re.compile(r"\w*(train|step|avg|total|wall|since|budget|limit)\w* ?[:=] ?\d[\d.]* ?(ms|s)\b", re.IGNORECASE)
LARGEST = 20_000_000  # bytes of a packed artifact, by far; a model that is not packed is larger


@dataclass(frozen=True)
class Pass:
    """One scoring of the validation split. `loss_slack`, `bits_slack`: half of the last digit. `packed`: after the artifact."""

    name: str
    loss_nats: float | None
    bits_per_byte: float
    loss_slack: float
    bits_slack: float
    seconds: float | None
    packed: bool
    line: int

    @property
    def is_number(self) -> bool:
        return math.isfinite(self.bits_per_byte) and self.bits_per_byte > 0


@dataclass
class Log:
    """The numbers of one log; `file` is its name in the folder, `lines` the line of each number."""

    file: str
    seed: int | None = None
    file_seed: int | None = None
    val_tokens: int | None = None
    val_bytes: int | None = None
    train_shards: int | None = None
    world_size: int | None = None
    total_bytes: int | None = None
    totals: list[int] = field(default_factory=list)  # all sizes that are stated; total_bytes is the last
    model_bytes: int | None = None
    raw_total_bytes: int | None = None
    code_bytes: list[int] = field(default_factory=list)
    total_eval_seconds: float | None = None
    sequence_length: int | None = None
    gpus: set[str] = field(default_factory=set)
    passes: list[Pass] = field(default_factory=list)
    timed: list[phases.Timed] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    setting_lines: dict[str, int] = field(default_factory=dict)
    figures: list[tuple[float, int]] = field(default_factory=list)  # every number that could be a score, with its line
    statements: list[tuple[str, int, str]] = field(default_factory=list)  # (kind, line, the line itself)
    lines: dict[str, int] = field(default_factory=dict)
    left_out: int = 0  # lines that were not read
    characters: int = 0  # of the lines that were read

    def following(self) -> "Log":
        """The log of the next run in the same file, with what may have been said before its seed was announced."""
        names = ("val_tokens", "val_bytes", "train_shards", "world_size", "sequence_length")
        lines = {name: self.lines[name] for name in names if name in self.lines}
        return Log(self.file, **{name: getattr(self, name) for name in names}, gpus=set(self.gpus), lines=lines)

    @property
    def score(self) -> Pass | None:
        """The last pass over the packed artifact, or else the last pass that is not a diagnostic."""
        for candidates in ([run for run in self.passes if run.packed], self.passes):
            final = [run for run in candidates if not DIAGNOSTIC.search(run.name)]
            if final:
                return final[-1]
        return None

    @property
    def seconds(self) -> dict[str, tuple[float, list[int]]]:
        """Seconds and lines of each phase."""
        return phases.totals(self.timed)

    def of(self, phase: str) -> float | None:
        found = self.seconds.get(phase)
        return found[0] if found else None

    @property
    def making_seconds(self) -> float | None:
        """Seconds for making the artifact: training, adaptation before quantization, calibration on data."""
        if self.of(phases.TRAINING) is None:
            return None
        return sum(self.of(phase) or 0.0 for phase in (phases.TRAINING, phases.ADAPTATION, phases.CALIBRATION))

    @property
    def eval_seconds(self) -> float | None:
        """Seconds of all passes over the packed artifact together; None if no pass states its time."""
        times = [run.seconds for run in self.passes if run.packed and run.seconds is not None]
        return sum(times) if times else self.total_eval_seconds


def parse(file: str, lines: Iterable[tuple[int, str]] | str, *, most: int = 500_000) -> Log:
    """Read one log from its raw lines, or from (number, line) pairs; if it has several runs, the first."""
    return parts(file, lines, most=most)[0]


def parts(file: str, lines: Iterable[tuple[int, str]] | str, *, most: int = 500_000) -> list[Log]:
    """Read the runs of one file. A run begins at a line that announces another seed in the form of the first announcement, once the run
    before has a score. Of lines that say something at most `most` characters are read, the first third and the last two thirds, because the
    score stands at the end; Log.left_out of the first run counts the others."""
    telling, step = texts.Telling(most), None
    steps: dict[int, tuple[int, re.Match] | None] = {}  # line that may announce a seed -> the last step before it
    for number, raw in enumerate(lines.split("\n"), 1) if isinstance(lines, str) else lines:
        if found := STEP_LINE.match(raw[:300]):
            step = number, found
        elif TELLING.search(raw, 0, 2_000):
            if len(steps) < MAX_PASSES and "seed" in raw[:CHARACTERS].lower():
                steps[number] = step
            telling.add(number, raw[:4_096])
    readers, form, begun = [_Reader(Log(file))], None, 0
    for number, raw in telling:
        for part in raw.split("\r")[-3:]:
            text = clean(part)
            if not text or is_code(part, text):
                continue
            if (announced := texts.announcement(text)) and not BITS.search(text):
                last = readers[-1]
                form = announced[1] if form is None else form
                if announced[1] == form and last.log.seed not in (None, announced[0]) and last.log.score and len(readers) < MAX_RUNS:
                    before = steps.get(number)
                    last.step = before if before and before[0] > begun else None
                    readers.append(_Reader(last.log.following()))
                    begun = number
            readers[-1].line(read(number, text))
    readers[-1].step = step if step and step[0] > begun else None
    for reader in readers:
        reader.finish()
        reader.log.file_seed = texts.seed_of(file)
        reader.log.seed = next((seed for seed in (reader.log.seed, reader.log.file_seed, reader.listed_seed) if seed is not None), None)
    readers[0].log.left_out += telling.left_out
    readers[0].log.characters = telling.characters
    return [reader.log for reader in readers]


class _Reader:
    """Takes the lines of a log one after the other."""

    def __init__(self, log: Log):
        self.log, self.packed, self.epochs, self.generates = log, False, False, False
        self.step: tuple[int, re.Match] | None = None
        self.said: set[str] = set()
        self.listed_seed: int | None = None

    def line(self, line: Line) -> None:
        log, text = self.log, line.text
        if len(log.figures) < MAX_FIGURES:
            log.figures += [(float(found), line.number) for found in FIGURE.findall(text)]
        self._numbers(line)
        self._sizes(line)
        self._statements(line)
        if "NVIDIA" in text or "H100" in text or re.search(r"gpu|device", text, re.IGNORECASE):
            log.gpus |= {name.upper() for name in GPU.findall(text)}
            if (found := COUNT_OF_GPUS.search(text)) and log.world_size is None:
                self._set("world_size", int(found[1]), line)
        if (found := SETTING.match(text)) and not log.passes and len(log.settings) < 1_000:
            log.settings.setdefault(found[1].lower(), found[2])
            log.setting_lines.setdefault(found[1].lower(), line.number)
        if not self._pass(line):
            self._time(line)

    def _set(self, name: str, value: int, line: Line) -> None:
        setattr(self.log, name, value)
        self.log.lines[name] = line.number

    def _numbers(self, line: Line) -> None:
        log, text = self.log, line.text
        if log.seed is None and (found := SEED.search(text)) and "seeds" not in line.lower:
            self._set("seed", int(found[1]), line)
        elif self.listed_seed is None and (found := LISTED_SEED.search(text)):
            self.listed_seed = int(found[1])
        for name, pattern in (("val_tokens", VAL_TOKENS), ("val_bytes", VAL_BYTES)):
            if found := pattern.search(text):
                self._set(name, whole(next(group for group in found.groups() if group)), line)
        if "shards" in line.lower and "val" not in line.lower.split("shards")[0][-6:] and (found := SHARDS.search(text)):
            self._set("train_shards", whole(found[1]), line)
        if (value := line.pairs.get("world_size")) and value.isdecimal() and len(value) < 6:
            self._set("world_size", int(value), line)
        for name in ("eval_seq_len", "train_seq_len", "seq_len"):
            if (value := line.pairs.get(name)) and value.isdecimal() and len(value) < 8:
                self.log.sequence_length = max(self.log.sequence_length or 0, int(value))

    def _sizes(self, line: Line) -> None:
        text = line.text
        if found := CODE.search(text):
            self.log.code_bytes.append(whole(found[1]))
            self.log.lines["code_bytes"] = line.number
        if (found := TOTAL.search(text)) and not re.search(r"limit|\bcap\b|budget|max|left|headroom|remaining", line.lower):
            if found[2].strip() or not found[1].lower().startswith("total submission"):
                self._set("total_bytes", whole(found[3]), line)
                self.log.totals.append(whole(found[3]))
                self.packed = True
            else:  # the baseline prints its size before quantization without a word on the codec
                self.log.raw_total_bytes = whole(found[3])
                self.log.lines["raw_total_bytes"] = line.number
        elif (found := MODEL.search(text)) and CODECS.search(found[1]):
            self._set("model_bytes", whole(found[2]), line)
            self.packed = True

    def _statements(self, line: Line) -> None:
        text = line.text
        kinds = []
        if VAL_CALIBRATION.search(text) and not NEGATED.search(text):
            kinds.append("val in calibration")
        if TRAIN_DATA.search(text) and not re.search(r"val_(files|loader|path|data)", text):
            kinds.append("trains on val")
        if re.search(r"val(idation)?[_ ]docs ?[:=] ?(10[_,]?000)\b", text, re.IGNORECASE):
            kinds.append("overlap")
        if re.search(r"awq", text, re.IGNORECASE) and re.search(r"tok_emb|embed|wte", text):
            kinds.append("awq group")
        for name in ("val_tokens", "val_bytes"):
            if re.fullmatch(r"\d{16,}", line.pairs.get(name, "")):
                kinds.append("no count")
        for kind in kinds:
            self.log.statements.append((kind, line.number, text[:200]))

    def _pass(self, line: Line) -> bool:
        """Whether the line is about scores."""
        text = line.text
        scores = [found for found in BITS.finditer(text) if not NO_SCORE.search(found[1])]
        if not scores:
            reversed_ = REVERSED.search(text)
            if reversed_ is None or NO_SCORE.search(text) or PROGRESS.search(text):
                return False
            self._add(text[: reversed_.start()].strip(" :,-|(=")[-80:], None, reversed_[1], self._seconds(text), line.number)
            return True
        head = text[: scores[0].start()]
        if PROGRESS.search(head) or NO_SCORE.search(head[-40:]) or re.search(r"delta|gain", scores[0][1]):
            return True
        losses = [found for found in LOSS.finditer(text) if not NO_SCORE.search(found[1])]
        loss = next((found for found in losses if "val" in found[1].lower()), losses[0] if losses else None)
        first = min([scores[0].start()] + ([loss.start()] if loss else []))
        name = re.split(r"[\w/.-]+ ?[:=] ?[-+]?[\d.]\S*", text[:first])[-1] or text[:first]
        name = name.strip(" :,-|({[\"'").split("] ")[-1][-80:]
        seconds = self._seconds(text[first:])
        for found in scores if len(scores) > 1 else scores[:1]:
            own = found[1].lower()
            label = (
                name if own in ("val_bpb", "bpb", "bits_per_byte", "bits per byte", "val_bits_per_byte") else f"{name} {found[1]}".strip()
            )
            self._add(label, loss[2] if loss and len(scores) == 1 else None, found[2], seconds, line.number)
        return True

    @staticmethod
    def _seconds(text: str) -> float | None:
        """Seconds of a pass: those that are called so, or else the only duration that is not called otherwise."""
        found = TIMED.search(text)
        name = found[1].lower() if found else ""
        unit = found and (found[3] or ("ms" if name.endswith("_ms") else "s" if name.endswith(("_s", "seconds")) else None))
        if unit:
            return float(found[2]) * SECONDS[unit.lower()]
        durations = read(0, OTHER_TIMES.sub(" ", text)).durations()
        return durations[0] if len(set(durations)) == 1 else None

    def _add(self, name: str, loss: str | None, bits: str, seconds: float | None, number: int) -> None:
        """Append a pass; an `exact` line instead gives its digits to the pass that it repeats."""
        passes = self.log.passes
        if len(passes) >= MAX_PASSES:
            self.log.left_out += 1
            return
        run = Pass(
            name,
            float(loss) if loss else None,
            float(bits),
            uncertainty(loss) if loss and math.isfinite(float(loss)) else 0.0,
            uncertainty(bits) if math.isfinite(float(bits)) else 0.0,
            seconds,
            self.packed,
            number,
        )
        last = passes[-1] if passes else None
        if (
            last
            and abs(last.bits_per_byte - run.bits_per_byte) <= max(last.bits_slack, run.bits_slack)
            and (name.startswith(last.name) or last.seconds is None or seconds is None or seconds == last.seconds)
        ):
            sharper = run if run.bits_slack <= last.bits_slack else last
            other = last if sharper is run else run
            passes[-1] = replace(
                last,
                bits_per_byte=sharper.bits_per_byte,
                bits_slack=sharper.bits_slack,
                loss_nats=sharper.loss_nats if sharper.loss_nats is not None else other.loss_nats,
                loss_slack=sharper.loss_slack if sharper.loss_nats is not None else other.loss_slack,
                seconds=last.seconds if seconds is None else seconds if last.seconds is None else max(seconds, last.seconds),
                line=number if sharper is run else last.line,
            )
        else:
            passes.append(run)

    def _time(self, line: Line) -> None:
        log, text = self.log, line.text
        self.epochs |= bool(re.search(r"ttt\w*[: ]+epoch", text, re.IGNORECASE))
        durations = line.durations()
        if not durations or text in self.said:
            return
        if "total_eval_time" in line.lower or re.search(r"total eval(uation)? time", line.lower):
            log.total_eval_seconds = durations[0]
            log.lines["total_eval_seconds"] = line.number
            return
        phase = phases.phase_of(text, packed=self.packed, has_epochs=self.epochs)
        if phase is None or phase == phases.EVALUATION:
            if (found := re.match(r"(?:\S+ )?\d+/\d+.*train_time: ?([\d.]{1,15}) ?(ms|s|m)\b", text)) and phase is None:
                self.step = line.number, found
            return
        self.said.add(text)
        if phase == phases.GENERATED:
            self.generates = True
        if phase == phases.CALIBRATION and self.generates:
            phase = phases.GENERATED
        if phase == phases.TRAINING:
            found = re.search(r"train_time ?[:=] ?([\d.]{1,15}) ?(ms|s|m)\b", text)
            if found:
                durations = [float(found[1]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[found[2]]]
        done = bool(phases.FINISHED.search(text)) and not phases.PROGRESS.search(text)
        log.timed.append(phases.Timed(phase, max(durations), line.number, phases.step_of(text), done))

    def finish(self) -> None:
        """The clock on the last step counts if no line says that training stopped; so does a size without a codec if it is the only one."""
        log = self.log
        if log.total_bytes is None and log.raw_total_bytes is not None and log.raw_total_bytes <= LARGEST:
            log.total_bytes, log.lines["total_bytes"] = log.raw_total_bytes, log.lines["raw_total_bytes"]
        if self.step is not None and not any(one.phase == phases.TRAINING for one in self.log.timed):
            number, found = self.step
            seconds = float(found[1]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[found[2].lower()]
            self.log.timed.append(phases.Timed(phases.TRAINING, seconds, number, "step", True))
        for one in self.log.timed:
            self.log.lines.setdefault(one.phase, one.line)
