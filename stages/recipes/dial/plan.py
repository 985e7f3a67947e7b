"""Choose every number of a recipe from a text, a machine, bytes and hours; reasons.py says why each is what it is."""

import math
from dataclasses import dataclass, replace

from stages.recipes.dial import context, rules
from stages.recipes.dial.hardware import Hardware
from stages.recipes.dial.pilot import SIZES as PILOT
from stages.recipes.dial.pilot import Trained
from stages.recipes.dial.sizes import Sizes
from stages.recipes.dial.sizes import values as values_of
from stages.recipes.dial.text import ALPHABETS, Text

# Two anchors each: the default (params.yaml), and the contest's naive baseline (stages/recipes/naive.yaml). Between and beyond them a
# number grows with a power of the tokens, or of the weights that multiply; docs/sizing.md says what was measured around the first.
TOKENS, LARGE_TOKENS = 1.3e6, 7.2e9
BATCH, CONTEXT = (2048, 524_288), (128, 1024)
LAYERS, AT_WEIGHTS = (2, 9), (1.0e6, 17.0e6)
LAYERS_OFF = 0.15  # share by which the layers may differ from their rule
DOUBT = 0.5  # share of what text beyond the pilot's should gain that may be wrong
BEYOND = 0.1  # error that is stated, at least, for what lies beyond the measured range
RATE = 0.04  # of the matrices, at both
FINE_BITS, COARSE_BITS = 4.5, 3.4  # bits per weight where the cap is far (the default); the fewest of published entries are 3.3 to 3.5
SCRIPT_BYTES = 90_000  # of the one script, with room
PACKED_TOKEN = 0.58  # bytes of a token of the training text that ships (docs/memory.md: 1.87 MB for 3.3 million)
VOCABULARIES = (512, 1024, 2048, 4096, 8192)
PIECE_SHARE, PIECE_SEEN = 0.2, 300  # most of the weights that the table of pieces has; times that a piece comes in the text, on average
ENOUGH = 1.3  # times the tokens of the training that are prepared, if there are more
COVERAGE, WIDE_COVERAGE = 0.999, 0.9995  # of characters: the default; SentencePiece's advice for scripts of many characters
CODEC = {
    "filters": [],
    "groups": {
        "codes": {"coder": "covariance", "filters": [], "options": {}},
        "rest": {"codec": "brotli", "filters": [], "options": {"quality": 11, "window_bits": 24}},
    },
}
COMPARED = 10_000_000  # text_compressors.train_bytes
CALIBRATED = 256  # calibrate.sequences
LONGER = 1.14  # bytes of a token with twice as many pieces
WIDTHS = (64, 96, 128, 160, 192, 256, 320, 384, 448, 512, 576, 640, 768, 896, 1024)
STATE_BYTES, UNIT_BYTES = 28, 60  # of memory in training: for a weight; for a token, a layer and a unit of width
LARGEST_FOR_MEMORY = 5e6  # weights that multiply of a network that `memory` still helps (docs/memory.md: nothing at full size)
LEAST_FOR_MEMORY = 10_000  # bytes of text that it needs to begin with
MEMORY_SHARE = 0.6  # of the memory that a training may take
PART_TOKENS = 65_536  # of a part of a batch on a GPU, as published; on a processor the batch is one part
VAL_BYTES, MOST_VAL = 600_000, 0.06  # of val and of holdout: bytes, and the largest share of the text
VAL_DOCUMENTS, MOST_SPLIT = 8, 0.25  # documents that are expected in each, and the largest share that this may take
FEWEST_DOCUMENTS = 16  # of a text: with fewer, val or holdout is empty once in a hundred times


@dataclass(frozen=True)
class Facts:
    """What the reasons name: parameters, bits for each, bytes of a token, different tokens, epochs over them, tokens of the text that
    ships, bytes of the text that is used, share of it that is val, and the share of the machine's rate that training reaches."""

    parameters: int
    bits: float
    bytes_of_token: float
    unique: float
    epochs: float
    remembered: float
    used_bytes: int
    val_share: float
    rate_share: float


