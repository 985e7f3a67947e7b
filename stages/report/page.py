"""The report as one HTML page, from a telephone to a wide screen: what came out, why it can be trusted, where everything went."""

from html import escape

from stages.report import columns, html, lineage, tables
from stages.report.columns import cell, phrase
from stages.report.drawing import Figure
from stages.report.summary import verdict_line
from stages.report.tables import Evidence, Headline

SECTIONS = {
    "scores": "Score",
    "certificates": "Certificates",
    "lineage": "Lineage",
    "training": "Training",
    "weights": "Weights",
    "bytes": "Bytes",
    "text": "Text",
}


def render(evidence: Evidence, drawn: dict[str, Figure]) -> str:
    """The whole page, with the figures `drawn`. Equal evidence gives equal bytes."""
    top = tables.headline(evidence)
    title = "Caddie report" if top.run is None else f"Caddie report: {top.bits_per_byte:.4f} bits per byte"
    body = [
        _notices(evidence),
        _tiles(evidence, top),
        _scores(evidence, drawn, top),
        _certificates(evidence),
        _lineage(evidence, drawn),
        _training(evidence, drawn),
        _weights(evidence, drawn),
        _bytes(evidence, drawn),
        _text(evidence),
    ]
    return html.page(
        title,
        "Caddie report",
        f"A language model with its code in {top.cap_bytes:,} bytes, and how far its score can be trusted.",
        "".join(body),
        f'artifact sha256 <span class="hash">{escape(evidence.package["sha256"])}</span>',
        links=SECTIONS,
    )


def _notices(evidence: Evidence) -> str:
    items = "".join(f"<li>{escape(notice)}</li>" for notice in tables.notices(evidence))
    title = "<h2>These numbers do not belong together</h2>"
    return f'<section class="card notices">{title}<ul>{items}</ul></section>' if items else ""


def _tiles(evidence: Evidence, top: Headline) -> str:
    package, state = evidence.package, "valid" if top.is_valid else "invalid"
    if top.run is None:
        score, how = columns.ABSENT, "no evaluator is legal"
    else:
        score, how = cell(top.bits_per_byte, "score"), f"with the evaluator {top.run}, legal"
    lower = "".join(
        f' <span class="invalid">{escape(run)} is lower, {cell(evidence.evaluate[run]["bits_per_byte"], "score")}, '
        f"but {tables.verdict(evidence.certificates[run])}.</span>"
        for run in top.lower_but_not_legal
    )
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


def _scores(evidence: Evidence, drawn: dict[str, Figure], top: Headline) -> str:
    stages, evaluators, val_bytes = tables.stages(evidence), tables.evaluators(evidence), evidence.prepare["bytes"]["val"]
    first = html.sides(
        html.figure(drawn["waterfall"]),
        html.table(stages, columns.STAGE_COLUMNS, title="After each stage")
        + html.table(
            evaluators,
            columns.EVALUATOR_COLUMNS,
            title="By evaluator",
            beneath=lambda row: row.why,
            is_best=lambda row: row.name == top.run,
        ),
    )
    second = html.sides(html.figure(drawn.get("evaluators"), absent="No evaluator ran."), html.figure(drawn["compressors"]))
    return html.section(
        "scores",
        "Bits per byte",
        "Stages are scored in plain windows that do not overlap. Evaluators score the packaged artifact; the gain is against the first "
        "sliding run.",
        first
        + second
        + html.table(
            tables.compressors(evidence),
            columns.COMPRESSOR_COLUMNS,
            title="General-purpose compressors on the same text",
            is_best=lambda row: row.name not in evidence.baseline["compressors"],
        )
        + f'<p class="note">{escape(" ".join(tables.COMPARISON.split()))} Spread over the {val_bytes:,} bytes of this val split, the '
        f"artifact's are {top.artifact_bytes * 8 / val_bytes:,.2f} bits per byte.</p>",
    )


