"""The lineage graph: all nodes from top to bottom; on the left those that the artifact is made from, in red those that have seen val."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.lib import page
from stages.report import lineage
from stages.report.figures import Figure
from stages.report.lineage import Box, Graph

TEMPLATE = Path(__file__).with_name("lineage.svg.j2")
TITLE = "Lineage: what was made from what"
CAPTION = (
    "From dvc.lock. Left: what the artifact is made from. Red, double frame: has seen the val split, which below the artifact is how a "
    "score is made. What a node also reads from farther up is left out."
)
WIDTH, PITCH, HIGH = 400.0, 47.0, 32.0
LANES = ((8.0, 222.0), (246.0, 384.0))  # (left, right) x: nodes that ship or never saw val; nodes after the artifact that saw val
LETTER = 6.6  # upper estimate of the width of a letter, in text of 11 units


@dataclass(frozen=True)
class Place:
    """A box with its position, and the text in it besides its name."""

    box: Box
    left: float
    right: float
    top: float
    variants: str

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


def draw(found: Graph) -> Figure:
    """Draw the graph. A link that would cross a box of its lane goes around that box."""
    ranks = lineage.ranks(found)
    lanes = [int(box.touches_val and not box.ships) for box in found.boxes]
    places = [_place(i, found.boxes, ranks, lanes) for i in range(len(ranks))]
    links = []
    for a, b in found.links:
        is_blocked = any(lanes[j] == lanes[a] == lanes[b] and ranks[a] < ranks[j] < ranks[b] for j in range(len(ranks)))
        links.append(((_around if is_blocked else _straight)(places[a], places[b]), found.boxes[a].touches_val))
    seen = ", ".join(box.name for box in found.boxes if box.touches_val) or "none"
    above = lineage.spoiled(found) or "None of them is above the artifact"
    svg = page.render(
        TEMPLATE,
        places=places,
        links=links,
        width=WIDTH,
        height=PITCH * (max(ranks) + 1) + 34,
        box_height=HIGH,
        ships=lineage.SHIPS,
        title=TITLE,
        description=f"Graph of {len(places)} nodes. Have seen the val split: {seen}. {above}. {CAPTION}",
    )
    return Figure("lineage", TITLE, CAPTION, svg)


def _place(i: int, boxes: Sequence[Box], ranks: list[int], lanes: list[int]) -> Place:
    """Place box `i`: boxes of the same rank and lane share the lane's width, and those that ship come first."""
    beside = [j for j in range(len(boxes)) if (ranks[j], lanes[j]) == (ranks[i], lanes[i])]
    beside.sort(key=lambda j: not boxes[j].ships)
    left, right = LANES[lanes[i]]
    share = (right - left + 8) / len(beside)
    start = left + beside.index(i) * share
    variants = ", ".join(boxes[i].variants)
    if len(variants) * LETTER > share - 20:
        variants = f"{len(boxes[i].variants)} runs"
    return Place(boxes[i], start, start + share - 8, 6 + PITCH * ranks[i], variants)


def _straight(start: Place, end: Place) -> str:
    """The commands of an SVG path from the lower edge of one box to the upper edge of another, with an arrow head."""
    a_x, a_y, b_x, b_y = start.middle, start.top + HIGH, end.middle, end.top
    bend = (b_y - a_y) * 0.55
    return (
        f"M{a_x:.1f} {a_y:.1f}C{a_x:.1f} {a_y + bend:.1f} {b_x:.1f} {b_y - bend:.1f} {b_x:.1f} {b_y:.1f}"
        f"M{b_x - 3:.1f} {b_y - 4.5:.1f}L{b_x:.1f} {b_y:.1f}L{b_x + 3:.1f} {b_y - 4.5:.1f}"
    )


def _around(start: Place, end: Place) -> str:
    """The same from the side of one box to the side of the other, along the outer edge of the drawing."""
    is_right = start.left >= LANES[1][0]
    outer, a_x, b_x, inwards = (WIDTH - 4, start.right, end.right, -1) if is_right else (2.0, start.left, end.left, 1)
    a_y, b_y = start.top + HIGH / 2, end.top + HIGH / 2
    return (
        f"M{a_x:.1f} {a_y:.1f}H{outer + 6 * inwards:.1f}Q{outer:.1f} {a_y:.1f} {outer:.1f} {a_y + 6:.1f}V{b_y - 6:.1f}"
        f"Q{outer:.1f} {b_y:.1f} {outer + 6 * inwards:.1f} {b_y:.1f}H{b_x:.1f}"
        f"M{b_x - 4 * inwards:.1f} {b_y - 3:.1f}L{b_x:.1f} {b_y:.1f}L{b_x - 4 * inwards:.1f} {b_y + 3:.1f}"
    )
