"""One evaluation method per file. The contract:

    CLAIMS: tuple of "causal" | "score_first" | "single_pass" | "uses_length" | "documents_apart"
                                                               the properties that the method claims
    claims(options) -> the same, if it depends on the options     optional
    STREAM: options that replace the given ones when tokens come one by one                  optional
    class Evaluator:
        __init__(self, model, **options)
        carries: bool                                              whether it carries anything from chunk to chunk (absent: yes)
        coding_order: Order | None                                 how documents are coded at once (absent: the order of the stream)
        chunks(num_targets) -> iterator of lists of Window         a partition of the targets, in order
        predict(seen, chunk) -> logits (R, V)                      for the chunk's targets first..last, float32
        learn(seen, chunk) -> None                                 called after the chunk was committed
        walk(seen, chunk) -> None                                  predict and learn, for a chunk whose rows nobody needs    optional
        cuts: bool                                                 whether its chunks, of one window each, may end at any target: this
                                                                   changes only the rounding (absent: no)
        ask(seen, chunk) -> logits (V)                             if it has `cuts`: for the chunk's last target, which nobody knows yet

An evaluator with a coding order has no chunks: it gets the pieces of a round (rounds.py), and `seen` is in coding order.

`seen` is the token stream up to the chunk's last target. An evaluator that claims to be causal may use, for each row, only tokens before
that row's target; the audit tests this by experiment. For a causal evaluator, the harness ensures score-first and single pass: it controls
the order, the softmax and the clock, and commits each target once. `uses_length`: the scores depend on the declared number of targets,
which a decoder must be told, or of documents. `documents_apart`: no document changes the scores of a later one.

Every evaluator takes one more option, `precision`: the type in which a GPU computes the matrix products of float32 tensors.

    float32 (the default)    float32, as on a CPU
    tf32                     factors rounded to 10 bits of mantissa, sums in float32
    bf16                     torch's autocast: products of bfloat16 factors give bfloat16; softmax and losses stay float32
"""

import contextlib
import functools

import torch

from .. import adaptation


def claims(module, options: dict) -> tuple[str, ...]:
    """The claims of the evaluator in `module` with these options."""
    return module.claims(options) if hasattr(module, "claims") else module.CLAIMS


def build(module, model, options: dict):
    """The evaluator of `module` for `model`, which may be None to check the options. ValueError for a precision that only a GPU has."""
    options = dict(options)
    precision = options.pop("precision", "float32")
    adaptation.choose("precision", precision, ("float32", "tf32", "bf16"))
    evaluator = module.Evaluator(model, **options)
    if precision != "float32" and model is not None:
        check_device(precision, next(model.parameters()).device.type)
        for name in ("predict", "learn", "walk", "ask"):
            if hasattr(evaluator, name):
                setattr(evaluator, name, rounding(getattr(evaluator, name), precision))
    return evaluator


def check_device(precision: str, device: str) -> None:
    """ValueError for a precision that only a GPU has."""
    if precision != "float32" and device == "cpu":
        raise ValueError(f"the evaluator's precision is {precision}, which is for a GPU, and this is a CPU; set it to float32")


def rounding(function, precision: str, device: str = "cuda"):
    """`function` with its matrix products on `device` computed in tf32 or bf16."""

    @functools.wraps(function)
    def rounded(*arguments):
        products = torch.backends.cuda.matmul
        before, products.allow_tf32 = products.allow_tf32, precision == "tf32"
        # without the cache of casted weights, which would outlive an update of the weights
        bf16 = torch.autocast(device, torch.bfloat16, cache_enabled=False) if precision == "bf16" else contextlib.nullcontext()
        try:
            with bf16:
                return function(*arguments)
        finally:
            products.allow_tf32 = before

    return rounded
