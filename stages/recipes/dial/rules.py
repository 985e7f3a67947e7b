"""The rules by which sizes, scores and seconds are predicted; docs/sizing.md has their measurements, rules.json their numbers.

score   L = P (e + a (N / N0)^-alpha + b (D / D0)^-beta)           P: score of the pilot on the same text, which has N0 and D0
        D = U + U r (1 - exp(-(epochs - 1) / r))                    if U unique tokens are seen `epochs` times (Muennighoff et al. 2023)
        N = FLOPs of a token's forward pass / 2                     weights that multiply
memory  M = PM (L / P)^x (T / T0)^-z                                PM: the pilot's with evaluator `memory`; T: bytes of text that ships
seconds of training = FLOPs / (rate x share) + steps x c            rate: of square products; share: s width / (width + h)
seconds of a node = fixed + slope x driver                          NODES says which driver
"""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

from stages.lib.training.flops import TRAINING
from stages.recipes.dial.sizes import CURVE_POINTS, Sizes, shape

NUMBERS = Path(__file__).with_name("rules.json")
HOLDOUT_TARGETS = 32_768  # of a measurement, as in stages/train/loop.py
NODES = {  # the driver of each node's seconds
    "prepare": "text",
    "text_compressors": "compared",
    "vocabulary": "text",
    "tokenize": "text",
    "ema": "network",
    "prequant_ttt": "weights",
    "calibrate": "network",
    "sensitivity": "weights",
    "script": "weights",
    "memory": "text",
    "fill_cap": "weights",
    "quantize": "weights",
    "plain_score": "scored",
    "compress": "weights",
    "package": "weights",
    "evaluate@sliding": "scored",
    "evaluate@memory": "scored",
    "audit@sliding": "scored",
    "audit@memory": "scored",
    "report": "weights",
}


@dataclass(frozen=True)
class Score:
    """N0, D0: weights and tokens of the pilot. error: the share by which predictions of runs differ that were not used for the fit."""

    weights: float
    tokens: float
    floor: float
    by_weights: float
    alpha: float
    by_tokens: float
    beta: float
    repeats: float
    error: float

    def ratio(self, weights: float, tokens: float, unique: float) -> float:
        """Score of a network over that of the pilot."""
        seen = effective(tokens, unique, self.repeats)
        return self.floor + self.by_weights * (weights / self.weights) ** -self.alpha + self.by_tokens * (seen / self.tokens) ** -self.beta


@dataclass(frozen=True)
class Rules:
    """`error`s are shares, measured on runs that were not used for the fit. `nodes`: (fixed seconds, slope) by node. `most_weights` and
    `most_tokens` are the largest of the measured runs."""

    score: Score
    memory_exponent: float
    memory_text: float
    memory_error: float
    share_most: float
    share_width: float
    train_start: float
    step_seconds: float
    gpu_share: float
    most_weights: float
    most_tokens: float
    nodes: dict[str, tuple[float, float]]
    fineweb: dict  # the pilot on 200 documents of FineWeb, for the text of the contest

    def share(self, width: int) -> float:
        """Share of the rate of square products that a training on a processor reaches."""
        return self.share_most * width / (width + self.share_width)


@functools.cache
def read(path: Path = NUMBERS) -> Rules:
    found = json.loads(path.read_text(encoding="utf-8"))
    return Rules(**found | {"score": Score(**found["score"])})


def effective(tokens: float, unique: float, repeats: float) -> float:
    """Tokens that are worth as much as `tokens`, of which only `unique` are different."""
    if tokens <= unique:
        return tokens
    return unique * (1 + repeats * (1 - math.exp(-(tokens / unique - 1) / repeats)))


def forward_flops(sizes: Sizes) -> float:
    """FLOPs of a token's forward pass in a row of `context` tokens (lib/training/flops.py counts the same on the network)."""
    found, width = shape(sizes.width, sizes.vocabulary), sizes.width
    keys = found["num_kv_heads"] / found["num_heads"]
    layer = width * width * (2 + 2 * keys) + 2 * width * found["mlp_width"]
    matrices = sizes.layers * layer + sizes.vocabulary * width + found["pair_width"] * width
    return 2 * matrices + 2 * width * (sizes.context + 1) * sizes.layers


def parameters(sizes: Sizes) -> int:
    """All weights, without the vectors, which are fewer than one in a hundred."""
    found, width = shape(sizes.width, sizes.vocabulary), sizes.width
    keys = found["num_kv_heads"] / found["num_heads"]
    layer = width * width * (2 + 2 * keys) + 2 * width * found["mlp_width"]
    return round(sizes.layers * layer + sizes.vocabulary * width + found["pair_width"] * (width + found["buckets"]))


def weights(sizes: Sizes) -> float:
    """Weights that multiply, as `Score` counts them."""
    return forward_flops(sizes) / 2


def measuring_flops(sizes: Sizes) -> float:
    """Of the measurements on holdout along a training, which do not count as its time."""
    return CURVE_POINTS * HOLDOUT_TARGETS * forward_flops(sizes)


def training_flops(sizes: Sizes) -> float:
    return TRAINING * forward_flops(sizes) * sizes.tokens
