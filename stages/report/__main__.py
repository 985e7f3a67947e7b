"""Show what the other stages measured: one HTML page, one flat metrics file, two tables for plots, one summary.

Decides nothing and computes no score. Only runs that params.yaml names are read; the summary is printed too.
"""

from dataclasses import dataclass
from typing import ClassVar

from stages.lib import stage
from stages.lib.stage import Input, Metrics, Output, Plot
from stages.report import page, tables


@dataclass(frozen=True)
class Compress:
    SECTION: ClassVar[str] = "compress"
    runs: dict


@dataclass(frozen=True)
class Evaluate:
    SECTION: ClassVar[str] = "evaluate"
    runs: dict


def main(
    codecs: Compress,
    evaluators: Evaluate,
    *,
    prepare: Input = "artifacts/prepare/metrics.json",
    baseline: Input = "artifacts/baseline/metrics.json",
    train_metrics: Input = "artifacts/train/metrics.json",
    loss_curve: Input = "artifacts/train/loss.csv",
    measure: Input = "artifacts/measure",
    compress: Input = "artifacts/compress",
    package: Input = "artifacts/package/metrics.json",
    evaluate: Input = "artifacts/evaluate",
    audit: Input = "artifacts/audit",
    html: Output = "artifacts/report/index.html",
    summary: Output = "artifacts/report/summary.md",
    metrics: Metrics = "artifacts/report/metrics.json",
    sizes: Plot = "artifacts/report/sizes.csv",
    bits_per_byte: Plot = "artifacts/report/bits_per_byte.csv",
) -> None:
    evidence = tables.load(
        prepare=prepare, baseline=baseline, train_metrics=train_metrics, loss_curve=loss_curve, measure=measure,
        compress=compress, package=package, evaluate=evaluate, audit=audit,
        compress_runs=codecs.runs, evaluate_runs=evaluators.runs)
    text = tables.summary(evidence)
    for path, content in {
        html: page.render(evidence),
        summary: text,
        sizes: tables.sizes(evidence).to_csv(index=False, lineterminator="\n"),
        bits_per_byte: tables.bits_per_byte(evidence).to_csv(index=False, lineterminator="\n"),
    }.items():
        with stage.atomic(path) as partial:
            partial.write_text(content, encoding="utf-8")
    stage.write_json(metrics, tables.flat(evidence))
    print(text, end="")


if __name__ == "__main__":
    stage.run(main)
