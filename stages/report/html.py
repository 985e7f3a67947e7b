"""The look of the report's pages, and their parts: sections, figures, tables, facts. No script, no network, nothing but this file.

Everything that comes from a file or from params.yaml passes through `escape`; figures are escaped by their maker.
"""

from collections.abc import Callable
from html import escape

import pandas as pd

from stages.report.columns import NUMBERS, Column, cell
from stages.report.drawing import DARK, LIGHT, Figure

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
@media print {{ :root {{ color-scheme: light; {_variables(LIGHT | {"ground": "#ffffff"})} }} }}
""" + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5; overflow-wrap: break-word;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { margin: 0; font-size: 28px; letter-spacing: -0.02em; }
h2 { margin: 0 0 4px; font-size: 20px; letter-spacing: -0.01em; }
h3 { margin: 0 0 8px; font-size: 15px; font-weight: 620; overflow-wrap: anywhere; }
p { margin: 0 0 12px; }
a { color: var(--accent); }
nav { margin-top: 12px; font-size: 14px; display: flex; flex-wrap: wrap; gap: 4px 16px; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
.muted, .note { color: var(--muted); }
.note { font-size: 14px; max-width: 86ch; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 22px 24px; margin-top: 20px;
  min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 20px; margin-top: 20px; }
.tiles .card { margin: 0; }
.tile-label { color: var(--muted); font-size: 14px; margin: 0; }
.tile-value { font-size: 36px; font-weight: 680; line-height: 1.2; letter-spacing: -0.02em; margin: 2px 0 4px;
  font-variant-numeric: tabular-nums; }
.tile-value small { font-size: 16px; font-weight: 400; letter-spacing: 0; color: var(--muted); }
.tile-note { font-size: 14px; margin: 0; overflow-wrap: anywhere; }
.valid { color: var(--good); } .invalid { color: var(--bad); }
.meter { height: 8px; border-radius: 4px; background: var(--plain); overflow: hidden; margin: 8px 0; }
.meter div { height: 100%; background: var(--accent); } .meter .over { background: var(--bad); }
.notices { border-color: var(--bad); background: var(--bad-ground); } .notices ul { margin: 0; padding-left: 20px; }
.sides { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 28px 40px; align-items: start; margin-top: 18px; }
.stack > * + * { margin-top: 28px; } .sides + .scroll, .sides + p { margin-top: 28px; } .scroll + .note { margin-top: 12px; }
figure { margin: 0; max-width: 500px; } figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-variant-numeric: tabular-nums; }
figcaption { color: var(--muted); font-size: 13px; line-height: 1.45; margin-top: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 620; font-size: 15px; padding-bottom: 6px; }
th, td { padding: 6px 0 6px 14px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: baseline; }
th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--muted); font-weight: 500; font-size: 13px; line-height: 1.3; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 84px; overflow-wrap: break-word; } tbody th small { display: block; }
small { color: var(--muted); font-weight: 400; }
.number { text-align: right; white-space: nowrap; } thead .number { white-space: normal; }
td.hash, span.hash { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px; overflow-wrap: anywhere; }
td.hash { min-width: 130px; } td.reads { font-size: 12px; color: var(--muted); overflow-wrap: anywhere; }
.has-beneath > * { border-bottom: 0; padding-bottom: 0; } .beneath td { color: var(--bad); font-size: 13px;
  padding-top: 2px; overflow-wrap: anywhere; }
.best { background: var(--good-ground); } .best > :first-child { box-shadow: -8px 0 0 var(--good-ground); }
.best > :last-child { box-shadow: 8px 0 0 var(--good-ground); }
.scroll:has(.best) { padding: 0 8px; margin-left: -8px; margin-right: -8px; }
.pill { display: inline-block; border-radius: 99px; padding: 1px 9px; font-size: 12px; font-weight: 600;
  line-height: 1.5; white-space: nowrap; background: var(--plain); color: var(--muted); }
.pill.good { background: var(--good-ground); color: var(--good); }
.pill.bad { background: var(--bad-ground); color: var(--bad); }
.best .pill.good { background: var(--card); }
dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 6px 20px; margin: 8px 0 0; font-size: 14px; }
dt { color: var(--muted); } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
details { margin-top: 14px; font-size: 14px; } summary { cursor: pointer; color: var(--muted); }
details p { font-size: 13px; margin: 4px 0 10px; overflow-wrap: anywhere; } details h4 { margin: 14px 0 0; font-size: 14px; }
footer { margin-top: 20px; color: var(--muted); font-size: 13px; overflow-wrap: anywhere; }
@media (max-width: 860px) { .tiles, .sides { grid-template-columns: minmax(0, 1fr); } .tiles { gap: 12px; } }
@media (max-width: 560px) { main { padding: 20px 10px 32px; } .card { padding: 16px 12px; } table { font-size: 13px; }
  th, td { padding-left: 6px; } thead th { font-size: 11.5px; } tbody th { min-width: 56px; }
  .number { font-size: 12px; } .tile-value { font-size: 30px; } .pill { padding: 1px 7px; white-space: normal; border-radius: 9px; } }
@media print { body { font-size: 11px; } main { max-width: none; padding: 0; } nav { display: none; } figure, tr { break-inside: avoid; }
  .card { border-radius: 0; } .scroll { overflow: visible; }
  details:not([open])::details-content { content-visibility: visible; block-size: auto; } }
"""


