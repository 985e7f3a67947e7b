"""The lineage graph: every node of the run from the top down, what the artifact is made from on the left, what has seen val in red."""

from stages.report import lineage
from stages.report.drawing import SMALL, WIDTH, Drawing, Figure
from stages.report.lineage import Box, Graph

PITCH, HIGH = 47.0, 32.0
LANES = ((8.0, 222.0), (246.0, 384.0))  # from x to x: what ships or never saw val, and what saw it below the artifact


def draw(found: Graph) -> Figure:
    """Red, with a double frame: has seen val. The artifact itself: strong frame. Links that a longer way replaces are left out."""
    ranks = lineage.ranks(found)
    lanes = [int(box.touches_val and not box.ships) for box in found.boxes]
    drawing = Drawing("lineage", PITCH * (max(ranks) + 1) + 34)
    places = []  # x from, x to, y from
    for i in range(len(found.boxes)):
        beside = [j for j in range(len(found.boxes)) if (ranks[j], lanes[j]) == (ranks[i], lanes[i])]
        beside.sort(key=lambda j: not found.boxes[j].ships)
        left, right = LANES[lanes[i]]
        share = (right - left + 8) / len(beside)
        start = left + beside.index(i) * share
        places.append((start, start + share - 8, 6 + PITCH * ranks[i]))
    for a, b in found.links:
        _link(
            drawing,
            places[a],
            places[b],
            colour="bad" if found.boxes[a].touches_val else "muted",
            blocked=any(lanes[j] == lanes[a] == lanes[b] and ranks[a] < ranks[j] < ranks[b] for j in range(len(ranks))),
        )
    for box, place in zip(found.boxes, places, strict=True):
        _box(drawing, box, *place)
    y = drawing.height - 12
    for x, colour, text in ((8, "muted", "has not seen val"), (138, "bad", "has seen val"), (252, "ink", "the artifact")):
        drawing.rectangle(x, y - 5, 14, 10, fill="bad-ground" if colour == "bad" else "card", outline=colour, radius=2)
        drawing.text(x + 20, y, text, size=SMALL, colour="muted")
    seen = ", ".join(box.name for box in found.boxes if box.touches_val) or "none"
    above = lineage.spoiled(found) or "None of them is above the artifact"
    return drawing.figure(
        title="Lineage: what was made from what",
        caption="From dvc.lock. Left: what the artifact is made from. Red, double frame: has seen the val split, which below the artifact "
        "is how a score is made. What a node also reads from farther up is left out.",
        label=f"Graph of {len(found.boxes)} nodes. Have seen the val split: {seen}. {above}.",
    )


def _box(drawing: Drawing, box: Box, left: float, right: float, y: float) -> None:
    colour = "bad" if box.touches_val else "ink" if box.node == lineage.SHIPS else "muted"
    tooltip = f"{box.name}: {'has seen val' if box.touches_val else 'has not seen val'}"
    drawing.rectangle(
        left, y, right - left, HIGH, fill="bad-ground" if box.touches_val else "card", outline=colour, radius=5, tooltip=tooltip
    )
    if box.touches_val or box.node == lineage.SHIPS:
        drawing.rectangle(left + 2.5, y + 2.5, right - left - 5, HIGH - 5, outline=colour, radius=3)
    variants = ", ".join(box.variants)
    room = right - left - 12
    if len(variants) * 0.6 * SMALL > room:
        variants = f"{len(box.variants)} runs"
    middle = (left + right) / 2
    drawing.text(
        middle,
        y + (HIGH / 2 if not variants else 11),
        box.node,
        anchor="middle",
        bold=True,
        widest=room,
        colour="bad" if box.touches_val else "ink",
    )
    if variants:
        drawing.text(middle, y + 22.5, variants, size=9, anchor="middle", colour="muted", widest=room)


def _link(drawing: Drawing, start: tuple, end: tuple, *, colour: str, blocked: bool) -> None:
    (a_left, a_right, a_y), (b_left, b_right, b_y) = start, end
    if blocked:  # around the boxes between, on the outer side
        outer = WIDTH - 4 if a_left >= LANES[1][0] else 2
        a_x, b_x = (a_right, b_right) if outer > a_right else (a_left, b_left)
        inner = outer - 6 if outer > a_right else outer + 6
        a_y, b_y = a_y + HIGH / 2, b_y + HIGH / 2
        commands = f"M{a_x:.1f} {a_y:.1f}H{inner:.1f}Q{outer:.1f} {a_y:.1f} {outer:.1f} {a_y + 6:.1f}V{b_y - 6:.1f}"
        commands += f"Q{outer:.1f} {b_y:.1f} {inner:.1f} {b_y:.1f}H{b_x:.1f}"
        drawing.path(commands, outline=colour, width=1.3)
        turn = 4 if outer < b_x else -4
        drawing.path(f"M{b_x - turn:.1f} {b_y - 3:.1f}L{b_x:.1f} {b_y:.1f}L{b_x - turn:.1f} {b_y + 3:.1f}", outline=colour, width=1.3)
        return
    a_x, b_x, a_y = (a_left + a_right) / 2, (b_left + b_right) / 2, a_y + HIGH
    bend = (b_y - a_y) * 0.55
    drawing.path(
        f"M{a_x:.1f} {a_y:.1f}C{a_x:.1f} {a_y + bend:.1f} {b_x:.1f} {b_y - bend:.1f} {b_x:.1f} {b_y:.1f}", outline=colour, width=1.3
    )
    drawing.path(f"M{b_x - 3:.1f} {b_y - 4.5:.1f}L{b_x:.1f} {b_y:.1f}L{b_x + 3:.1f} {b_y - 4.5:.1f}", outline=colour, width=1.3)
