"""The few numbers that a recipe is made of, and every parameter that follows from them.

    width of a head          64, or 32 where the width is no multiple of 64
    key and value heads      the largest divisor of the heads that is at most a third of them (1 of 3 where it was measured)
    feed-forward width       13/3 of the width, in steps of 64 (832 of 192 there)
    table of token pairs     two rows for each piece of the vocabulary (default: 2,048 of 1,024)
    decay of the average     0.98 ^ (640 / steps), so that its length keeps its share of the run
    warm-up of the momentum  100 steps of 640, at most 1,500 (#549)

What follows from the width of the context is in context.py.
"""

from dataclasses import dataclass

from stages.lib.training import averages
from stages.recipes.dial import context

HEAD, NARROW_HEAD = 64, 32
MLP_SHARE, MLP_STEP = 13 / 3, 64
PAIRS, PAIR_WIDTH = 2, 64
DEFAULT_STEPS, DEFAULT_DECAY, DEFAULT_WARMUP, LONGEST_WARMUP = 640, 0.98, 100, 1500
CURVE_POINTS = 7  # measurements on holdout


@dataclass(frozen=True)
class Sizes:
    """What the rules choose. `batch_tokens` are those of a step, in whole rows of `context` tokens."""

    layers: int
    width: int
    vocabulary: int
    context: int
    batch_tokens: int
    steps: int
    matrix_learning_rate: float

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_tokens

    @property
    def decay(self) -> float:
        return round(DEFAULT_DECAY ** (DEFAULT_STEPS / self.steps), 5)

    @property
    def average(self) -> str:
        return averages.name(self.decay)


def shape(width: int, vocabulary: int) -> dict[str, int]:
    """The sizes inside a layer, and of the table of token pairs."""
    heads = width // (NARROW_HEAD if width % HEAD else HEAD)
    return {
        "num_heads": heads,
        "num_kv_heads": max(part for part in range(1, heads + 1) if heads % part == 0 and (3 * part <= heads or part == 1)),
        "mlp_width": MLP_STEP * round(MLP_SHARE * width / MLP_STEP),
        "buckets": PAIRS * vocabulary,
        "pair_width": PAIR_WIDTH,
    }


# the training that the rules were measured with, which was the default's then; its later gains were not tried at other sizes
MEASURED = {"model.tied_head": True, "train.muon.momentum": 0.95, "train.learning_rate_floor": 0.1, "train.techniques": {}}


def values(sizes: Sizes) -> dict:
    """Values by path of the network and its training."""
    found = shape(sizes.width, sizes.vocabulary)
    return {
        "vocabulary.source": "bpe",
        "vocabulary.size": sizes.vocabulary,
        "model.num_layers": sizes.layers,
        "model.width": sizes.width,
        **{f"model.{name}": found[name] for name in ("num_heads", "num_kv_heads", "mlp_width")},
        "model.features": {
            "bigram_hash": {"buckets": found["buckets"], "width": found["pair_width"], "scale": 0.05, "trigram": False},
            "smear_gate": {"version": 2, "window": 12},
        },
        **MEASURED,
        "train.steps": sizes.steps,
        "train.batch_tokens": sizes.batch_tokens,
        "train.matrix_learning_rate": sizes.matrix_learning_rate,
        "train.embedding_learning_rate": sizes.matrix_learning_rate / 2,
        "train.scalar_learning_rate": sizes.matrix_learning_rate / 2,
        "train.muon.momentum_warmup_steps": max(1, min(LONGEST_WARMUP, DEFAULT_WARMUP * sizes.steps // DEFAULT_STEPS)),
        "train.averages.ema": [sizes.decay],
        "train.holdout_every": max(1, sizes.steps // CURVE_POINTS),
        "ema.average": sizes.average,
        "ema.candidates": ["final", sizes.average],
        "prequant_ttt.batch_tokens": sizes.batch_tokens,
    } | context.follows(sizes.context)
