"""Bits per byte: from training to the final score, evaluators against what they cost, and other compressors on the same text."""

from collections.abc import Callable

import pandas as pd

from stages.report.columns import cell
from stages.report.drawing import SMALL, WIDTH, Drawing, Figure, around, horizontal_axis, labels_beside, short, vertical_axis, width_of

ROW = 25.0
MARKS = {"legal": ("good", "circle"), "not legal": ("bad", "cross"), "not ruled": ("other", "diamond")}


def waterfall(stages: pd.DataFrame, evaluators: pd.DataFrame, *, best: str | None) -> Figure:
    """Stages as steps, each from the one above it; evaluators as steps from the last stage, whose weights they score."""
    base = stages["bits_per_byte"].iloc[-1]
    before = [stages["bits_per_byte"].iloc[0], *stages["bits_per_byte"].iloc[:-1]]
    rows = [(row.name, start, row.bits_per_byte, "") for row, start in zip(stages.itertuples(index=False), before, strict=True)]
    rows += [(row.name, base, row.bits_per_byte, row.verdict) for row in evaluators.itertuples(index=False)]
    gap = 30.0 if len(evaluators) else 0.0
    drawing = Drawing("waterfall", 26 + ROW * len(rows) + gap + 52)
    left = _room([row[0] for row in rows])
    right = WIDTH - 48
    scale = around([value for _, start, end, _ in rows for value in (start, end)], left, right)
    bottom = drawing.height - 50
    horizontal_axis(drawing, scale, top=22, bottom=bottom, title="bits per byte of the val split, lower is better", write=_number)
    drawing.text(0, 9, "after each stage, in plain windows", size=SMALL, colour="muted")
    for i, (name, start, end, verdict) in enumerate(rows):
        y = 26 + ROW * (i + 0.5) + (gap if i >= len(stages) else 0)
        if i == len(stages):
            line = y - ROW / 2 - gap / 2
            drawing.text(0, line + 3, "the packed artifact, by evaluator", size=SMALL, colour="muted")
            drawing.line([(scale(base), y - ROW - gap), (scale(base), bottom)], colour="muted", dashed=True)
        colour, shape = MARKS[verdict] if verdict else ("accent" if end <= start else "ink", "circle")
        low, high = sorted((scale(start), scale(end)))
        style = {"hatched": "bad"} if verdict == "not legal" else {"fill": colour, "opacity": 0.5}
        drawing.rectangle(
            low, y - 6, high - low, 12, outline=colour, tooltip=f"{name}: {cell(end - start, 'signed')} bits per byte", **style
        )
        if 0 < i < len(stages):
            drawing.line([(scale(start), y - ROW), (scale(start), y - 6)], colour="muted")
        drawing.mark(scale(end), y, shape, colour=colour)
        drawing.text(left - 10, y, name, anchor="end", bold=name == best, widest=left - 10)
        drawing.text(WIDTH, y, cell(end, "score"), anchor="end", bold=name == best, colour="bad" if verdict == "not legal" else "ink")
    words = ", ".join(f"{name} {cell(end, 'score')}" + (f" ({verdict})" if verdict else "") for name, _, end, verdict in rows)
    return drawing.figure(
        title="From training to the final score",
        caption="A bar is a change, a mark its result. Stages start from the stage above, evaluators from the dashed line, the quantized "
        "weights in plain windows. Circle: legal. Cross, hatched: not legal. Diamond: not ruled. Bold: the score.",
        label=f"Waterfall of bits per byte: {words}.",
    )


def evaluators(table: pd.DataFrame, *, best: str | None) -> Figure:
    """Bits per byte over the seconds of each evaluator."""
    drawing = Drawing("evaluators", 236)
    across = around(table["seconds"], 46, 250, logarithmic=True)
    up = around(table["bits_per_byte"], 186, 34)
    vertical_axis(drawing, up, left=46, right=256, title="bits per byte", write=_number)
    horizontal_axis(drawing, across, top=28, bottom=192, title="seconds here, both axes: lower is better", write=_plain)
    entries = []
    for row in table.itertuples(index=False):
        colour, shape = MARKS[row.verdict]
        x, y = across(row.seconds), up(row.bits_per_byte)
        drawing.mark(x, y, shape, colour=colour, size=4.5)
        entries.append((x, y, row.name, row.name == best))
    labels_beside(drawing, entries, x=276, top=34, bottom=192)
    words = "; ".join(
        f"{row.name}: {cell(row.bits_per_byte, 'score')} in {cell(row.seconds, 'seconds')} s, {row.verdict}"
        for row in table.itertuples(index=False)
    )
    return drawing.figure(
        title="What an evaluator gains, and what it costs",
        caption="Circle: legal. Cross: not legal, its number is no code length. Diamond: not ruled. Bold: the score.",
        label=f"Bits per byte over seconds by evaluator. {words}.",
    )


def compressors(table: pd.DataFrame) -> Figure:
    """Bits per byte of general-purpose compressors that have read the training text, and of the model."""
    rows = [(row.name, row.bits_per_byte, row.bits_per_byte_after_train) for row in table.itertuples(index=False)]
    drawing = Drawing("compressors", 14 + ROW * len(rows) + 46)
    left = _room([row[0] for row in rows])
    values = [value for _, alone, after in rows for value in (alone, after) if value is not None]
    scale = around(values, left, WIDTH - 48, least=0.0)
    bottom = drawing.height - 44
    horizontal_axis(drawing, scale, top=6, bottom=bottom, title="bits per byte of the val split, lower is better", write=_plain)
    for i, (name, alone, after) in enumerate(rows):
        y = 10 + ROW * (i + 0.5)
        is_model = alone is None
        shown = alone if after is None else after
        if alone is not None:
            drawing.rectangle(scale(0), y - 6, scale(alone) - scale(0), 12, outline="muted")
        if after is not None:
            drawing.rectangle(scale(0), y - 6, scale(after) - scale(0), 12, fill="good" if is_model else "accent", opacity=0.75)
        drawing.text(left - 10, y, name, anchor="end", bold=is_model, widest=left - 10)
        drawing.text(WIDTH, y, cell(shown, "score"), anchor="end", bold=is_model)
    words = ", ".join(f"{name} {cell(alone if after is None else after, 'score')}" for name, alone, after in rows)
    return drawing.figure(
        title="Against general-purpose compressors",
        caption="Full: after the training text, the fair comparison; the number "
        "is that, or the one alone where there is none. Outline: alone.",
        label=f"Bits per byte of the same text: {words}.",
    )


def _room(names: list[str]) -> float:
    """Width for the names at the left of a row."""
    return min(max([1.12 * width_of(name) for name in names] or [0]), 132) + 12  # one of them may be bold


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


_plain: Callable[[float], str] = short
