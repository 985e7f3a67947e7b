"""Bytes: every codec against its seconds, with the entropy of the codes, and where every byte of the artifact goes."""

import pandas as pd

from stages.report.drawing import SMALL, WIDTH, Drawing, Figure, around, horizontal_axis, labels_beside, short, vertical_axis
from stages.report.figures.scores import _room

ROW = 19.0
MOST_ROWS = 24


def bytes_and_seconds(codecs: pd.DataFrame) -> Figure:
    """Bytes over seconds, hollow to encode, full to decode; the order-0 entropy of the codes as a dashed line."""
    ran = codecs[codecs["available"].astype(bool)]
    bottom = max(200.0, 44.0 + 13.5 * len(ran))
    drawing = Drawing("codecs", bottom + 42)
    seconds = [max(float(value), 0.001) for column in ("encode_seconds", "decode_seconds") for value in ran[column]]
    across, up = around(seconds, 44, 262, logarithmic=True), around([*ran["blob_bytes"], *ran["entropy_bytes"]], bottom - 8, 36)
    vertical_axis(drawing, up, left=44, right=268, title="bytes of the blob", write=short)
    horizontal_axis(drawing, across, top=28, bottom=bottom, title="seconds here, both axes: lower is better", write=short)
    entries = []
    for entropy in dict.fromkeys(ran["entropy_bytes"]):
        drawing.line([(44, up(entropy)), (268, up(entropy))], colour="ink", width=1.3, dashed=True)
        entries.append((268, up(entropy), "order-0 entropy", False))
    for row in ran.itertuples(index=False):
        decode, encode, y = across(max(row.decode_seconds, 0.001)), across(max(row.encode_seconds, 0.001)), up(row.blob_bytes)
        drawing.line([(decode, y), (encode, y)], colour="muted")
        drawing.mark(encode, y, hollow=True)
        drawing.mark(decode, y, "square" if row.ships else "circle", colour="good" if row.ships else "accent")
        entries.append((max(decode, encode), y, row.name, row.ships))
    labels_beside(drawing, entries, x=286, top=34, bottom=bottom - 2)
    words = ", ".join(f"{row.name} {row.blob_bytes:,} bytes" for row in ran.itertuples(index=False))
    return drawing.figure(
        title="Bytes against seconds, by codec",
        caption="Full: to decode. Hollow: to encode. Green square, bold: the one that ships. Dashed: what a coder reaches that knows only "
        "how often each code occurs in its matrix; it leaves out the other tensors.",
        label=f"Bytes of the same weights under each codec: {words}; order-0 entropy {int(ran['entropy_bytes'].iloc[0]):,} bytes.",
    )


def anatomy(parts: pd.DataFrame) -> Figure:
    """One bar for each group of bytes of the artifact, largest first within its part; the smallest of many are put together."""
    rows = []
    total = int(parts["bytes"].sum())
    for part, table in parts.groupby("part", sort=False):
        groups = [
            (group, int(size)) for group, size in table.groupby("group", sort=False)["bytes"].sum().sort_values(ascending=False).items()
        ]
        keep = max(3, MOST_ROWS // max(parts["part"].nunique(), 1))
        if len(groups) > keep:
            groups = [*groups[: keep - 1], (f"{len(groups) - keep + 1} others", sum(size for _, size in groups[keep - 1 :]))]
        rows.append((part, sum(size for _, size in groups), True))
        rows += [(group, size, False) for group, size in groups if (group, len(groups)) != (part, 1)]
    drawing = Drawing("bytes", 10 + ROW * len(rows) + 44)
    left = _room([name for name, _, _ in rows])
    scale = around([size for _, size, _ in rows], left, WIDTH - 104, least=0.0, margin=0.02)
    bottom = drawing.height - 42
    horizontal_axis(drawing, scale, top=4, bottom=bottom, title="bytes", write=short, count=4)
    for i, (name, size, is_part) in enumerate(rows):
        y = 6 + ROW * (i + 0.5)
        drawing.rectangle(scale(0), y - 5, max(scale(size) - scale(0), 0.6), 10, fill="accent", opacity=0.9 if is_part else 0.45)
        drawing.text(left - 8, y, name, anchor="end", bold=is_part, size=SMALL, widest=left - 8)
        drawing.text(WIDTH, y, f"{size:,}  {size / total:.1%}", anchor="end", size=SMALL, bold=is_part)
    words = ", ".join(f"{name} {size:,}" for name, size, is_part in rows if is_part)
    return drawing.figure(
        title="Where every byte goes",
        caption=f"Bold: parts; below each, its groups. Together {total:,} bytes.",
        label=f"Bytes of the artifact by part: {words}; together {total:,}.",
    )
