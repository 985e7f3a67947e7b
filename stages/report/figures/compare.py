"""Several experiments in one drawing: their bits per byte row by row, and their loss curves."""

import math

from stages.report.columns import cell
from stages.report.drawing import SERIES, SMALL, WIDTH, Drawing, Figure, Scale, around, horizontal_axis, labels_beside, short, vertical_axis
from stages.report.figures.scores import ROW, _number, _room

PREFIX = "bits_per_byte."


def scores(found: list) -> Figure:
    """One row for each stage and evaluator, one mark for each experiment."""
    keys = list(dict.fromkeys(key for one in found for key in one.metrics if key.startswith(PREFIX)))
    head = 16.0 * len(found) + 10
    drawing = Drawing("scores", head + ROW * len(keys) + 46)
    for i, one in enumerate(found):
        colour, shape = SERIES[i]
        drawing.mark(8, 8 + 16 * i, shape, colour=colour)
        drawing.text(18, 8 + 16 * i, one.name, size=SMALL, widest=WIDTH - 20)
    left = _room([key.removeprefix(PREFIX) for key in keys])
    scale = around([one.metrics[key] for one in found for key in keys if one.metrics.get(key) is not None], left, WIDTH - 10)
    bottom = drawing.height - 44
    horizontal_axis(drawing, scale, top=head, bottom=bottom, title="bits per byte of the val split, lower is better", write=_number)
    for row, key in enumerate(keys):
        y = head + ROW * (row + 0.5)
        drawing.text(left - 10, y, key.removeprefix(PREFIX), anchor="end", widest=left - 10)
        drawing.line([(left, y), (WIDTH - 10, y)])
        for i, one in enumerate(found):
            if one.metrics.get(key) is not None:
                colour, shape = SERIES[i]
                drawing.mark(
                    scale(one.metrics[key]),
                    y,
                    shape,
                    colour=colour,
                    hollow=one.metrics.get(f"verdict.{key.removeprefix(PREFIX)}") == "not legal",
                )
    words = "; ".join(
        f"{one.name}: " + ", ".join(f"{key.removeprefix(PREFIX)} {cell(one.metrics.get(key), 'score')}" for key in keys) for one in found
    )
    return drawing.figure(
        title="Bits per byte",
        caption="Stages in plain windows, then evaluators on the packed artifact. Hollow: not legal.",
        label=f"Bits per byte by experiment. {words}.",
    )


def losses(found: list) -> Figure:
    """The running mean of each train loss."""
    drawing = Drawing("losses", 260)
    curves = []
    for one in found:
        size = max(1, math.ceil(len(one.loss) / 120))
        bins = one.loss.groupby(one.loss.index // size)
        curves.append((list(bins["step"].mean()), list(bins["train_loss"].mean().rolling(5, min_periods=1, center=True).mean())))
    across = Scale(0.0, float(max(max(steps) for steps, _ in curves)) or 1.0, 40, 270)
    up = around([value for _, values in curves for value in values], 206, 34, margin=0.05)
    vertical_axis(drawing, up, left=40, right=270, title="train loss, nats per token", write=short)
    horizontal_axis(drawing, across, top=28, bottom=212, title="step", write=short)
    entries = []
    for i, (one, (steps, values)) in enumerate(zip(found, curves, strict=True)):
        colour, shape = SERIES[i]
        points = [(across(step), up(value)) for step, value in zip(steps, values, strict=True)]
        drawing.line(points, colour=colour, width=1.6, dashed=i % 2 == 1)
        for x, y in points[-1:]:
            drawing.mark(x, y, shape, colour=colour)
        entries.append((*points[-1], one.name, False))
    labels_beside(drawing, entries, x=290, top=34, bottom=212)
    words = ", ".join(f"{one.name} ends at {values[-1]:.3f}" for one, (_, values) in zip(found, curves, strict=True))
    return drawing.figure(
        title="Train loss", caption="Running means. Every second one is dashed.", label=f"Train loss over the steps: {words}."
    )
