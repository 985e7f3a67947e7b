"""Hidden order: reorder the units of a feed-forward layer. The output stays the same, and nothing is stored or undone.

    out = W_down a(W_up u): rows of W_up and columns of W_down move together

`by: norm` sorts units by the step of their row of W_up (#2046 sorted by row norm: -12 KB with brotli). `by: nearest` puts similar rows next
to each other. The sums over units are then taken in another order, so logits change in the last bits. A layer is not changed if its order
is not free: a trellis runs along its rows, groups of columns share scales, the input is rotated, corrections are in groups, or another
feed-forward part shares a matrix with it.
"""

# M hidden units, K columns

import numpy as np

from stages.runtime.blob import matrix_context
from stages.runtime.blob.container import Model
from stages.runtime.blob.filters import sort_rows

BY = ("norm", "nearest")


def apply(model: Model, *, by: str) -> Model:
    """An equivalent model with its hidden units reordered. ValueError for an unknown order."""
    if by not in BY:
        raise ValueError(f"hidden_order takes by: {' | '.join(BY)}, not {by!r}")
    tensors = dict(model.tensors)
    for up, down in pairs(model):
        order_M = _order(up, model, by)
        for suffix in (".codes", ".scales", ".row_steps", ".left"):
            if up + suffix in tensors:
                tensors[up + suffix] = tensors[up + suffix][order_M]
        if tensors.get(up + ".left_scales", order_M[:1]).size > 1:
            tensors[up + ".left_scales"] = tensors[up + ".left_scales"][order_M]
        for suffix in (".codes", ".right"):
            if down + suffix in tensors:
                tensors[down + suffix] = np.ascontiguousarray(tensors[down + suffix][:, order_M])
        if down + ".column_steps" in tensors:
            tensors[down + ".column_steps"] = tensors[down + ".column_steps"][order_M]
    return Model(tensors, model.config, model.schemes)


def pairs(model: Model) -> list[tuple[str, str]]:
    """The up and down matrices whose units may move."""
    out = []
    for name in model.tensors:
        base = name.removesuffix(matrix_context.CODES)
        role, layer = matrix_context.role(base)
        if name == base or role != "up" or not base.startswith("blocks."):
            continue
        down = base.replace(".mlp.up.", ".mlp.down.")
        if down + matrix_context.CODES in model.tensors and not _is_tied(layer, model) and _is_free(base, down, model):
            out.append((base, down))
    return out


def _is_free(up: str, down: str, model: Model) -> bool:
    schemes = [model.schemes.get(name, {}) for name in (up, down)]
    scales = model.tensors.get(down + ".scales")
    right_scales = model.tensors.get(down + ".right_scales")
    return (
        not schemes[0].get("trellis")
        and not schemes[1].get("rotation")
        and (scales is None or scales.ndim == 1)
        and (right_scales is None or right_scales.size == len(model.tensors[down + ".right"]))
    )


def _is_tied(layer: int, model: Model) -> bool:
    """Whether repetitions of the layer use one of its two matrices beside one of their own."""
    return any(name.startswith("untied_mlp.") and matrix_context.role(name)[1] == layer for name in model.tensors)


def _order(up: str, model: Model, by: str) -> np.ndarray:
    if by == "nearest":
        return sort_rows.nearest(model.tensors[up + matrix_context.CODES])
    context = matrix_context.context(up, model.tensors[up + matrix_context.CODES].shape, model.tensors, model.schemes.get(up, {}))
    return np.argsort(context.row_steps, kind="stable")