def page(title: str, heading: str, subtitle: str, body: str, footer: str, *, links: dict[str, str]) -> str:
    """A whole page; `links` leads from its top to its sections: anchor to name."""
    anchors = "".join(f'<a href="#{escape(anchor)}">{escape(name)}</a>' for anchor, name in links.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header><h1>{escape(heading)}</h1><p class="muted">{escape(subtitle)}</p><nav aria-label="Sections">{anchors}</nav></header>
{body}
<footer>{footer}</footer>
</main>
</body>
</html>
"""


def section(anchor: str, title: str, note: str, content: str) -> str:
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section class="card" id="{anchor}"><h2>{escape(title)}</h2>{note}{content}</section>\n'


def sides(left: str, right: str) -> str:
    """Beside each other on a wide page, else one after the other."""
    return f'<div class="sides"><div class="stack">{left}</div><div class="stack">{right}</div></div>'


def figure(drawn: Figure | None, *, absent: str = "") -> str:
    """A figure with title and caption; where there is none, why."""
    if drawn is None:
        return f'<p class="note">{escape(absent)}</p>'
    return f"<figure><h3>{escape(drawn.title)}</h3>{drawn.svg}<figcaption>{escape(drawn.caption)}</figcaption></figure>"


def facts(values: dict[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in values.items())}</dl>"


def details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def table(
    frame: pd.DataFrame, columns: tuple[Column, ...], *, title: str = "", small: Callable = lambda row: "",
    beneath: Callable = lambda row: "", is_best: Callable = lambda row: False,
) -> str:
    """An HTML table; of a row, `small` goes under its name, `beneath` on its own line, `is_best` highlights it."""
    titles = "".join(f'<th scope="col"{_class(column)}>{escape(column.title)}</th>' for column in columns)
    body = []
    for row in frame.itertuples():
        name, *values = [(column, getattr(row, column.key)) for column in columns]
        under = f"<small>{escape(small(row))}</small>" if small(row) else ""
        cells = f'<th scope="row">{breakable(cell(name[1], name[0].kind))}{under}</th>'
        cells += "".join(f"<td{_class(column)}>{_content(value, column)}</td>" for column, value in values)
        classes = " ".join(filter(None, ["best" if is_best(row) else "", "has-beneath" if beneath(row) else ""]))
        body.append(f'<tr class="{classes}">{cells}</tr>' if classes else f"<tr>{cells}</tr>")
        if beneath(row):
            body.append(f'<tr class="beneath"><td colspan="{len(columns)}">{escape(beneath(row))}</td></tr>')
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{titles}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def breakable(text: str) -> str:
    """Escaped, with places where a long name may be broken."""
    return escape(text).replace("_", "_<wbr>").replace("/", "/<wbr>").replace(".", ".<wbr>")


def verdict(text: str) -> str:
    """A verdict as a pill: green, red, or grey where nothing was decided."""
    good, bad = text in ("legal", "pass"), text in ("not legal", "fail")
    return f'<span class="pill{" good" if good else " bad" if bad else ""}">{escape(text.replace("_", " "))}</span>'


def _class(column: Column) -> str:
    kind = "number" if column.kind in NUMBERS else column.kind if column.kind in ("hash", "reads") else ""
    return f' class="{kind}"' if kind else ""


def _content(value, column: Column) -> str:
    text = cell(value, column.kind)
    return verdict(text) if column.kind == "verdict" else breakable(text) if column.kind == "reads" else escape(text)
