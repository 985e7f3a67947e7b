"""The figures of the report. Each has one Vega-Lite template, which `dvc plots` shows as it is and which is drawn here for the pages.

A template is a JSON file in this folder with title, explanation (the subtitle), and marks; dvc.yaml names it beside the CSV file that it
draws. It has two of DVC's placeholders: `<DVC_METRIC_DATA>` stands for the rows of that file, each with its revision as `rev`, and
`<DVC_METRIC_COLOR>` for the colours of the revisions. Colours are CSS variables of the page, with the light colours as defaults, so one
drawing serves a light page, a dark page and the page of DVC. Equal rows give equal bytes.
"""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import vl_convert

FOLDER = Path(__file__).parent
SVG = "http://www.w3.org/2000/svg"
MARKS = {"bar", "point", "rect mark"}
INK, MUTED, LINE = "var(--ink, #1b2420)", "var(--muted, #58655e)", "var(--line, #dbe0da)"
ACCENT, OTHER = "var(--accent, #0068a8)", "var(--other, #8c5a8f)"
STRONG = (ACCENT, "var(--bad, #b8460a)", "var(--good, #00734f)", OTHER, INK, MUTED)
SERIES = (*STRONG, *(f"color-mix(in srgb, {colour} 50%, var(--card, #ffffff))" for colour in STRONG))  # one colour per revision
# The style of all figures; their content is in the templates. vl_convert measures text in Liberation Sans, which comes with it.
LOOK = {
    "background": None,
    "font": "Liberation Sans",
    "padding": {"left": 2, "right": 22, "top": 4, "bottom": 4},
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "gridColor": LINE,
        "labelColor": INK,
        "labelFontSize": 12,
        "labelLimit": 165,
        "labelPadding": 5,
        "titleColor": MUTED,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
    },
    "axisQuantitative": {"labelColor": MUTED, "labelFontSize": 11, "labelOverlap": "greedy", "labelSeparation": 6},
    "header": {"labelColor": INK, "labelFontSize": 12},
    "legend": {"labelColor": INK, "labelFontSize": 12, "titleColor": MUTED},
    "text": {"fontSize": 12},
}


@dataclass(frozen=True)
class Figure:
    """A finished figure; `svg` is put on a page, and `caption` says how to read it."""

    name: str
    title: str
    caption: str
    svg: str


def draw(name: str, table: pd.DataFrame, *, folder: Path = FOLDER, said: dict[str, str] | None = None) -> Figure:
    """Draw the template `name` with the rows of `table`, as in its CSV file. If `rev` is a column, each revision has its own colour.
    `said`: titles of axes that replace those of the template."""
    revisions = list(dict.fromkeys(table["rev"])) if "rev" in table else [""]
    colour = {"value": ACCENT}
    if len(revisions) > 1:
        scale = {"domain": revisions, "range": list(SERIES[: len(revisions)])}
        colour = {"field": "rev", "type": "nominal", "scale": scale}
    rows = [{"rev": "", **row} for row in csv.DictReader(table.to_csv(index=False).splitlines(keepends=True))]
    text = (folder / f"{name}.json").read_text(encoding="utf-8").replace('"<DVC_METRIC_COLOR>"', json.dumps(colour))
    for before, after in (said or {}).items():
        text = text.replace(f'"title": {json.dumps(before)}', f'"title": {json.dumps(after)}')
    specification = json.loads(text.replace('"<DVC_METRIC_DATA>"', json.dumps(rows)))
    title = specification.pop("title")
    caption = " ".join(title["subtitle"])
    return Figure(
        name,
        title["text"],
        caption,
        accessible(
            vl_convert.vegalite_to_svg(specification, vl_version="5.20", config=LOOK), name=name, title=title["text"], description=caption
        ),
    )


def accessible(svg: str, *, name: str, title: str, description: str) -> str:
    """The SVG as one accessible image with a title and a description. Each mark has its values as a tooltip, and ids are unique on a page.
    The image takes the width of its container up to a little more than its own, and its text the font of the page."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for hidden in [child for child in element if child.get("opacity") == "0"]:  # a label that would overlap the next one
            element.remove(hidden)
        said, kind = element.attrib.pop("aria-label", None), element.attrib.pop("aria-roledescription", None)
        for attribute in ("role", "aria-hidden", "font-family", "pointer-events", "class"):
            element.attrib.pop(attribute, None)
        for attribute, value in element.attrib.items():
            element.set(attribute, f"{name}-{value}" if attribute == "id" else re.sub(r"url\(#", f"url(#{name}-", value))
        if said and kind in MARKS:
            ElementTree.SubElement(element, f"{{{SVG}}}title").text = re.sub("; rev: (?=;|$)", "", said)
    root.set("style", f"max-width: {1.15 * float(root.attrib['width']):.0f}px")  # a small figure stays small where there is room
    for attribute in ("width", "height"):
        del root.attrib[attribute]
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-description"}
    for place, (what, content) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{what}", {"id": f"{name}-{'title' if what == 'title' else 'description'}"})
        element.text = content
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")