@dataclass(frozen=True)
class Plan:
    """What will run: sizes, values by path, what it rests on, and what it will give and take. `score` is of the shipped evaluator, in bits
    per byte; `error` is a share of it; `beyond` says what lies beyond the measured range (None: nothing)."""

    sizes: Sizes
    values: dict
    facts: Facts
    network_score: float
    score: float
    error: float
    seconds: dict[str, float]
    beyond: str | None


@dataclass(frozen=True)
class Asked:
    """What the user wants: bytes of the artifact, hours of training, and what he fixes himself (None: the rules choose)."""

    cap_bytes: int
    hours: float
    context: int | None = None
    vocabulary: int | None = None  # that of published shards


def make(text: Text, source: dict, machine: Hardware, pilot: Trained, asked: Asked) -> Plan:
    """The plan with the lowest predicted score. `source`: values by path of the text; `pilot`: what a small network reached on a part.
    ValueError if nothing fits."""
    known = rules.read()
    found = [(score, sizes) for width in WIDTHS for sizes, score in _candidates(width, text, machine, pilot, asked, known)]
    if not found:
        raise ValueError(
            f"nothing fits into {asked.cap_bytes:,} bytes and {machine.memory / 1e9:.1f} GB of memory with {asked.hours:g} hours; "
            "give more bytes with --for or more time with --hours"
        )
    score, best = min(found, key=lambda pair: pair[0])
    return _described(best, score, text, source, machine, pilot, asked, known)


def _candidates(width: int, text: Text, machine: Hardware, pilot: Trained, asked: Asked, known: rules.Rules):
    """Sizes of this width that fit, with their network's predicted score."""
    for vocabulary in VOCABULARIES if asked.vocabulary is None else (asked.vocabulary,):
        sizes = Sizes(1, width, vocabulary, asked.context or CONTEXT[0], BATCH[0], 1, RATE)
        layers = min(range(1, 17), key=lambda count: abs(count - _layers(rules.weights(replace(sizes, layers=count)))))
        sizes = replace(sizes, layers=layers)
        if abs(layers - (wanted := _layers(rules.weights(sizes)))) > max(1.0, LAYERS_OFF * wanted):
            continue  # too wide or too narrow for any number of layers
        sizes = _timed(sizes, machine, asked, known)
        if sizes is None or not _fits(sizes, text, machine, pilot, asked):
            continue
        yield sizes, pilot.bits_per_byte * known.score.ratio(*_seen(sizes, text, pilot))


def _timed(sizes: Sizes, machine: Hardware, asked: Asked, known: rules.Rules) -> Sizes | None:
    """The same with the context, batch and steps of as many tokens as the hours allow; None if that is not one step."""
    budget = 3600 * asked.hours * training_rate(sizes, machine, known)
    for _ in range(3):  # a wider context makes a token dearer
        tokens = budget / (rules.TRAINING * rules.forward_flops(sizes))
        wide = asked.context or _power_of_two(_between(tokens, (TOKENS, LARGE_TOKENS), CONTEXT), least=64)
        batch = max(wide, _power_of_two(_between(tokens, (TOKENS, LARGE_TOKENS), BATCH), least=512))
        sizes = replace(sizes, context=wide, batch_tokens=batch)
    a_step = rules.TRAINING * rules.forward_flops(sizes) * sizes.batch_tokens / training_rate(sizes, machine, known)
    steps = int(3600 * asked.hours / (a_step + (0 if machine.gpus else known.step_seconds)))
    return replace(sizes, steps=steps) if steps >= 20 else None


def training_rate(sizes: Sizes, machine: Hardware, known: rules.Rules) -> float:
    """FLOPs of training a second on the whole machine."""
    return machine.rate * machine.devices * (known.gpu_share if machine.gpus else known.share(sizes.width))


