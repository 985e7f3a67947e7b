"""The plots as SVG text for the page: training curve, averages, bits per byte step by step, bytes per codec.

Drawn with placeholder colours that become CSS variables of the page (and `currentColor` for the ink), so that one
drawing serves a light and a dark page. The text stays text. Equal tables give equal bytes: no date, salted ids, and
matplotlib's own defaults whatever the user's matplotlibrc says.
"""

import io
import re
from collections.abc import Callable

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.report.tables import cell

INK, MUTED, LINE = "#010101", "#020202", "#030303"
ACCENT, GOOD, BAD = "#040404", "#050505", "#060606"
CSS = {INK: "currentColor", MUTED: "var(--muted)", LINE: "var(--line)", ACCENT: "var(--accent)", GOOD: "var(--good)",
       BAD: "var(--bad)"}
RC = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "text.parse_math": False, "text.color": INK,
    "axes.labelcolor": MUTED, "axes.labelsize": 8.5, "axes.edgecolor": LINE, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 0.6,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5, "ytick.labelsize": 9.5, "legend.frameon": False, "hatch.linewidth": 1.0,
    "svg.fonttype": "none", "path.simplify": True,
}
WIDTH_INCHES = 4.8  # 346 units wide: text of 10 units is 10 pixels on a telephone, 14 on a wide page
ROW_INCHES = 0.3


def loss_curve(loss: pd.DataFrame) -> str:
    """Train loss (each step faint, running mean strong) above holdout bits per byte: two panels, one step axis."""
    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        span = max(1, len(loss) // 40)
        mean = loss["train_loss"].rolling(span, min_periods=1, center=True).mean()
        upper.plot(loss["step"], loss["train_loss"], color=ACCENT, linewidth=0.8, alpha=0.35)
        upper.plot(loss["step"], mean, color=ACCENT, linewidth=1.8)
        _title(upper, "train loss, nats per token")
        held = loss.dropna(subset=["holdout_bits_per_byte"])
        lower.plot(held["step"], held["holdout_bits_per_byte"], color=GOOD, linewidth=1.8, marker="o", markersize=4)
        _title(lower, "holdout, bits per byte")
        if held.empty:
            lower.set_yticks([])
            lower.text(0.5, 0.5, "not measured in this run", transform=lower.transAxes, ha="center", color=MUTED)
        else:
            last = held.iloc[-1]
            lower.annotate(cell(float(last["holdout_bits_per_byte"]), "score"),
                           (last["step"], last["holdout_bits_per_byte"]), xytext=(0, 7), textcoords="offset points",
                           ha="right", fontsize=9.5)
        lower.set_xlabel("step", loc="left")
        for axes in (upper, lower):
            axes.margins(y=0.12)
            axes.tick_params(axis="y", labelsize=8.5, labelcolor=MUTED, length=0)
    return _svg(draw, name="loss", label="Train loss and holdout bits per byte over the steps", height=3.7)


def score_steps(stages: pd.DataFrame, evaluators: pd.DataFrame) -> str:
    """Stages as steps, each from the one above it; evaluators as steps from the last stage, whose weights they score.

    An evaluator that is not legal is hatched, in the warning colour, and says so.
    """
    previous, base = None, stages["bits_per_byte"].iloc[-1]
    rows = []  # name, from, to, is_legal
    for row in stages.itertuples():
        rows.append((row.name, row.bits_per_byte if previous is None else previous, row.bits_per_byte, True))
        previous = row.bits_per_byte
    rows += [(row.name, base, row.bits_per_byte, row.legal) for row in evaluators.itertuples()]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, (_, start, end, is_legal) in enumerate(rows):
            colour = BAD if not is_legal else GOOD if end <= start else ACCENT
            style = {"facecolor": colour, "alpha": 0.55} if is_legal else {"facecolor": "none", "hatch": "////"}
            axes.barh(y, end - start, left=start, height=0.56, edgecolor=colour, linewidth=1.0, **style)
            axes.plot([end], [y], marker="o", markersize=5, color=colour)
            note = "" if is_legal else " not legal"
            _value(axes, y, cell(end, "score") + note, colour=INK if is_legal else BAD)
        axes.axvline(base, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0.5)
        axes.axhline(len(stages) - 0.5, color=LINE, linewidth=1.0)
        axes.use_sticky_edges = False
        axes.margins(x=0.05)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _rows(axes, [row[0] for row in rows])
        axes.set_xlabel("bits per byte (lower is better)", loc="left")
    return _svg(draw, name="scores", label="Bits per byte after each stage and with each evaluator",
                height=0.75 + ROW_INCHES * len(rows))


def codec_sizes(codecs: pd.DataFrame) -> str:
    """Bytes per codec from zero, and where the order-0 entropy of the codes is; other tensors are not in it."""
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, row in enumerate(codecs.itertuples()):
            if not row.available:
                axes.text(0.01, y, "not available", transform=axes.get_yaxis_transform(), va="center", color=BAD,
                          fontsize=9)
                continue
            axes.barh(y, row.blob_bytes, height=0.56, color=ACCENT, alpha=0.85 if row.ships else 0.4, linewidth=0)
            axes.vlines(row.entropy_bytes, y - 0.5, y + 0.5, color=INK, linewidth=1.3)
            _value(axes, y, cell(row.blob_bytes, "count"), is_bold=row.ships)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        _rows(axes, list(codecs["name"]))
        axes.set_xlabel("bytes", loc="left")
    return _svg(draw, name="codecs", label="Bytes per codec against the entropy of the weights",
                height=0.75 + ROW_INCHES * len(codecs))


def tensor_errors(tensors: pd.DataFrame) -> str:
    """Relative output error of every quantized tensor on a logarithmic axis, one row for each group."""
    coded = tensors[(tensors["method"] != "none") & (tensors["relative_error"] > 0)]
    names = list(dict.fromkeys(coded["group"]))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, name in enumerate(names):
            values = coded[coded["group"] == name]["relative_error"]
            places = [y + 0.36 * (i / max(len(values) - 1, 1) - 0.5) for i in range(len(values))]
            axes.plot(values, places, color=ACCENT, marker="o", markersize=4, linestyle="none", alpha=0.7)
            axes.vlines(values.mean(), y - 0.3, y + 0.3, color=INK, linewidth=1.3)
            _value(axes, y, f"{values.mean():.1e}")
        if names:
            axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
        _rows(axes, names)
        axes.set_xlabel("relative output error (line: mean)", loc="left")
    return _svg(draw, name="tensors", label="Relative output error of every tensor by group", height=0.75 + ROW_INCHES * max(len(names), 1))


def codec_speeds(codecs: pd.DataFrame) -> str:
    """Bytes over seconds, hollow to encode, full to decode; the order-0 entropy of the codes as a dashed line."""
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row in codecs.itertuples():
            if row.available:
                seconds = [max(value, 0.001) for value in (row.decode_seconds, row.encode_seconds)]
                axes.plot(seconds, [row.blob_bytes] * 2, color=LINE, linewidth=1.0, zorder=1)
                axes.plot(seconds[:1], [row.blob_bytes], marker="o", markersize=5, color=ACCENT)
                axes.plot(seconds[1:], [row.blob_bytes], marker="o", markersize=5, color=ACCENT, markerfacecolor="none")
                axes.annotate(row.name, (max(seconds), row.blob_bytes), xytext=(6, -3), textcoords="offset points", fontsize=8.5,
                              fontweight="bold" if row.ships else "normal")
                axes.axhline(row.entropy_bytes, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0.5)
        axes.set_xscale("log")
        axes.margins(x=0.25, y=0.12)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: _short(value))
        axes.tick_params(axis="y", labelsize=8.5, labelcolor=MUTED, length=0)
        axes.set_xlabel("seconds", loc="left")
        _title(axes, "bytes")
    return _svg(draw, name="speeds", label="Bytes per codec over the seconds to decode and to encode", height=2.9)


