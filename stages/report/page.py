"""The report as one HTML page: no script, no network, light and dark, from a telephone to a wide screen.

Everything that comes from a file or from params.yaml passes through `escape`; the plots are escaped by their maker.
"""

from collections.abc import Callable
from html import escape

import pandas as pd

from stages.report import plots, tables
from stages.report.tables import Column, Evidence, Headline, cell

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f4; --card: #ffffff; --ink: #1b2420; --muted: #5d6a63;
  --line: #dde2dc; --accent: #2f6fb0; --good: #1c7c4f; --bad: #b5402a; --good-ground: #e2f2e9; --bad-ground: #fae7e2;
  --plain: #eceeea; }
@media (prefers-color-scheme: dark) { :root { --ground: #111614; --card: #19201d; --ink: #e4eae6; --muted: #98a69e;
  --line: #303a35; --accent: #74acea; --good: #5fc795; --bad: #f08b73; --good-ground: #17382a; --bad-ground: #43211a;
  --plain: #28302c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5; overflow-wrap: break-word;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { margin: 0; font-size: 28px; letter-spacing: -0.02em; }
h2 { margin: 0 0 4px; font-size: 19px; }
h3 { margin: 0; font-size: 16px; display: flex; gap: 8px; align-items: center; flex-wrap: wrap;
  overflow-wrap: anywhere; }
p { margin: 0 0 12px; }
.muted, .note { color: var(--muted); }
.note { font-size: 14px; max-width: 80ch; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px; margin-top: 20px;
  min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 20px; margin-top: 20px; }
.tiles .card { margin: 0; }
.tile-label { color: var(--muted); font-size: 14px; margin: 0; }
.tile-value { font-size: 34px; font-weight: 650; line-height: 1.2; letter-spacing: -0.02em; margin: 2px 0 4px;
  font-variant-numeric: tabular-nums; }
.tile-value small { font-size: 16px; font-weight: 400; letter-spacing: 0; color: var(--muted); }
.tile-note { font-size: 14px; margin: 0; overflow-wrap: anywhere; }
.valid { color: var(--good); } .invalid { color: var(--bad); }
.meter { height: 8px; border-radius: 4px; background: var(--plain); overflow: hidden; margin: 8px 0; }
.meter div { height: 100%; background: var(--accent); } .meter .over { background: var(--bad); }
.notices { border-color: var(--bad); background: var(--bad-ground); } .notices ul { margin: 0; padding-left: 20px; }
.sides { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 16px 32px; align-items: start; }
.tables > :nth-child(n + 2) { margin-top: 28px; }
figure { margin: 8px 0 0; } figure svg { display: block; width: 100%; height: auto; max-width: 500px; }
figure svg text { font-family: inherit !important; }
figcaption { color: var(--muted); font-size: 13px; margin-top: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 0 6px 14px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: baseline; }
th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--muted); font-weight: 500; font-size: 13px; line-height: 1.3; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 84px; } tbody th small { display: block; }
small { color: var(--muted); font-weight: 400; }
.number { text-align: right; white-space: nowrap; } thead .number { white-space: normal; }
td.hash, span.hash { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px;
  overflow-wrap: anywhere; }
td.hash { min-width: 130px; }
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
.certificates { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 24px 40px;
  margin-top: 14px; }
.checks { list-style: none; margin: 8px 0 0; padding: 0; font-size: 14px; }
.checks li { border-top: 1px solid var(--line); padding: 7px 0; display: grid; gap: 2px 12px;
  grid-template-columns: minmax(0, 1fr) auto; }
.checks p { margin: 0; grid-column: 1 / -1; color: var(--muted); font-size: 13px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 6px 20px; margin: 8px 0 0; font-size: 14px; }
dt { color: var(--muted); } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
details { margin-top: 8px; font-size: 14px; color: var(--muted); } summary { cursor: pointer; }
footer { margin-top: 20px; color: var(--muted); font-size: 13px; overflow-wrap: anywhere; }
@media (max-width: 860px) { .tiles, .sides { grid-template-columns: minmax(0, 1fr); } .tiles { gap: 12px; } }
@media (max-width: 560px) { main { padding: 20px 10px 32px; } .card { padding: 16px 12px; } table { font-size: 13px; }
  th, td { padding-left: 6px; } thead th { font-size: 11.5px; } tbody th { min-width: 64px; }
  .number { font-size: 12px; } .tile-value { font-size: 28px; } }
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(evidence: Evidence) -> str:
    """The whole page. Equal evidence gives equal bytes."""
    top = tables.headline(evidence)
    title = "Caddie report" if top.run is None else f"Caddie report: {top.bits_per_byte:.4f} bits per byte"
    body = [_notices(evidence), _tiles(evidence, top), _scores(evidence, top), _quantized(evidence),
            _codecs(evidence), _compressors(evidence, top), _certificates(evidence), _training(evidence), _text(evidence)]
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
<header><h1>Caddie report</h1><p class="muted">A language model with its code in
{top.cap_bytes:,} bytes, and how far its score can be trusted.</p></header>
{"".join(body)}
<footer>artifact sha256 <span class="hash">{escape(evidence.package["sha256"])}</span></footer>
</main>
</body>
</html>
"""


def _notices(evidence: Evidence) -> str:
    items = "".join(f"<li>{escape(notice)}</li>" for notice in tables.notices(evidence))
    title = "<h2>These numbers do not belong together</h2>"
    return f'<section class="card notices">{title}<ul>{items}</ul></section>' if items else ""


def _tiles(evidence: Evidence, top: Headline) -> str:
    package, state = evidence.package, "valid" if top.is_valid else "invalid"
    if top.run is None:
        score, how = tables.ABSENT, "no evaluator is legal"
    else:
        score, how = cell(top.bits_per_byte, "score"), f"with the evaluator {top.run}, legal"
    lower = "".join(
        f' <span class="invalid">{escape(run)} is lower, {cell(evidence.evaluate[run]["bits_per_byte"], "score")}, '
        "but not legal.</span>" for run in top.lower_but_not_legal)
    share = top.artifact_bytes / top.cap_bytes
    word, _, reason = top.verdict.partition(": ")
    return f"""<section class="tiles" aria-label="Result">
