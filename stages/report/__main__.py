"""Show what the other stages measured: one HTML page, its tables and lineage graph as files, one flat metrics file, one summary.

The report decides nothing and computes no score. It reads only runs that params.yaml names, and also prints the summary. Two more commands
show experiments, one as a table, the other side by side on a separate page:

    python -m stages.report --experiments                all that started from this commit
    python -m stages.report --compare REV REV...         commits, branches, DVC experiments; `workspace` is this folder's files
"""

import os
import platform
import sys
from dataclasses import dataclass
from typing import ClassVar

from stages.lib.node import command, files
from stages.lib.node.stage import Input, Metrics, Output, Plot, Untracked
from stages.report import compare, experiments, page, results, summary, tables

# without a dvc.lock there is nothing to draw, but DVC still requires the file
NO_GRAPH = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 40"><text x="8" y="24">dvc.lock is missing: no lineage.</text></svg>\n'


@dataclass(frozen=True)
class PlainScore:
    SECTION: ClassVar[str] = "plain_score"
    after: tuple[str, ...]
    window: int
    device: str


@dataclass(frozen=True)
class Compress:
    SECTION: ClassVar[str] = "compress"
    runs: dict


@dataclass(frozen=True)
class Evaluate:
    SECTION: ClassVar[str] = "evaluate"
    runs: dict


def main(
    scored: PlainScore,
    codecs: Compress,
    evaluators: Evaluate,
    *,
    prepare: Input = "artifacts/prepare/metrics.json",
    text_compressors: Input = "artifacts/text_compressors/metrics.json",
    train_metrics: Input = "artifacts/train/metrics.json",
    loss_curve: Input = "artifacts/train/loss.csv",
    ema_metrics: Input = "artifacts/ema/metrics.json",
    averages: Input = "artifacts/ema/candidates.csv",
    prequant_ttt: Input = "artifacts/prequant_ttt/metrics.json",
    calibrate: Input = "artifacts/calibrate/metrics.json",
    quantize: Input = "artifacts/quantize/metrics.json",
    quantized_tensors: Input = "artifacts/quantize/tensors.csv",
    plain_score: Input = "artifacts/plain_score",
    compress: Input = "artifacts/compress",
    package: Input = "artifacts/package/metrics.json",
    bytes_table: Input = "artifacts/package/bytes.csv",
    evaluate: Input = "artifacts/evaluate",
    audit: Input = "artifacts/audit",
    html: Output = "artifacts/report/index.html",
    summary_file: Output = "artifacts/report/summary.md",
    csv_tables: Output = "artifacts/report/tables",
    lineage_graph: Plot = "artifacts/report/lineage.svg",
    metrics: Metrics = "artifacts/report/metrics.json",
    lock: Untracked = "dvc.lock",
) -> None:
    found = results.load(
        prepare=prepare,
        text_compressors=text_compressors,
        train_metrics=train_metrics,
        loss_curve=loss_curve,
        ema_metrics=ema_metrics,
        averages=averages,
        prequant_ttt=prequant_ttt,
        calibrate=calibrate,
        quantize=quantize,
        quantized_tensors=quantized_tensors,
        plain_score=plain_score,
        compress=compress,
        package=package,
        bytes_table=bytes_table,
        evaluate=evaluate,
        audit=audit,
        lock=lock,
        machine=machine(),
        scored_after=scored.after,
        compress_runs=codecs.runs,
        evaluate_runs=evaluators.runs,
    )
    drawn, text = page.drawings(found), summary.summary(found)
    graph = drawn["lineage"].svg if "lineage" in drawn else NO_GRAPH
    for path, content in {html: page.render(found, drawn), summary_file: text, lineage_graph: graph}.items():
        with files.atomic(path) as partial:
            partial.write_text(content, encoding="utf-8")
    with files.atomic(csv_tables) as partial:
        partial.mkdir()
        for name, table in tables.everything(found).items():
            table.to_csv(partial / f"{name}.csv", index=False, lineterminator="\n")
    files.write_json(metrics, summary.flat(found))
    print(text, end="")


def machine() -> dict[str, str]:
    """The machine that makes the report; after an ordinary `dvc repro`, all numbers were measured on it."""
    return {"system": f"{platform.system()} {platform.machine()}", "processors": str(os.cpu_count()), "python": platform.python_version()}


if __name__ == "__main__":
    if "--compare" in sys.argv:
        compare.run(sys.argv[1:])
    elif "--experiments" in sys.argv:
        experiments.run(sys.argv[1:])
    else:
        command.run(main)