def _fits(sizes: Sizes, text: Text, machine: Hardware, pilot: Trained, asked: Asked) -> bool:
    parameters = rules.parameters(sizes)
    pieces = (
        asked.vocabulary is None
        and sizes.vocabulary > VOCABULARIES[0]
        and (sizes.vocabulary * sizes.width > PIECE_SHARE * parameters or _unique(sizes, text, pilot) < PIECE_SEEN * sizes.vocabulary)
    )
    part = min(sizes.batch_tokens, PART_TOKENS) if machine.gpus else sizes.batch_tokens
    memory = STATE_BYTES * parameters + part * (UNIT_BYTES * sizes.layers * sizes.width + 8 * sizes.vocabulary)
    return not pieces and memory <= MEMORY_SHARE * machine.memory and bits(parameters, asked.cap_bytes) >= COARSE_BITS


def bits(parameters: int, cap_bytes: int) -> float:
    """Bits per weight: as fine as it is worth, or what the cap leaves."""
    return min(FINE_BITS, 8 * (cap_bytes - SCRIPT_BYTES) / parameters)


def _unique(sizes: Sizes, text: Text, pilot: Trained) -> float:
    """Different tokens of the train split."""
    return text.unique_bytes * (1 - 2 * val_share(text)) / _bytes_of_token(sizes.vocabulary, pilot)


def _bytes_of_token(vocabulary: int, pilot: Trained) -> float:
    """Of this text: that of the pilot's vocabulary, and LONGER times as many for twice as many pieces."""
    return pilot.train_bytes / pilot.train_tokens * LONGER ** math.log2(vocabulary / PILOT.vocabulary)


def _seen(sizes: Sizes, text: Text, pilot: Trained) -> tuple[float, float, float]:
    """Weights that multiply, tokens, and different tokens, counted as tokens of the pilot's vocabulary, which stand for the same bytes."""
    longer = _bytes_of_token(sizes.vocabulary, pilot) / _bytes_of_token(PILOT.vocabulary, pilot)
    return rules.weights(sizes), sizes.tokens * longer, _unique(sizes, text, pilot) * longer


def val_share(text: Text, used: float = 1.0) -> float:
    """Share of the documents that are val, if this share of the text is used; holdout has as many."""
    share = max(min(MOST_VAL, VAL_BYTES / (used * text.bytes)), VAL_DOCUMENTS / (used * text.documents))
    return float(f"{min(MOST_SPLIT, share):.3g}")


def _used(text: Text, wanted: float) -> float:
    """Share of the text of which the train split has `wanted` bytes."""
    used = 1.0
    for _ in range(8):  # of less text, val and holdout are a larger share
        used = min(1.0, float(f"{wanted / text.bytes / (1 - 2 * val_share(text, used)):.3g}"))
    return used


def _layers(weights: float) -> float:
    return _between(weights, AT_WEIGHTS, LAYERS)


def _between(at: float, ends: tuple[float, float], values: tuple[float, float]) -> float:
    """The power law through two points."""
    power = math.log(values[1] / values[0]) / math.log(ends[1] / ends[0])
    return values[0] * (at / ends[0]) ** power


def _power_of_two(value: float, *, least: int) -> int:
    return max(least, 1 << round(math.log2(max(1, value))))


