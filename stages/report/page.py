"""The report as one HTML page, from a telephone to a wide screen: what came out, why it can be trusted, where everything went."""

from pathlib import Path

from stages.lib import page
from stages.report import columns, figures, lineage, tables
from stages.report.columns import ABSENT, Shown, cell, shown
from stages.report.evidence import Evidence
from stages.report.figures import Figure, lineage_graph
from stages.report.summary import verdict_line
from stages.report.tables import Headline

TEMPLATE = Path(__file__).parent / "templates/report.html.j2"


def drawings(evidence: Evidence) -> dict[str, Figure]:
    """Every figure by name; one without data is left out, and the page then says why."""
    data = {
        "scores": tables.bits_per_byte(evidence),
        "evaluators": tables.evaluators(evidence),
        "compressors": tables.compressors(evidence),
        "loss": evidence.loss,
        "budget": tables.budget(evidence),
        "averages": evidence.averages,
        "bits": evidence.tensors,
        "errors": evidence.tensors,
        "bytes": evidence.anatomy,
        "codecs": tables.codecs(evidence),
    }
    codecs = data["codecs"]
    data["codecs"] = codecs[codecs["available"].astype(bool)]
    if not (evidence.tensors["relative_error"] > 0).any():
        del data["errors"]
    drawn = {name: figures.draw(name, table) for name, table in data.items() if len(table)}
    return drawn | ({"lineage": lineage_graph.draw(evidence.graph)} if evidence.graph.boxes else {})


def render(evidence: Evidence, drawn: dict[str, Figure]) -> str:
    """The whole page, with the figures `drawn`. Equal evidence gives equal bytes."""
    top, certificates = tables.headline(evidence), evidence.certificates
    return page.render(
        TEMPLATE,
        top=top,
        figures=drawn,
        tables=_tables(evidence, top),
        notices=tables.notices(evidence),
        package=evidence.package,
        evaluate=evidence.evaluate,
        certificates=certificates,
        checks={name: check for certificate in certificates.values() for name, check in certificate["checks"].items()},
        training=_training(evidence),
        val_bytes=evidence.prepare["bytes"]["val"],
        source=evidence.prepare["source"],
        packages=evidence.prepare.get("packages", {}),
        comparison=" ".join(tables.COMPARISON.split()),
        spoiled=lineage.spoiled(evidence.graph),
        goes_on=tables.goes_on(evidence),
        lost=tables.lost(evidence),
        entropy_note=tables.entropy_note(evidence),
        counted_on=tables.counted_on(evidence),
        verdict_line=verdict_line,
        cell=cell,
        phrase=columns.phrase,
        absent=ABSENT,
    )


def _tables(evidence: Evidence, top: Headline) -> dict[str, Shown]:
    """Every table of the page, by the name of its CSV file."""
    groups = tables.groups(evidence)
    return {
        "stages": shown(tables.stages(evidence), columns.STAGE_COLUMNS, title="After each stage"),
        "evaluators": shown(
            tables.evaluators(evidence),
            columns.EVALUATOR_COLUMNS,
            title="By evaluator",
            beneath=lambda row: row.why,
            is_best=lambda row: row.name == top.run,
        ),
        "compressors": shown(
            tables.compressors(evidence),
            columns.COMPRESSOR_COLUMNS,
            title="General-purpose compressors on the same text",
            is_best=lambda row: row.name not in evidence.text_compressors["compressors"],
        ),
        "hashes": shown(tables.hashes(evidence), columns.HASH_COLUMNS, title="Hashes"),
        "environment": shown(tables.environment(evidence), columns.ENVIRONMENT_COLUMNS, title="Environment"),
        "lineage": shown(lineage.table(evidence.graph), columns.LINEAGE_COLUMNS),
        "averages": shown(tables.averages(evidence), columns.AVERAGE_COLUMNS, title="Averages, on the holdout split"),
        "budget": shown(tables.budget(evidence), columns.BUDGET_COLUMNS, title="Ledger of seconds"),
        "quantized": shown(tables.quantized(evidence), columns.QUANTIZED_COLUMNS, title="By group"),
        "tensors": shown(evidence.tensors, columns.TENSOR_COLUMNS),
        "codecs": shown(
            tables.codecs(evidence),
            columns.CODEC_COLUMNS,
            title="Codecs",
            is_best=lambda row: row.ships,
            small=lambda row: ", ".join(filter(None, [row.codec, row.filters, "ships" if row.ships else ""])),
            beneath=lambda row: "" if row.available else f"not available: {row.reason}",
        ),
        "groups": shown(
            groups[groups["name"] == evidence.package["compress_run"]], columns.GROUP_COLUMNS, title="Sections of the blob that ships"
        ),
        "bytes": shown(evidence.anatomy, columns.ANATOMY_COLUMNS),
        "splits": shown(tables.splits(evidence), columns.SPLIT_COLUMNS),
    }


def _training(evidence: Evidence) -> dict[str, str]:
    train = evidence.train
    measured = "" if evidence.loss["holdout_bits_per_byte"].notna().any() else "; no curve, because it was not measured in this run"
    return {
        "parameters": cell(train["parameters"], "count"),
        "steps": cell(train["steps"], "count"),
        "seconds": cell(train["train_seconds"], "seconds"),
        "tokens per second": cell(train["tokens_per_second"], "seconds"),
        "last train loss": f"{cell(train['loss_nats'], 'score')} nats per token",
        "holdout": f"{cell(train['holdout_bits_per_byte'], 'score')} bits per byte{measured}",
        "device": str(train["device"]),
        "processes": cell(train["processes"], "count"),
        "seed": str(train["seed"]),
    }
