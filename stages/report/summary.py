"""The report as Markdown for the terminal, and as one flat dict for `dvc metrics`."""

import textwrap

from stages.report.results import CODED, COMPRESSED, PACKED, TRAINED, Results
from stages.report.table_columns import (
    BUDGET_COLUMNS,
    CODEC_COLUMNS,
    COMPRESSOR_COLUMNS,
    EVALUATOR_COLUMNS,
    QUANTIZED_COLUMNS,
    STAGE_COLUMNS,
    Column,
    markdown,
)
from stages.report.tables import (
    COMPARISON,
    against_compressors,
    budget,
    codecs,
    compressors,
    entropy_note,
    evaluators,
    explain,
    headline,
    lost,
    notices,
    quantized,
    splits,
    stages,
    strongest_compressor,
    verdict,
)

WIDTH = 108


def flat(results: Results) -> dict:
    """The summary as scalars under dotted keys, which `dvc metrics diff` and `dvc exp show` print unchanged."""
    top = headline(results)
    out = {"score.bits_per_byte": top.bits_per_byte, "score.claimed_bits_per_byte": top.claimed}
    out |= {"score.evaluator": top.run, "score.is_valid": top.is_valid}
    scored = results.plain_score | results.evaluate
    out |= {f"bits_per_byte.{name}": metrics["bits_per_byte"] for name, metrics in scored.items()}
    out |= {f"at_most_bits_per_byte.{run}": certificate["at_most_bits_per_byte"] for run, certificate in results.certificates.items()}
    out |= {f"legal.{run}": certificate["legal"] for run, certificate in results.certificates.items()}
    out |= {f"verdict.{run}": verdict(certificate) for run, certificate in results.certificates.items()}
    out |= {f"evaluate.{run}.seconds": metrics["seconds"] for run, metrics in results.evaluate.items()}
    out |= {f"package.{key}": results.package[key] for key in PACKED} | {"package.bytes_left": top.bytes_left}
    for run, metrics in results.compress.items():
        out |= {f"compress.{run}.{key}": metrics[key] for key in ("available", *CODED)}
    for name, entry in results.text_compressors["compressors"].items():
        out |= {f"text_compressors.{name}.{key}": entry[key] for key in COMPRESSED}
    out |= {f"text_compressors.strongest.{key}": value for key, value in (strongest_compressor(results) or {}).items()}
    out |= {f"train.{key}": results.train[key] for key in TRAINED}
    for row in splits(results).itertuples(index=False):
        out |= {f"text.{row.name}_documents": row.documents, f"text.{row.name}_bytes": row.bytes, f"text.sha256.{row.name}": row.sha256}
    return out | {"notices": len(notices(results))}


def summary(results: Results) -> str:
    """The report as Markdown that also reads as plain text in a terminal."""
    top, package = headline(results), results.package
    score = "no legal score"
    if top.run is not None:
        score = f"at most {top.bits_per_byte:.4f} bits per byte with `{top.run}` (99 % confidence), which claims {top.claimed:.4f}"
    blocks = [
        "# Caddie report",
        _list(
            [
                *[f"**OVER THE CAP: {package['size']}**"] * (top.bytes_left < 0),
                f"score: {score}",
                *filter(None, [against_compressors(results)]),
                f"artifact: {top.artifact_bytes:,} bytes, {top.room} "
                f"({package['code_bytes']:,} script, {package['model_bytes']:,} model by {package['compress_run']}; "
                f"submission.pyz itself has {package['pyz_bytes']:,})",
                f"verdict: {top.verdict}",
                *[f"`{run}` is lower, {results.evaluate[run]['bits_per_byte']:.4f}, but not legal" for run in top.lower_but_not_legal],
                *[f"**{notice}**" for notice in notices(results)],
            ]
        ),
    ]
    blocks += ["## Bits per byte after each stage", markdown(stages(results), STAGE_COLUMNS)]
    blocks += ["## Bits per byte of the artifact, by evaluator", markdown(evaluators(results), EVALUATOR_COLUMNS)]
    blocks += ["## Quantization", markdown(quantized(results), QUANTIZED_COLUMNS), lost(results)]
    table = codecs(results)
    blocks += ["## Codecs", markdown(table, (*CODEC_COLUMNS, Column("note", "note")))]
    if note := entropy_note(results):
        blocks.append(textwrap.fill(f"Order-0 entropy: {note}.", WIDTH, break_long_words=False))
    if absent := [f"{row.name} is not available: {row.reason}" for row in table.itertuples() if not row.available]:
        blocks.append(_list(absent))
    blocks += ["## General-purpose compressors on the same text", markdown(compressors(results), COMPRESSOR_COLUMNS), COMPARISON]
    if missing := results.text_compressors["absent"]:
        blocks.append(_list([f"{name} is not in the table: {reason}" for name, reason in missing.items()]))
    blocks += ["## Budget", markdown(budget(results), BUDGET_COLUMNS)]
    blocks += ["## Certificates", _list([verdict_line(*item) for item in results.certificates.items()])]
    return "\n\n".join(blocks) + "\n"


def verdict_line(run: str, certificate: dict) -> str:
    """One line for a certificate: its verdict, how many of the deciding checks passed, and what speaks against it."""
    verdicts = [check["verdict"] for check in certificate["checks"].values()]
    deciding = len(verdicts) - verdicts.count("reported")
    counts = f"{verdicts.count('pass')} of {deciding} checks passed"
    for kind in ("not_applicable", "reported"):
        if count := verdicts.count(kind):
            counts += f", {count} {kind.replace('_', ' ')}"
    return "; ".join(filter(None, [f"{run}: {verdict(certificate)}", counts, explain(certificate)]))


def _list(items: list[str]) -> str:
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    return "\n".join(wrap.fill(f"- {item}") for item in items)