def _described(
    sizes: Sizes, network: float, text: Text, source: dict, machine: Hardware, pilot: Trained, asked: Asked, known: rules.Rules
) -> Plan:
    """The plan of the chosen sizes, with all values."""
    parameters, unique = rules.parameters(sizes), _unique(sizes, text, pilot)
    longer, per_weight = _bytes_of_token(sizes.vocabulary, pilot), bits(parameters, asked.cap_bytes)
    is_full = per_weight < FINE_BITS
    used = 1.0 if sizes.tokens > unique / ENOUGH else _used(text, ENOUGH * sizes.tokens * longer)
    share, most_text = val_share(text, used), round(used * text.bytes)
    is_drawn = used < 1 and source["prepare.source"] == "local"
    left = max(0, asked.cap_bytes - SCRIPT_BYTES - round(parameters * per_weight / 8))
    remembers = rules.weights(sizes) <= LARGEST_FOR_MEMORY and left >= LEAST_FOR_MEMORY
    left *= remembers
    remembered = min(unique, left / PACKED_TOKEN, most_text / longer)
    shipped = math.ceil(min(left, 1.05 * PACKED_TOKEN * remembered))
    epochs = sizes.tokens / min(unique, most_text * (1 - 2 * share) / longer)
    rate = training_rate(sizes, machine, known)
    score, by_text = network, 0.0
    if remembers:
        power = known.memory_text if pilot.memory_power is None else pilot.memory_power
        by_text = power * math.log(max(1.0, remembered * longer) / pilot.train_bytes)
        score = pilot.memory_bits_per_byte * (network / pilot.bits_per_byte) ** known.memory_exponent * math.exp(-by_text)
    beyond = [
        f"{what} ({value:,.0f}; measured up to {most:,.0f})"
        for what, value, most in (("weights", rules.weights(sizes), known.most_weights), ("tokens", sizes.tokens, known.most_tokens))
        if value > 1.5 * most
    ]
    gpu = {
        "train.seconds": 3600.0 * asked.hours,
        "train.steps": round(1.5 * sizes.steps),
        "train.processes": machine.gpus,
        "train.micro_batch_tokens": max(sizes.context, min(PART_TOKENS, sizes.batch_tokens // machine.gpus)),
        "train.priming_steps": 20,
    } if machine.gpus else {"train.threads": machine.threads}  # fmt: skip
    values = (
        {
            "prepare.max_bytes": None if used == 1 or is_drawn else most_text,
            "prepare.fraction": used if is_drawn else 1.0,
            "prepare.val_fraction": share,
            "prepare.holdout_fraction": share,
            "vocabulary.character_coverage": COVERAGE if text.script in ALPHABETS else WIDE_COVERAGE,
        }
        | values_of(sizes)
        | ({} if remembers else context.without_memory(sizes.context))
        | gpu
        | {
            "quantize.entropy.target_bytes": "auto" if is_full else None,
            "quantize.entropy.bits_per_weight": round(per_weight, 2),
            "memory.bytes": shipped,
            "plain_score.after": ["train", "ema", "prequant_ttt", "quantize"],  # the rule for its seconds was measured with all four
            "compress.runs": {"covariance": CODEC},
            "package.blob": "compress/covariance",
            "package.cap_bytes": asked.cap_bytes,
        }
        | source
    )
    by_chance = pilot.spread * math.sqrt(1 + pilot.documents / (share * used * text.documents))
    error = math.hypot(known.score.error, known.memory_error * remembers, DOUBT * by_text, by_chance)
    error = max(BEYOND, error) if beyond else error
    return Plan(
        sizes,
        values,
        Facts(parameters, per_weight, longer, unique, epochs, remembered, most_text, share, rate / machine.rate / machine.devices),
        network,
        score,
        error,
        {
            node: value
            for node, value in seconds(sizes, text, machine, most_text, share, longer, rate, known).items()
            if remembers or "@memory" not in node
        },
        ", ".join(beyond) or None,
    )


def seconds(
    sizes: Sizes, text: Text, machine: Hardware, used: int, share: float, longer: float, rate: float, known: rules.Rules
) -> dict[str, float]:
    """Expected seconds by node of all evaluators. Work of the network runs on the machine, all else on a processor as of the rules."""
    forward = rules.forward_flops(sizes)
    val = text.val_bytes or share * used
    scoring = machine.fp32_rate * (1 if machine.gpus else known.share(sizes.width))
    drivers = {
        "text": 0.0 if text.val_bytes else used / 1e6,
        "compared": (2 * min((1 - 2 * share) * used, COMPARED) + val) / 1e6,
        "weights": rules.parameters(sizes) / 1e6,
        "network": CALIBRATED * sizes.context * forward / scoring,
        "scored": val / longer * forward / scoring,
    }
    found = {node: fixed + slope * drivers[rules.NODES[node]] for node, (fixed, slope) in known.nodes.items()}
    found["train"] = known.train_start + (rules.training_flops(sizes) + rules.measuring_flops(sizes)) / rate
    found["train"] += 0 if machine.gpus else known.step_seconds * sizes.steps
    return found