def _certificates(evidence: Evidence) -> str:
    runs = evidence.certificates
    if not runs:
        return html.section("certificates", "Certificates", "No evaluator ran, so nothing is certified.", "")
    checks = {name: check for certificate in runs.values() for name, check in certificate["checks"].items()}
    head = "".join(f'<th scope="col">{html.breakable(run)}</th>' for run in runs)
    rows = [f'<tr><th scope="row">verdict</th>{"".join(f"<td>{html.verdict(tables.verdict(runs[run]))}</td>" for run in runs)}</tr>']
    for name in checks:
        found = [certificate["checks"].get(name) for certificate in runs.values()]
        cells = "".join(f"<td>{html.verdict(check['verdict']) if check else columns.ABSENT}</td>" for check in found)
        rows.append(f'<tr><th scope="row">{html.breakable(name)}</th>{cells}</tr>')
    grid = (
        f'<div class="scroll"><table><thead><tr><th scope="col">check</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
    lines = "".join(f"<p>{escape(verdict_line(run, certificate))}</p>" for run, certificate in runs.items())
    said = dict.fromkeys(certificate["significance"] for certificate in runs.values())
    lines += f'<p class="note">Significance: {escape("; ".join(said))}.</p>'
    meanings = "".join(
        f"<h4>{escape(name)}</h4>"
        + html.facts({"proves": check["proves"], "cannot see": check["cannot_see"], "precedent": check["precedent"]})
        for name, check in checks.items()
    )
    lines += html.details("what each check proves, what it cannot see, and which ruling it follows", meanings)
    for run, certificate in runs.items():
        claims = ", ".join(certificate["claims"]) or "nothing"
        items = "".join(
            f"<h4>{escape(name)} {html.verdict(check['verdict'])}</h4><p>{escape(_looked(check))}{escape(phrase(check['evidence']))}</p>"
            for name, check in certificate["checks"].items()
        )
        lines += html.details(f"{run}: evaluator {certificate['evaluator']}, claims {claims}; the evidence of each check", items)
    return html.section(
        "certificates",
        "Certificates",
        "What the audit tried against each evaluator, and what it saw.",
        f'<div class="sides"><div>{grid}</div><div>{lines}</div></div>',
    )


def _looked(check: dict) -> str:
    """At how many positions, and how far off the worst was."""
    looked = f"{check['positions']:,} positions; " if check["positions"] is not None else ""
    return looked + (f"largest deviation {check['largest_deviation']:.4g}; " if check["largest_deviation"] is not None else "")


def _lineage(evidence: Evidence, drawn: dict[str, Figure]) -> str:
    spoiled = lineage.spoiled(evidence.graph)
    said = f"{spoiled[0].upper()}{spoiled[1:]}." if spoiled else "Nothing above the artifact has seen the val split."
    absent = "dvc.lock is missing: this run was not made by dvc repro, so nothing is known of its lineage."
    right = f"<p>{escape(said)}</p>" if evidence.graph.boxes else ""
    right += html.table(tables.hashes(evidence), columns.HASH_COLUMNS, title="Hashes")
    right += html.table(tables.environment(evidence), columns.ENVIRONMENT_COLUMNS, title="Environment")
    content = html.sides(html.figure(drawn.get("lineage"), absent=absent), right)
    if evidence.graph.boxes:
        content += html.details("what each node read", html.table(lineage.table(evidence.graph), columns.LINEAGE_COLUMNS))
    return html.section("lineage", "Lineage, hashes, environment", "", content)


def _training(evidence: Evidence, drawn: dict[str, Figure]) -> str:
    train = evidence.train
    facts = {
        "parameters": cell(train["parameters"], "count"),
        "steps": cell(train["steps"], "count"),
        "seconds": cell(train["train_seconds"], "seconds"),
        "tokens per second": cell(train["tokens_per_second"], "seconds"),
        "last train loss": f"{cell(train['loss_nats'], 'score')} nats per token",
        "holdout": f"{cell(train['holdout_bits_per_byte'], 'score')} bits per byte",
        "device": str(train["device"]),
        "processes": cell(train["processes"], "count"),
        "seed": str(train["seed"]),
    }
    averages = html.table(tables.averages(evidence), columns.AVERAGE_COLUMNS, title="Averages, on the holdout split")
    averages += f'<p class="note">{escape(tables.goes_on(evidence))}</p>'
    content = html.sides(html.figure(drawn["loss"]), html.facts(facts) + html.figure(drawn["budget"]))
    content += html.sides(
        html.figure(drawn.get("averages"), absent="No average was compared."),
        averages + html.table(tables.budget(evidence), columns.BUDGET_COLUMNS, title="Ledger of seconds"),
    )
    return html.section("training", "Training and budgets", "", content)


def _weights(evidence: Evidence, drawn: dict[str, Figure]) -> str:
    content = html.sides(html.figure(drawn["bits"]), html.figure(drawn["errors"]))
    content += html.table(tables.quantized(evidence), columns.QUANTIZED_COLUMNS, title="By group")
    content += html.details(f"all {len(evidence.tensors)} tensors", html.table(evidence.tensors, columns.TENSOR_COLUMNS))
    return html.section(
        "weights",
        "Quantized weights",
        "Bits per weight and bytes: order-0 entropy of the codes and everything stored beside them, before any codec. Output error: of "
        "what a layer gives on the calibration tokens, relative; of tables, of the weights themselves.",
        f"<p>{escape(tables.lost(evidence))}</p>{content}",
    )


def _bytes(evidence: Evidence, drawn: dict[str, Figure]) -> str:
    codecs, groups = tables.codecs(evidence), tables.groups(evidence)
    shipped = groups[groups["name"] == evidence.package["compress_run"]]
    content = html.sides(
        html.figure(drawn.get("codecs"), absent="No codec ran."),
        html.table(
            codecs,
            columns.CODEC_COLUMNS,
            title="Codecs",
            is_best=lambda row: row.ships,
            small=lambda row: ", ".join(filter(None, [row.codec, row.filters, "ships" if row.ships else ""])),
            beneath=lambda row: "" if row.available else f"not available: {row.reason}",
        ),
    )
    content += html.sides(html.figure(drawn["bytes"]), html.table(shipped, columns.GROUP_COLUMNS, title="Sections of the blob that ships"))
    content += html.details(f"all {len(evidence.anatomy)} parts of the artifact", html.table(evidence.anatomy, columns.ANATOMY_COLUMNS))
    return html.section(
        "bytes",
        "Bytes",
        "The same quantized weights under each codec, checked by decoding. The order-0 entropy is what a coder reaches that knows only how "
        "often each code occurs in its matrix; one that sees more than that can get below it. "
        + (f"It is {tables.entropy_note(evidence)}." if evidence.compress else ""),
        content,
    )


def _text(evidence: Evidence) -> str:
    content = html.table(tables.splits(evidence), columns.SPLIT_COLUMNS)
    content += html.facts({"source": phrase(evidence.prepare["source"]), "scores divide by the bytes of the": tables.counted_on(evidence)})
    if packages := evidence.prepare.get("packages"):
        names = escape(", ".join(f"{name} {version}" for name, version in packages.items()))
        content += html.details(f"{len(packages)} packages it was read from", f"<p>{names}</p>")
    return html.section("text", "Text", "", content)
