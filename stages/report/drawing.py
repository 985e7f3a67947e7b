"""Figures as SVG of our own: shapes, text, scales and axes; no library, no script, nothing fixed about colour or font.

A drawing is WIDTH units wide: text of 12 units is 11 pixels on a telephone and 15 on a wide page. Colours are words (`ink`, `accent`,
`bad`, …) that become CSS variables of the page, so that one drawing serves a light and a dark page; `Figure.file` puts the
light ones in, for a file that stands alone. Equal input gives equal bytes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 400.0
SIZE = 12.0  # of ordinary text
SMALL = 11.0
# Okabe and Ito's blue, vermilion and bluish green, as dark or light as text of that colour needs; apart for every colour vision.
LIGHT = {
    "ground": "#f5f6f4",
    "card": "#ffffff",
    "ink": "#1b2420",
    "muted": "#58655e",
    "line": "#dbe0da",
    "plain": "#e9ece7",
    "accent": "#0068a8",
    "good": "#00734f",
    "bad": "#b8460a",
    "other": "#8c5a8f",
    "good-ground": "#e0f2ea",
    "bad-ground": "#fbe9df",
}
DARK = {
    "ground": "#101513",
    "card": "#181f1c",
    "ink": "#e5ebe7",
    "muted": "#9aa8a0",
    "line": "#323c37",
    "plain": "#29312d",
    "accent": "#6bb6ee",
    "good": "#4fcb9f",
    "bad": "#ff9a66",
    "other": "#d9a6db",
    "good-ground": "#133a2c",
    "bad-ground": "#47250f",
}
SERIES = (
    ("accent", "circle"),
    ("bad", "square"),
    ("good", "triangle"),
    ("other", "diamond"),
    ("ink", "cross"),
    ("muted", "circle"),
    ("accent", "square"),
    ("bad", "triangle"),
    ("good", "diamond"),
    ("other", "circle"),
    ("ink", "square"),
    ("muted", "triangle"),
)


@dataclass(frozen=True)
class Figure:
    """A finished figure: `svg` for the page, with a `label` for who cannot see it and a `caption` that says how to read it."""

    name: str
    title: str
    caption: str
    label: str
    svg: str

    def file(self) -> str:
        """The drawing as a file of its own, in light colours on white."""
        text = self.svg
        for name, colour in LIGHT.items():
            text = text.replace(f"var(--{name})", colour)
        end = text.index(">") + 1
        return (
            f'{text[:end]}<rect width="100%" height="100%" fill="#ffffff"/>'
            f'<style>text{{font-family:system-ui,"DejaVu Sans",sans-serif}}</style>{text[end:]}\n'
        )


class Drawing:
    """Shapes are drawn in the order of the calls; x grows to the right and y down."""

    def __init__(self, name: str, height: float):
        self.name, self.height, self.parts = name, height, []

    def text(
        self,
        x: float,
        y: float,
        content: str,
        *,
        size: float = SIZE,
        anchor: str = "start",
        colour: str = "ink",
        bold: bool = False,
        angle: float = 0.0,
        widest: float | None = None,
    ) -> None:
        """`y` is the middle of the line. What is wider than `widest` is cut, and whole in the tooltip."""
        shown = content if widest is None else cut(content, widest, size * (1.12 if bold else 1.0))
        more = (f' text-anchor="{anchor}"' if anchor != "start" else "") + (' font-weight="650"' if bold else "")
        more += f' transform="rotate({_n(angle)} {_n(x)} {_n(y)})"' if angle else ""
        tooltip = f"<title>{escape(content)}</title>" if shown != content else ""
        self.parts.append(
            f'<text x="{_n(x)}" y="{_n(y + 0.36 * size)}" font-size="{_n(size)}" fill="{_colour(colour)}"{more}>'
            f"{tooltip}{escape(shown)}</text>"
        )

    def line(self, points: Sequence[tuple[float, float]], *, colour: str = "line", width: float = 1.0, dashed: bool = False) -> None:
        """A line through the points; where one is NaN, it is interrupted."""
        pieces, pen = [], "M"
        for x, y in points:
            if math.isnan(y):
                pen = "M"
                continue
            pieces.append(f"{pen}{_n(x)} {_n(y)}")
            pen = "L"
        self.path("".join(pieces), outline=colour, width=width, dashed=dashed)

    def path(
        self,
        commands: str,
        *,
        fill: str | None = None,
        outline: str | None = None,
        width: float = 1.0,
        opacity: float = 1.0,
        dashed: bool = False,
    ) -> None:
        more = f' stroke="{_colour(outline)}" stroke-width="{_n(width)}" stroke-linejoin="round"' if outline else ""
        more += ' stroke-dasharray="4 3"' if dashed else ""
        more += f' opacity="{opacity:.2f}"' if opacity != 1.0 else ""
        self.parts.append(f'<path d="{commands}" fill="{_colour(fill) if fill else "none"}"{more}/>')

    def rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str | None = None,
        opacity: float = 1.0,
        outline: str | None = None,
        radius: float = 0.0,
        hatched: str | None = None,
        tooltip: str = "",
    ) -> None:
        """`hatched`: the colour of diagonal lines inside instead of a fill."""
        if hatched:
            identity = f"{self.name}-hatch-{hatched}"
            if not any(identity in part for part in self.parts):
                self.parts.append(
                    f'<defs><pattern id="{identity}" width="5" height="5" patternUnits="userSpaceOnUse" '
                    f'patternTransform="rotate(45)"><path d="M0 0V5" stroke="{_colour(hatched)}" stroke-width="2"/></pattern></defs>'
                )
        paint = f"url(#{identity})" if hatched else _colour(fill) if fill else "none"
        more = f' fill-opacity="{opacity:.2f}"' if opacity != 1.0 else ""
        more += f' stroke="{_colour(outline)}"' if outline else ""
        more += f' rx="{_n(radius)}"' if radius else ""
        end = f"><title>{escape(tooltip)}</title></rect>" if tooltip else "/>"
        self.parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0.0))}" height="{_n(max(height, 0.0))}" fill="{paint}"{more}{end}'
        )

    def mark(self, x: float, y: float, shape: str = "circle", *, colour: str = "accent", size: float = 3.6, hollow: bool = False) -> None:
        """circle | square | triangle | diamond | cross, about 2 `size` across."""
        if shape == "circle":
            commands = (
                f"M{_n(x - size)} {_n(y)}a{_n(size)} {_n(size)} 0 1 0 {_n(2 * size)} 0a{_n(size)} {_n(size)} 0 1 0 {_n(-2 * size)} 0Z"
            )
        elif shape == "cross":
            commands = (
                f"M{_n(x - size)} {_n(y - size)}L{_n(x + size)} {_n(y + size)}M{_n(x - size)} {_n(y + size)}L{_n(x + size)} {_n(y - size)}"
            )
            return self.path(commands, outline=colour, width=2.2)
        else:
            corners = {
                "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
                "triangle": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
                "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
            }[shape]
            commands = "M" + "L".join(f"{_n(x + dx * size)} {_n(y + dy * size)}" for dx, dy in corners) + "Z"
        return self.path(commands, fill="card" if hollow else colour, outline=colour, width=1.4)

    def figure(self, *, title: str, caption: str, label: str) -> Figure:
        svg = (
            f'<svg viewBox="0 0 {_n(WIDTH)} {_n(self.height)}" role="img" aria-label="{escape(label)}" '
            f'xmlns="http://www.w3.org/2000/svg">{"".join(self.parts)}</svg>'
        )
        return Figure(self.name, title, caption, label, svg)


@dataclass(frozen=True)
class Scale:
    """Values `low` to `high` onto `start` to `end`, in equal steps or, `logarithmic`, in equal factors."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        place = math.log if self.logarithmic else float
        low, high = place(self.low), place(self.high)
        value = max(value, self.low) if self.logarithmic else value
        return self.start + (place(value) - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values from `low` to `high`."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1,), (1, 3), (1, 2, 5)):
                found = [digit * 10.0**power for power in powers for digit in digits]
                found = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
                if len(found) >= min(count, 3):
                    break
            return found[:: max(1, math.ceil(len(found) / (count + 2)))]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def around(
    values: Iterable[float], start: float, end: float, *, logarithmic: bool = False, margin: float = 0.08, least: float | None = None
) -> Scale:
    """A scale that holds all the values with some room; `least` is where it begins instead."""
    values = list(values) or [1.0]
    low, high = min(values), max(values)
    if logarithmic:
        low, high = max(low, 1e-12), max(high, 1e-12)
        room = max((high / low) ** margin, 1.25)
        return Scale(low / room, high * room, start, end, True)
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    return Scale(low - room if least is None else least, high + room, start, end)


def horizontal_axis(
    drawing: Drawing,
    scale: Scale,
    *,
    top: float,
    bottom: float,
    title: str,
    write: Callable[[float], str],
    count: int = 5,
    grid: bool = True,
) -> None:
    """Tick labels below `bottom`, lines up to `top`, and the title with its unit beneath."""
    free = -math.inf
    for value in scale.ticks(count):
        x = scale(value)
        if grid:
            drawing.line([(x, top), (x, bottom)])
        half = width_of(write(value), SMALL) / 2
        if x - half > free and x + half <= WIDTH + 4:  # a label that would run into the last one is left out, its line stays
            drawing.text(x, bottom + 9, write(value), size=SMALL, anchor="middle", colour="muted")
            free = x + half + 2
    drawing.text((scale.start + scale.end) / 2, bottom + 24, title, size=SMALL, anchor="middle", colour="muted")


def vertical_axis(
    drawing: Drawing,
    scale: Scale,
    *,
    left: float,
    right: float,
    title: str,
    write: Callable[[float], str],
    count: int = 4,
    beyond: bool = False,
) -> None:
    """Tick labels to the left (`beyond`: to the right, without lines), the title with its unit above."""
    for value in scale.ticks(count):
        y = scale(value)
        if not beyond:
            drawing.line([(left, y), (right, y)])
        drawing.text(right + 5 if beyond else left - 5, y, write(value), size=SMALL, anchor="start" if beyond else "end", colour="muted")
    drawing.text(
        WIDTH if beyond else 0, min(scale.start, scale.end) - 12, title, size=SMALL, anchor="end" if beyond else "start", colour="muted"
    )


def labels_beside(drawing: Drawing, entries: list[tuple[float, float, str, bool]], *, x: float, top: float, bottom: float) -> None:
    """Texts one under the other at `x`, each tied by a thin line to its point (x, y, text, bold); none runs into another."""
    entries = sorted(entries, key=lambda entry: (entry[1], entry[2]))
    for (point_x, point_y, text, bold), y in zip(
        entries, spread([entry[1] for entry in entries], gap=SMALL + 3, low=top, high=bottom), strict=True
    ):
        drawing.line([(point_x, point_y), (x - 8, y), (x - 3, y)], colour="line")
        drawing.text(x, y, text, size=SMALL, bold=bold, widest=WIDTH - x)


def spread(places: list[float], *, gap: float, low: float, high: float) -> list[float]:
    """Ascending places moved as little as that they are `gap` apart and, where there is room for all, within low..high."""
    out: list[float] = []
    for place in places:
        out.append(max(place, out[-1] + gap if out else low))
    limit = high
    for i in reversed(range(len(out))):
        out[i] = min(out[i], limit)
        limit = out[i] - gap
    return out


def width_of(text: str, size: float = SIZE) -> float:
    """An upper estimate for common fonts: the page decides which one it is."""
    return 0.6 * size * len(text)


def cut(text: str, widest: float, size: float) -> str:
    letters = int(widest / (0.6 * size))
    return text if len(text) <= letters else text[: max(letters - 1, 1)] + "…"


def short(value: float) -> str:
    """1,500,000 as 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.3g}"


def _colour(name: str) -> str:
    return f"var(--{name})"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
