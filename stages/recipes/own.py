"""The recipe `caddie` on paper: its parts with their gains and the sum, and the seconds of its nodes in a run on 8 H100.

Gains are in thousandths of a bit per byte (mBPB). caddie.csv has for each part the gain that was published or measured, what is counted of
it here, and the errors, each one standard deviation; those of what is counted are judgements. The sum takes the parts for independent.
"""

import csv
import math
import statistics
from pathlib import Path

from stages.recipes import catalog, describe, projection

PARTS = Path(__file__).with_name("caddie.csv")
BASE, BEST = "pr2014", "pr2135"
TARGETS = 43_767_808  # of the contest's val split with fused markers (#2109)
WINDOW_TOKENS = 21.8  # inputs of all windows of 2,560 per target, for chunks of 48 in documents of the contest's lengths
PADDING = {8: 1.13, 16: 1.27}  # slots sorted by width, in passes of so many of 64
ROUNDS = 2400 * TARGETS / 47_851_520  # of a share, of 64 slots
# #2135 computes 1.045 G window tokens forward and backward in the 340 s that its hints leave of 540 s
RATE = 1.045e9 * 3 * 159_928_512 / projection.GPUS / 340
WEIGHTS, QUANTIZE_SECONDS, CODE_SECONDS = 35_945_671, 43.6, 31.0  # measured: docs/quantization.md, 2 CPU cores
FILL_ROUNDS = 4
HINT_SECONDS = 29.0 / projection.GPUS  # measured on one core for 47.85 M targets: docs/evaluators.md
SHOWN = [
    "A run on 8 H100 has to show:",
    "",
    f"* that `evaluate@tilt` ends within 600 s, which are {TARGETS / projection.GPUS / 600:,.0f} targets per second of each GPU;",
    "* that `train`, `ema` and `calibrate` together end within 600 s, and that nothing reads train text behind them;",
    "* an artifact of at most 16,000,000 bytes, by `fill_cap`'s own choice of the quantization;",
    "* that replays agree in bf16, whose rounding depends on the shape of a pass;",
    "* three seeds below #2135 with p < 0.01, and one run each without the markers and with #2014's quantizer, so that the two parts",
    "  that carry the sum are known by themselves.",
    "",
    "Left for later: the parts of the optimizer that win in small, and a global phase over all shares together.",
]


def parts() -> list[dict]:
    """The rows of caddie.csv; numbers as floats, None where there is none."""
    with open(PARTS, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        row |= {key: float(row[key]) if row[key] else None for key in ("gain", "error", "counted", "counted_error")}
    return rows


def total(rows: list[dict]) -> tuple[float, float]:
    """Sum of what is counted, and its error."""
    return sum(row["counted"] for row in rows), math.hypot(*(row["counted_error"] for row in rows))


def published(name: str) -> float:
    """Bits per byte of a published stack, mean of its seeds."""
    return statistics.mean(seed.bits_per_byte for seed in catalog.read_header(name).published)


def evaluation(tree: dict) -> tuple[float, float]:
    """Seconds of the slots of one share on one GPU: of the work at the rate of #2135, and of starting its kernels. The larger counts."""
    options, cost = tree["package"]["options"], describe.describe(tree)
    work = WINDOW_TOKENS * PADDING[options["group"]] * TARGETS * 3 * cost.flops / options["shares"] / RATE
    passes = ROUNDS * options["slots"] / options["group"]
    kernels = projection.kernels(describe.network(tree), options["window"])
    return work, 4 * passes * kernels * projection.LAUNCH_SECONDS  # a backward pass starts about three times as many as a forward pass


def nodes(tree: dict) -> list[tuple[str, float, str]]:
    """Node, seconds on 8 GPUs, and what they follow from."""
    work, launches = evaluation(tree)
    train = tree["train"]["seconds"] - tree["train"]["reserve_seconds"]
    calibrate = 2 * 4.1
    return [
        ("`tokenize`", 80 * 10.0, "10 s of a core for a shard of 100 million tokens, one after the other, before the clock starts"),
        ("`train`", train, "its clock: 600 s less the reserve"),
        ("`ema`", 2.0, "four averages on 32,768 tokens of holdout, counted in the reserve"),
        ("`calibrate`", calibrate, "4.1 s in #2014, twice as much with gradients of rows, counted in the reserve"),
        ("`fill_cap`", FILL_ROUNDS * (QUANTIZE_SECONDS + CODE_SECONDS), "four rounds of quantizing and coding, measured on 2 CPU cores"),
        ("`quantize`", QUANTIZE_SECONDS, "measured on 2 CPU cores"),
        ("`compress`", 2 * CODE_SECONDS, "coding and decoding, measured on one core"),
        (
            "`evaluate@tilt`",
            max(work, launches) + CODE_SECONDS + HINT_SECONDS,
            f"the larger of {work:.0f} s of work and {launches:.0f} s of starting kernels; then decoding, and hints on a core",
        ),
    ]


def section(tree: dict) -> list[str]:
    """The section of docs/recipes.md, without its heading and header."""
    rows, (gain, error) = parts(), total(parts())
    base, best = published(BASE), published(BEST)
    prediction, timed = base - gain / 1000, nodes(tree)
    lines = [
        "| part | published or measured, mBPB | counted, mBPB | scale | by whom, and why so much is counted |",
        "|---|---:|---:|---|---|",
    ]
    for row in rows:
        gains = _number(row["gain"], row["error"]), _number(row["counted"], row["counted_error"])
        lines.append(f"| {row['part']} | {gains[0]} | {gains[1]} | {row['scale']} | {row['source']} |")
    lines += [
        f"| sum | | {gain:.1f} ± {error:.1f} | | |",
        "",
        f"From #2014's {base:.5f} the sum leads to **{prediction:.4f} ± {error / 1000:.4f}** bits per byte. This is a prediction and no",
        f"result. The best accepted record, #2135, has {best:.5f}; by this table the recipe is below it with a probability of "
        f"{100 * statistics.NormalDist(prediction, error / 1000).cdf(best):.0f} %.",
        "",
        "| node | s on 8 H100 | from |",
        "|---|---:|---|",
        *(f"| {name} | {value:,.0f} | {why} |" for name, value, why in timed),
        "",
        *SHOWN,
    ]
    return lines


def _number(value: float | None, error: float | None) -> str:
    return "" if value is None else f"{value:g}" + (f" ± {error:g}" if error is not None else "")
