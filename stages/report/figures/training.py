"""Training: the loss with the learning-rate factor behind it, the averages of the weights, and seconds against the rule."""

import math

import pandas as pd

from stages.report.columns import cell
from stages.report.drawing import SMALL, WIDTH, Drawing, Figure, Scale, around, horizontal_axis, labels_beside, short, vertical_axis
from stages.report.figures.scores import ROW, _number, _room

BINS = 160  # of the loss curve: more steps than that are drawn as bands


def loss_curve(loss: pd.DataFrame) -> Figure:
    """Train loss with the schedule behind it, above holdout bits per byte: two panels, one axis of steps."""
    drawing = Drawing("loss", 336)
    steps = loss["step"].to_numpy()
    across = Scale(float(min(steps[0], 0)), float(max(steps[-1], 1)), 40, 358)
    up, factor = around(loss["train_loss"], 186, 30, margin=0.05), Scale(0, max(1.0, float(loss["learning_rate_scale"].max())), 186, 30)
    vertical_axis(drawing, up, left=40, right=358, title="train loss, nats per token", write=short)
    vertical_axis(drawing, factor, left=40, right=358, title="learning-rate factor", write=short, count=2, beyond=True)
    area = [(across(row.step), factor(row.learning_rate_scale)) for row in loss.iloc[:: max(1, len(loss) // BINS)].itertuples()]
    area.append((across(steps[-1]), factor(loss["learning_rate_scale"].iloc[-1])))
    outline = "L".join(f"{x:.1f} {y:.1f}" for x, y in area)
    drawing.path(f"M{area[0][0]:.1f} {factor(0):.1f}L{outline}L{area[-1][0]:.1f} {factor(0):.1f}Z", fill="other", opacity=0.13)
    drawing.path(f"M{outline}", outline="other", dashed=True)
    size = max(1, math.ceil(len(loss) / BINS))
    bands = loss.groupby(loss.index // size)
    middle = bands["step"].mean()
    low, high, mean = (getattr(bands["train_loss"], what)() for what in ("min", "max", "mean"))
    if size > 1:
        band = [(across(x), up(y)) for x, y in zip(middle, high, strict=True)] + [
            (across(x), up(y)) for x, y in reversed(list(zip(middle, low, strict=True)))
        ]
        drawing.path("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in band) + "Z", fill="accent", opacity=0.3)
    smooth = mean.rolling(max(1, len(mean) // 40), min_periods=1, center=True).mean()
    drawing.line([(across(x), up(y)) for x, y in zip(middle, smooth, strict=True)], colour="accent", width=1.8)
    held = loss.dropna(subset=["holdout_bits_per_byte"])
    below = around(held["holdout_bits_per_byte"], 288, 226, margin=0.15)
    if held.empty:
        drawing.text(0, 214, "holdout, bits per byte", size=SMALL, colour="muted")
        drawing.text(199, 256, "not measured in this run", anchor="middle", colour="muted")
    else:
        vertical_axis(drawing, below, left=40, right=358, title="holdout, bits per byte", write=_number, count=3)
        points = [(across(row.step), below(row.holdout_bits_per_byte)) for row in held.itertuples()]
        drawing.line(points, colour="good", width=1.8)
        for x, y in points:
            drawing.mark(x, y, colour="good", size=2.6)
        drawing.text(WIDTH, points[-1][1], cell(float(held["holdout_bits_per_byte"].iloc[-1]), "score"), size=SMALL, anchor="end")
    horizontal_axis(drawing, across, top=30, bottom=296, title="step", write=short, grid=False)
    return drawing.figure(
        title="Loss, with the schedule",
        caption="Blue: the loss, its running mean strong. Purple, dashed, against the right axis: the factor of the learning rates. "
        "Green: the holdout split, which is never trained on.",
        label=f"Train loss from {loss['train_loss'].iloc[0]:.2f} to {loss['train_loss'].iloc[-1]:.2f} nats per token over {steps[-1]} steps"
        f"; the learning-rate factor from {loss['learning_rate_scale'].iloc[0]:.2g} to {loss['learning_rate_scale'].iloc[-1]:.2g}; holdout "
        + (f"{held['holdout_bits_per_byte'].iloc[-1]:.4f} bits per byte at the end." if len(held) else "not measured."),
    )


def averages(table: pd.DataFrame) -> Figure:
    """Bits per byte over 1 - decay for the exponential averages, and a dashed line for each of the others."""
    drawing = Drawing("averages", 236)
    points, others = [], []
    for row in table.itertuples(index=False):
        kind, _, number = row.name.removeprefix("posthoc_").partition("_")
        (points if kind == "ema" else others).append(
            (1 - float(number) if kind == "ema" else math.nan, row.bits_per_byte, row.name, bool(row.note))
        )
    points.sort()
    across = around([x for x, *_ in points], 52, 270, logarithmic=True)
    up = around(table["bits_per_byte"], 186, 34)
    vertical_axis(drawing, up, left=52, right=276, title="holdout, bits per byte", write=_number)
    horizontal_axis(drawing, across, top=28, bottom=192, title="1 - decay, about one over the steps that count", write=short)
    for _, y, _, _ in others:
        drawing.line([(52, up(y)), (276, up(y))], colour="muted", dashed=True)
    drawing.line([(across(x), up(y)) for x, y, _, _ in points], colour="accent", width=1.8)
    for x, y, _, goes_on in points:
        drawing.mark(across(x), up(y), size=5 if goes_on else 3, hollow=not goes_on)
    entries = [(across(x), up(y), name.replace("posthoc_", "later "), goes_on) for x, y, name, goes_on in points]
    entries += [(276, up(y), name, goes_on) for _, y, name, goes_on in others]
    labels_beside(drawing, entries, x=298, top=34, bottom=192)
    words = ", ".join(f"{row.name} {cell(row.bits_per_byte, 'score')}" for row in table.itertuples(index=False))
    return drawing.figure(
        title="Averages of the weights",
        caption="Full and bold: the one that goes on. Hollow: tried; later: put together "
        "after the training from two others. Dashed: no exponential average.",
        label=f"Holdout bits per byte over the decay of the average: {words}.",
    )


def ledger(budget: pd.DataFrame, *, limit: float) -> Figure:
    """Seconds of this machine, one bar for each line of the ledger, and the rule's limit."""
    drawing = Drawing("budget", 24 + ROW * len(budget) + 46)
    names = [name.removeprefix("evaluate, ").removesuffix(", together") for name in budget["name"]]
    left = _room(names)
    scale = around([limit, *budget["seconds"]], left, WIDTH - 40, least=0.0)
    bottom = drawing.height - 44
    horizontal_axis(drawing, scale, top=20, bottom=bottom, title="seconds here", write=short)
    for i, row in enumerate(budget.itertuples(index=False)):
        y = 22 + ROW * (i + 0.5)
        over, is_sum = row.seconds > limit, row.name.endswith("together")
        drawing.rectangle(
            scale(0),
            y - 6,
            scale(row.seconds) - scale(0),
            12,
            fill=None if over else "accent",
            hatched="bad" if over else None,
            opacity=0.9 if is_sum or row.name.startswith("evaluate") else 0.45,
            outline="bad" if over else None,
        )
        drawing.text(left - 10, y, names[i], anchor="end", bold=is_sum, widest=left - 10)
        drawing.text(WIDTH, y, cell(row.seconds, "seconds"), anchor="end", bold=is_sum, colour="bad" if over else "ink")
    drawing.line([(scale(limit), 14), (scale(limit), bottom)], colour="ink", width=1.3)
    drawing.text(scale(limit), 7, f"{limit:g} s", size=SMALL, anchor="middle")
    words = ", ".join(f"{row.name} {cell(row.seconds, 'seconds')} s" for row in budget.itertuples(index=False))
    return drawing.figure(
        title="Seconds, against the rule's two times 600",
        caption="Seconds of this machine; the rule's are those of eight H100, for training together and for each evaluation.",
        label=f"Ledger of seconds: {words}; the limit is {limit:g} s each.",
    )
