"""What quantizing did to each matrix: bits per weight as a map of layers and matrices, and the error layer by layer."""

import math
import re

import pandas as pd

from stages.report.drawing import (
    SERIES,
    SMALL,
    WIDTH,
    Drawing,
    Figure,
    Scale,
    around,
    horizontal_axis,
    labels_beside,
    vertical_axis,
    width_of,
)

IN_LAYER = re.compile(r"blocks\.(\d+)\.(.+)")


def split(tensors: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table with columns `layer` (None outside of the layers) and `kind`; first what lies in layers, then the rest."""
    found = [IN_LAYER.fullmatch(name) for name in tensors["tensor"]]
    table = tensors.assign(
        layer=[int(match[1]) if match else -1 for match in found],
        kind=[(match[2] if match else name).removesuffix(".weight") for match, name in zip(found, tensors["tensor"], strict=True)],
    )
    inside = table["layer"] >= 0
    return table[inside], table[~inside]


def bits(tensors: pd.DataFrame) -> Figure:
    """One cell for each matrix: rows are layers, columns kinds of matrices; what lies outside of the layers follows, one row each."""
    inside, outside = split(tensors)
    kinds, layers = list(dict.fromkeys(inside["kind"])), sorted(set(inside["layer"]))
    short_names = [kind.rsplit(".", 1)[-1] for kind in kinds]
    names = kinds if len(set(short_names)) < len(kinds) else short_names
    left = 62.0
    wide = (WIDTH - left) / max(len(kinds), 1)
    slanted = any(width_of(name, SMALL) > wide - 2 for name in names)
    head = (min(max(width_of(name, SMALL) for name in names), 120) * 0.75 + 14 if slanted else 20) if kinds else 4
    high = 22.0
    drawing = Drawing("bits", head + high * len(layers) + (14 if kinds else 0) + high * len(outside) + 46)
    coded = tensors[tensors["method"] != "none"]["bits_per_weight"]
    low, top = (float(coded.min()), float(coded.max())) if len(coded) else (0.0, 16.0)

    def cell_at(x: float, y: float, width: float, row) -> None:
        share = 0.0 if row.method == "none" or top == low else (row.bits_per_weight - low) / (top - low)
        tooltip = f"{row.tensor}: {row.bits_per_weight:.4f} bits per weight, {row.weights:,} weights, {row.method}"
        if row.method == "none":
            drawing.rectangle(x + 1, y + 1, width - 2, high - 2, outline="line", radius=2, tooltip=tooltip)
        else:
            drawing.rectangle(x + 1, y + 1, width - 2, high - 2, fill="accent", opacity=0.08 + 0.5 * share, radius=2, tooltip=tooltip)
        drawing.text(x + width / 2, y + high / 2, f"{row.bits_per_weight:.2f}", size=SMALL, anchor="middle")

    for column, name in enumerate(names):
        x = left + wide * (column + 0.5)
        if slanted:
            drawing.text(x - 3, head - 8, name, size=SMALL, colour="muted", angle=-48, widest=120)
        else:
            drawing.text(x, head - 9, name, size=SMALL, anchor="middle", colour="muted")
    for row_number, layer in enumerate(layers):
        y = head + high * row_number
        drawing.text(left - 8, y + high / 2, f"layer {layer}", size=SMALL, anchor="end", colour="muted")
        for row in inside[inside["layer"] == layer].itertuples():
            cell_at(left + wide * kinds.index(row.kind), y, wide, row)
    y = head + high * len(layers) + (14 if kinds else 0)
    for row in outside.itertuples():
        drawing.text(WIDTH - 62, y + high / 2, row.kind, size=SMALL, anchor="end", colour="muted", widest=WIDTH - 66)
        cell_at(WIDTH - 56, y, 56, row)
        y += high
    for step in range(9):
        drawing.rectangle(84 + 18 * step, y + 14, 18, 8, fill="accent", opacity=0.08 + 0.5 * step / 8)
    drawing.text(78, y + 18, f"{low:.2f}", size=SMALL, anchor="end", colour="muted")
    drawing.text(252, y + 18, f"{top:.2f} bits per weight", size=SMALL, colour="muted")
    extremes = f"from {low:.2f} to {top:.2f}" if len(coded) else "none is coded"
    return drawing.figure(
        title="Bits per weight, by layer and matrix",
        caption="Order-0 entropy of the codes with what is stored beside them, before any codec. Frame only: float16.",
        label=f"Map of {len(inside)} matrices in {len(layers)} layers and {len(outside)} outside of them; bits per weight {extremes}.",
    )


def errors(tensors: pd.DataFrame) -> Figure:
    """Relative output error over the layers, one line for each kind of matrix; at the right what lies outside of the layers."""
    coded = tensors[(tensors["method"] != "none") & (tensors["relative_error"] > 0)]
    inside, outside = split(coded)
    kinds, layers = list(dict.fromkeys(inside["kind"])), sorted(set(inside["layer"]))
    count = len(kinds) + len(outside)
    bottom = max(200.0, 40.0 + 13.5 * count)
    drawing = Drawing("errors", bottom + 42)
    up = around(coded["relative_error"], bottom - 8, 36, logarithmic=True)
    last = float(max([*layers, 0]))
    end = 186.0 if len(outside) else 236.0
    across = Scale(-0.3, last + 0.3, 50, end)
    vertical_axis(drawing, up, left=50, right=252, title="relative output error", write=lambda value: f"{value:.0e}".replace("e-0", "e-"))
    horizontal_axis(
        drawing,
        _Whole(across.low, across.high, across.start, across.end),
        top=28,
        bottom=bottom,
        title="layer",
        write=lambda value: f"{value:.0f}",
        grid=False,
        count=8,
    )
    if len(outside):
        drawing.line([(end + 4, 28), (end + 4, bottom)])
        drawing.text(228, bottom + 9, "outside", size=SMALL, anchor="middle", colour="muted")
    entries = []
    for number, kind in enumerate(kinds):
        colour, shape = SERIES[number % len(SERIES)]
        part = inside[inside["kind"] == kind].set_index("layer")["relative_error"]
        points = [(across(layer), up(part[layer]) if layer in part.index else math.nan) for layer in layers]
        drawing.line(points, colour=colour, width=1.5)
        for x, y in points:
            if not math.isnan(y):
                drawing.mark(x, y, shape, colour=colour, size=3.0)
        x, y = next(point for point in reversed(points) if not math.isnan(point[1]))
        entries.append(
            (x, y, kind.rsplit(".", 1)[-1] if sum(other.endswith(kind.rsplit(".", 1)[-1]) for other in kinds) == 1 else kind, False)
        )
    for row in outside.itertuples():
        drawing.mark(228, up(row.relative_error), "circle", colour="ink", size=3.4)
        entries.append((228, up(row.relative_error), row.kind, False))
    labels_beside(drawing, entries, x=272, top=34, bottom=bottom - 4)
    worst = coded.loc[coded["relative_error"].idxmax()] if len(coded) else None
    return drawing.figure(
        title="Quantization error, by layer",
        caption="tr(E H E') / tr(W H W'): the share of a layer's output, on the calibration tokens, that rounding changed; of tables, of "
        "the weights themselves. Logarithmic.",
        label="Relative output error of each matrix over the layers"
        + (f"; the largest is {worst['relative_error']:.2e} in {worst['tensor']}." if worst is not None else "; nothing is quantized."),
    )


class _Whole(Scale):
    """A scale whose ticks are whole numbers."""

    def ticks(self, count: int = 5) -> list[float]:
        low, high = math.ceil(self.low), math.floor(self.high)
        return [float(value) for value in range(low, high + 1, max(1, math.ceil((high - low + 1) / count)))]