def averages(table: pd.DataFrame) -> str:
    """Bits per byte over 1 - decay for the exponential averages, and a dashed line for each of the others."""
    def draw(figure: Figure) -> None:
        axes, points = figure.subplots(), []
        for row in table.itertuples():
            kind, _, number = row.name.removeprefix("posthoc_").partition("_")
            if kind == "ema":
                points.append((1 - float(number), row.bits_per_byte, bool(row.note)))
            else:
                axes.axhline(row.bits_per_byte, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
                axes.annotate(row.name, (1.0, row.bits_per_byte), xycoords=("axes fraction", "data"), xytext=(0, 3),
                              textcoords="offset points", ha="right", fontsize=8.5, color=MUTED)
        points.sort()
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=ACCENT, linewidth=1.8)
        for x, y, goes_on in points:
            axes.plot([x], [y], color=ACCENT, marker="o", markersize=7 if goes_on else 4)
        if points:
            axes.set_xlim(points[0][0] / 1.5, points[-1][0] * 1.5)
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter("")
        axes.margins(y=0.12)
        axes.tick_params(axis="y", labelsize=8.5, labelcolor=MUTED, length=0)
        axes.set_xlabel("1 - decay", loc="left")
        _title(axes, "holdout, bits per byte")
    return _svg(draw, name="averages", label="Holdout bits per byte over the decay of the average", height=2.6)


def _short(value: float) -> str:
    for size, unit in ((1_000_000, " MB"), (1_000, " kB")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9.5, color=INK)


def _rows(axes: Axes, names: list[str]) -> None:
    """One named row per bar, first one on top, lines only across the values."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _value(axes: Axes, y: int, text: str, *, colour: str = INK, is_bold: bool = False) -> None:
    """A value at the right edge, outside the axes, where no bar can run into it."""
    axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=colour,
              fontweight="bold" if is_bold else "normal")


def _svg(draw: Callable[[Figure], None], *, name: str, label: str, height: float) -> str:
    """Run `draw` on a new figure; the SVG element that results, in the page's colours, its ids prefixed by `name`."""
    with matplotlib.style.context(["default", RC | {"svg.hashsalt": name}]):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg"):], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for placeholder, colour in CSS.items():
        text = text.replace(placeholder, colour)
    opening = text[:text.index(">") + 1]
    box = re.search(r'viewBox="[^"]*"', opening).group()
    return (f'<svg {box} role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink">{text[len(opening):]}')
