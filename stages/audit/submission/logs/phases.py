"""To which phase of a run the seconds on a line belong.

    training        reading training data to learn the weights; the clock of the 600 s
    adaptation      learning after training and before the artifact is written, in all spellings of pre-quantization TTT
    calibration     reading data for the quantizer; self-generated text is no training data (#1019) and has a phase of its own
    quantization    rounding the weights                 compression     packing the bytes
    evaluation      everything that reads the artifact and validation text

A phase counts each of its steps once: of several lines about one step, the one that says it is done, else the largest.
"""

import re
from dataclasses import dataclass

TRAINING, ADAPTATION, CALIBRATION, GENERATED = "training", "adaptation", "calibration", "self-generated calibration"
QUANTIZATION, COMPRESSION, EVALUATION, HINTS = "quantization", "compression", "evaluation", "hints"
PREQUANT = re.compile(
    r"pre[-_ ]?quant\w*[-_ ]?(ttt|adapt|finetune|sgd|tune)|(ttt|adapt)\w*[-_ ]pre[-_ ]?quant|prequant ?: ?(done|epoch|start)|"
    r"ttt_adamw|ttt_adapt|"
    r"adamw_ttt|val_(adapt|finetune)|slice_ttt|pq_?ttt",
    re.IGNORECASE,
)
BARE_TTT = re.compile(r"^\W*ttt ?[:=]", re.IGNORECASE)
SCORES_TOO = re.compile(r"sliding|lora|phased|slot|chunk|eval|legal|score|ttp|rank|warm|compile", re.IGNORECASE)
COMPRESSES = re.compile(r"compress|serializ|saved|lrzip|brotli|lzma|zstd|zlib|\bpack|written|artifact|encod", re.IGNORECASE)
QUANTIZES = re.compile(r"quantiz|quantis|\blqer\b|rounding", re.IGNORECASE)
CALIBRATES = re.compile(r"hessian|calib|activation stat|\bawq\b|collected", re.IGNORECASE)
GENERATES = re.compile(r"self[-_ ]?gen|generated|autoregressive|\bar[-_ ](self|calib|gen)|synthetic|sampled from the model", re.IGNORECASE)
HINTING = re.compile(r"hint|ngram|n-gram|tilt|precompute", re.IGNORECASE)
TRAINS = re.compile(
    r"stopping_early|^(training|train)[ _:]*(complete|done|finished|time|took|total|ended)|"
    r"total[ _]train(ing)?[ _]time|train(ing)?[ _](complete|finished|done)|training (took|time)",
    re.IGNORECASE,
)
FINISHED = re.compile(r"done|complete|elapsed|total|finish|took|\bin \d|collected", re.IGNORECASE)
PROGRESS = re.compile(r"(epoch|ep|step|iter|chunk|batch|round)s?[ =:]*\d+ ?/ ?\d+|\[\d+/\d+\]", re.IGNORECASE)
RESERVES = re.compile(r"reserv|budget|limit|\bcap\b|max_wallclock|wallclock_seconds|effective", re.IGNORECASE)
EVALUATES = re.compile(r"eval|ttt|slot|sliding|scor|etlb|rescor", re.IGNORECASE)


@dataclass(frozen=True)
class Timed:
    """Seconds of one step of a phase; `done` if the line says that the step is over."""

    phase: str
    seconds: float
    line: int
    step: str
    done: bool


def phase_of(text: str, *, packed: bool, has_epochs: bool) -> str | None:
    """The phase of a line without a score. `has_epochs`: the log has adaptation epochs without a score."""
    if RESERVES.search(text) and "stopping_early" not in text:
        return None
    if PREQUANT.search(text) and (re.search(r"pre[-_ ]?quant", text, re.IGNORECASE) or not SCORES_TOO.search(text)):
        return ADAPTATION
    if BARE_TTT.match(text) and not SCORES_TOO.search(text) and (not packed or has_epochs):
        return ADAPTATION
    if TRAINS.search(text) and not re.search("tokenizer|loader|eval", text):
        return TRAINING
    head = text[:200]
    if re.search(r"gptq|hessian|calib|quant|awq|lqer|compress|serializ|brotli|lzma|lrzip|pack", head, re.IGNORECASE) and not re.search(
        r"eval", head, re.IGNORECASE
    ):
        if COMPRESSES.search(head):
            return COMPRESSION
        if GENERATES.search(head):
            return GENERATED
        if CALIBRATES.search(head):
            return CALIBRATION
        return QUANTIZATION
    if GENERATES.search(head) and re.search(r"sequence|token", head, re.IGNORECASE):
        return GENERATED
    if HINTING.search(head) and re.search(r"time|elapsed|done|in \d|built|took", head):
        return HINTS
    if EVALUATES.search(head):
        return EVALUATION
    return None


def step_of(text: str) -> str:
    """What a line is about: its first word, without the numbers."""
    return re.split(r"[:=\s]", text.strip(" [>-"), maxsplit=1)[0].lower()[:60]


def totals(timed: list[Timed]) -> dict[str, tuple[float, list[int]]]:
    """Seconds and lines of each phase, each step counted once."""
    out: dict[str, tuple[float, list[int]]] = {}
    for phase in dict.fromkeys(one.phase for one in timed):  # in their order, so that a report has the same words every time
        mine = [one for one in timed if one.phase == phase]
        if phase == TRAINING:  # the clock runs on: the last line has it
            last = max(mine, key=lambda one: (one.step == "stopping_early", one.done, one.line))
            out[phase] = last.seconds, [last.line]
            continue
        finished = [one for one in mine if one.done]
        kept: dict[tuple, Timed] = {}
        for one in finished or mine:
            kept.setdefault((one.step, round(one.seconds, 3)) if finished else (one.step,), one)
            if not finished and one.seconds > kept[one.step,].seconds:
                kept[one.step,] = one
        if phase == ADAPTATION and finished:  # one adaptation, told in several lines
            best = max(finished, key=lambda one: one.seconds)
            kept = (
                {(best.step,): best}
                if len({one.step for one in finished}) == 1
                else {(one.step,): one for one in sorted(finished, key=lambda one: one.seconds)}
            )
        out[phase] = sum(one.seconds for one in kept.values()), sorted(one.line for one in kept.values())
    return out
