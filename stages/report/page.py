"""The report as one HTML page for small and wide screens: the results, the evidence for them, and where bytes and seconds went."""

from pathlib import Path

from stages.lib import page
from stages.report import figures, lineage, table_columns, tables
from stages.report.figures import Figure, lineage_graph
from stages.report.results import Results
from stages.report.summary import verdict_line
from stages.report.table_columns import ABSENT, Shown, cell, shown
from stages.report.tables import Headline

TEMPLATE = Path(__file__).parent / "templates/report.html.j2"


def drawings(results: Results) -> dict[str, Figure]:
    """Every figure by name; a figure without data is left out, and the page then says why."""
    data = {
        "scores": tables.bits_per_byte(results),
        "evaluators": tables.evaluators(results),
        "compressors": tables.compressors(results),
        "loss": results.loss,
        "budget": tables.budget(results),
        "averages": results.averages,
        "bits": results.tensors,
        "errors": results.tensors,
        "bytes": results.byte_table,
        "codecs": tables.codecs(results),
    }
    codecs = data["codecs"]
    data["codecs"] = codecs[codecs["available"].astype(bool)]
    if not (results.tensors["relative_error"] > 0).any():
        del data["errors"]
    drawn = {name: figures.draw(name, table) for name, table in data.items() if len(table)}
    return drawn | ({"lineage": lineage_graph.draw(results.graph)} if results.graph.boxes else {})


def render(results: Results, drawn: dict[str, Figure]) -> str:
    """The whole page, with the figures `drawn`. Equal evidence gives equal bytes."""
    top, certificates = tables.headline(results), results.certificates
    return page.render(
        TEMPLATE,
        top=top,
        figures=drawn,
        tables=_tables(results, top),
        notices=tables.notices(results),
        package=results.package,
        evaluate=results.evaluate,
        certificates=certificates,
        checks={name: check for certificate in certificates.values() for name, check in certificate["checks"].items()},
        training=_training(results),
        val_bytes=results.prepare["bytes"]["val"],
        source=results.prepare["source"],
        packages=results.prepare.get("packages", {}),
        against_compressors=tables.against_compressors(results),
        absent_compressors=results.text_compressors["absent"],
        comparison=" ".join(tables.COMPARISON.split()),
        spoiled=lineage.spoiled(results.graph),
        goes_on=tables.goes_on(results),
        lost=tables.lost(results),
        entropy_note=tables.entropy_note(results),
        counted_on=tables.counted_on(results),
        verdict_line=verdict_line,
        cell=cell,
        phrase=table_columns.phrase,
        absent=ABSENT,
    )


def _tables(results: Results, top: Headline) -> dict[str, Shown]:
    """Every table of the page, by the name of its CSV file."""
    groups = tables.groups(results)
    return {
        "stages": shown(tables.stages(results), table_columns.STAGE_COLUMNS, title="After each stage"),
        "evaluators": shown(
            tables.evaluators(results),
            table_columns.EVALUATOR_COLUMNS,
            title="By evaluator",
            beneath=lambda row: row.why,
            is_best=lambda row: row.name == top.run,
        ),
        "compressors": shown(
            tables.compressors(results),
            table_columns.COMPRESSOR_COLUMNS,
            title="General-purpose compressors on the same text",
            is_best=lambda row: row.name not in results.text_compressors["compressors"],
        ),
        "hashes": shown(tables.hashes(results), table_columns.HASH_COLUMNS, title="Hashes"),
        "environment": shown(tables.environment(results), table_columns.ENVIRONMENT_COLUMNS, title="Environment"),
        "lineage": shown(lineage.table(results.graph), table_columns.LINEAGE_COLUMNS),
        "averages": shown(tables.averages(results), table_columns.AVERAGE_COLUMNS, title="Averages, on the holdout split"),
        "budget": shown(tables.budget(results), table_columns.BUDGET_COLUMNS, title="Ledger of seconds"),
        "quantized": shown(tables.quantized(results), table_columns.QUANTIZED_COLUMNS, title="By group"),
        "tensors": shown(results.tensors, table_columns.TENSOR_COLUMNS),
        "codecs": shown(
            tables.codecs(results),
            table_columns.CODEC_COLUMNS,
            title="Codecs",
            is_best=lambda row: row.ships,
            small=lambda row: ", ".join(filter(None, [row.codec, row.filters, "ships" if row.ships else ""])),
            beneath=lambda row: "" if row.available else f"not available: {row.reason}",
        ),
        "groups": shown(
            groups[groups["name"] == results.package["compress_run"]], table_columns.GROUP_COLUMNS, title="Sections of the blob that ships"
        ),
        "bytes": shown(results.byte_table, table_columns.BYTE_COLUMNS),
        "splits": shown(tables.splits(results), table_columns.SPLIT_COLUMNS),
    }


def _training(results: Results) -> dict[str, str]:
    train = results.train
    measured = "" if results.loss["holdout_bits_per_byte"].notna().any() else "; no curve, because it was not measured in this run"
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