<div class="card"><p class="tile-label">score</p><p class="tile-value">{score} <small>bits per byte</small></p>
<p class="tile-note">{escape(how)}.{lower}</p></div>
<div class="card"><p class="tile-label">artifact</p>
<p class="tile-value">{top.artifact_bytes:,} <small>bytes</small></p>
<div class="meter"><div{"" if share <= 1 else ' class="over"'} style="width: {min(share, 1):.2%}"></div></div>
<p class="tile-note">{top.room}: {package["code_bytes"]:,} are code,
{package["model_bytes"]:,} the model by {escape(package["compress_run"])}.</p></div>
<div class="card"><p class="tile-label">verdict</p><p class="tile-value {state}">{escape(word)}</p>
<p class="tile-note">{escape(reason)}.</p></div>
</section>"""


def _scores(evidence: Evidence, top: Headline) -> str:
    stages, evaluators = tables.stages(evidence), tables.evaluators(evidence)
    return _section(
        "Bits per byte",
        "Stages are scored in plain windows that do not overlap. Evaluators score the packaged artifact; the gain is "
        "against the first sliding run.",
        '<div class="sides">' + _figure(
            plots.score_steps(stages, evaluators),
            "A bar is a change, a dot its result. Stages start from the stage above, evaluators from the dashed "
            "line: the quantized model in plain windows. Hatched is not legal.")
        + '<div class="tables">' + _table(stages, tables.STAGE_COLUMNS)
        + _table(evaluators, tables.EVALUATOR_COLUMNS, beneath=lambda row: row.why,
                 is_best=lambda row: row.name == top.run)
        + "</div></div>")


def _quantized(evidence: Evidence) -> str:
    return _section(
        "Quantization",
        "Bits per weight and bytes: order-0 entropy of the codes and everything stored beside them, before any codec. Output error: of "
        "what a layer gives on the calibration tokens, relative; of tables, of the weights themselves.",
        f"<p>{escape(tables.lost(evidence))}</p>" + '<div class="sides">'
        + _figure(plots.tensor_errors(evidence.tensors), "One dot for each tensor, in the order of the network, by group.")
        + _table(tables.quantized(evidence), tables.QUANTIZED_COLUMNS) + "</div>")


def _codecs(evidence: Evidence) -> str:
    codecs, groups = tables.codecs(evidence), tables.groups(evidence)
    shipped = groups[groups["name"] == evidence.package["compress_run"]]
    return _section(
        "Codecs",
        "The same quantized weights under each codec, checked by decoding. The order-0 entropy is what a coder "
        "reaches that knows only how often each code occurs in its matrix; one that sees more than that can get below it. "
        + (f"It is {tables.entropy_note(evidence)}." if evidence.compress else ""),
        '<div class="sides">'
        + _figure(plots.codec_sizes(codecs), "Strong: the one that ships. Line: the order-0 entropy of the codes.")
        + _table(codecs, tables.CODEC_COLUMNS, is_best=lambda row: row.ships,
                 small=lambda row: ", ".join(filter(None, [row.codec, row.filters, "ships" if row.ships else ""])),
                 beneath=lambda row: "" if row.available else f"not available: {row.reason}")
        + _figure(plots.codec_speeds(codecs), "Full: to decode. Hollow: to encode. Dashed: the order-0 entropy of the codes.")
        + _table(shipped, tables.GROUP_COLUMNS) + "</div>")


def _compressors(evidence: Evidence, top: Headline) -> str:
    val_bytes = evidence.prepare["bytes"]["val"]
    alone = top.artifact_bytes * 8 / val_bytes
    return _section(
        "General-purpose compressors on the same text",
        f"{' '.join(tables.COMPARISON.split())} Spread over the {val_bytes:,} bytes of this val split, they are "
        f"{alone:,.2f} bits per byte.",
        _table(tables.compressors(evidence), tables.COMPRESSOR_COLUMNS,
               is_best=lambda row: row.name not in evidence.baseline["compressors"]))


def _certificates(evidence: Evidence) -> str:
    checks, articles = tables.checks(evidence), []
    for run, certificate in evidence.certificates.items():
        is_legal = certificate["legal"]
        items = "".join(
            f"<li><strong>{escape(row.check)}</strong>{_verdict(row.verdict)}<p>{escape(row.evidence)}</p></li>"
            for row in checks[checks["name"] == run].itertuples())
        claims = ", ".join(certificate["claims"]) or "nothing"
        articles.append(
            f'<article><h3>{escape(run)} {_pill(cell(is_legal, "legal"), is_good=is_legal)}</h3>'
            f'<p class="note">evaluator {escape(certificate["evaluator"])}, claims {escape(claims)}</p>'
            f'<ul class="checks">{items}</ul></article>')
    return _section("Certificates", "What the audit tried against each evaluator, and what it saw.",
                    f'<div class="certificates">{"".join(articles)}</div>')


def _training(evidence: Evidence) -> str:
    train = evidence.train
    facts = {"parameters": cell(train["parameters"], "count"), "steps": cell(train["steps"], "count"),
             "seconds": cell(train["train_seconds"], "seconds"),
             "tokens per second": cell(train["tokens_per_second"], "seconds"),
             "last train loss": f"{cell(train['loss_nats'], 'score')} nats per token",
             "holdout": f"{cell(train['holdout_bits_per_byte'], 'score')} bits per byte",
             "device": str(train["device"]), "processes": cell(train["processes"], "count"),
             "seed": str(train["seed"])}
    figure = _figure(plots.loss_curve(evidence.loss), "Faint: each step. Strong: the running mean.")
    content = f'<div class="sides">{figure}{_facts(facts)}</div>'
    if len(evidence.averages):
        content += '<div class="sides">' + _figure(
            plots.averages(tables.averages(evidence)),
            "Holdout, the averages of the weights that were tried; 1 - decay is about one over the steps that count. Strong: the one that "
            "goes on.") + _table(tables.averages(evidence), tables.AVERAGE_COLUMNS) + "</div>"
    return _section("Training", "", content + _table(tables.budget(evidence), tables.BUDGET_COLUMNS))


def _text(evidence: Evidence) -> str:
    content = _table(tables.splits(evidence), tables.SPLIT_COLUMNS)
    content += _facts({"source": tables.phrase(evidence.prepare["source"]),
                       "scores divide by the bytes of the": tables.counted_on(evidence)})
    if packages := evidence.prepare.get("packages"):
        names = escape(", ".join(f"{name} {version}" for name, version in packages.items()))
        content += f"<details><summary>{len(packages)} packages it was read from</summary><p>{names}</p></details>"
    return _section("Text", "", content)


def _section(title: str, note: str, content: str) -> str:
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section class="card"><h2>{escape(title)}</h2>{note}{content}</section>\n'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _facts(facts: dict[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts.items())}</dl>"


def _table(
    table: pd.DataFrame, columns: tuple[Column, ...], *, small: Callable = lambda row: "",
    beneath: Callable = lambda row: "", is_best: Callable = lambda row: False,
) -> str:
    """An HTML table; of a row, `small` goes under its name, `beneath` on its own line, `is_best` highlights it."""
    titles = "".join(f'<th scope="col"{_class(column)}>{escape(column.title)}</th>' for column in columns)
    body = []
    for row in table.itertuples():
        name, *values = [(column, getattr(row, column.key)) for column in columns]
        under = f"<small>{escape(small(row))}</small>" if small(row) else ""
        breakable = escape(cell(name[1], name[0].kind)).replace("_", "_<wbr>")
        cells = f'<th scope="row">{breakable}{under}</th>'
        cells += "".join(f"<td{_class(column)}>{_content(value, column)}</td>" for column, value in values)
        classes = " ".join(filter(None, ["best" if is_best(row) else "", "has-beneath" if beneath(row) else ""]))
        body.append(f'<tr class="{classes}">{cells}</tr>' if classes else f"<tr>{cells}</tr>")
        if beneath(row):
            body.append(f'<tr class="beneath"><td colspan="{len(columns)}">{escape(beneath(row))}</td></tr>')
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _class(column: Column) -> str:
    return ' class="number"' if column.kind in tables.NUMBERS else ' class="hash"' if column.kind == "hash" else ""


def _content(value, column: Column) -> str:
    text = cell(value, column.kind)
    return _pill(text, is_good=value) if column.kind == "legal" else escape(text)


def _pill(text: str, *, is_good: bool) -> str:
    return f'<span class="pill {"good" if is_good else "bad"}">{escape(text)}</span>'


def _verdict(verdict: str) -> str:
    text = verdict.replace("_", " ")
    if verdict == "not_applicable":
        return f'<span class="pill">{escape(text)}</span>'
    return _pill(text, is_good=verdict == "pass")
