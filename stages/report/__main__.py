"""Show what the other stages measured: one HTML page, one flat metrics file, three tables for plots, one summary.

Decides nothing and computes no score. Only runs that params.yaml names are read; the summary is printed too.
"""

from dataclasses import dataclass
from typing import ClassVar

from stages.lib import stage
from stages.lib.stage import Input, Metrics, Output, Plot
from stages.report import evidence, page, tables


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
    ema_metrics: Input = "artifacts/ema/metrics.json",
    averages: Input = "artifacts/ema/candidates.csv",
    prequant_ttt: Input = "artifacts/prequant_ttt/metrics.json",
    calibrate: Input = "artifacts/calibrate/metrics.json",
    quantized_tensors: Input = "artifacts/quantize/tensors.csv",
    measure: Input = "artifacts/measure",
    compress: Input = "artifacts/compress",
    package: Input = "artifacts/package/metrics.json",
    evaluate: Input = "artifacts/evaluate",
    audit: Input = "artifacts/audit",
    html: Output = "artifacts/report/index.html",
    summary: Output = "artifacts/report/summary.md",
    metrics: Metrics = "artifacts/report/metrics.json",
    sizes: Plot = "artifacts/report/sizes.csv",
    groups: Plot = "artifacts/report/groups.csv",
    bits_per_byte: Plot = "artifacts/report/bits_per_byte.csv",
) -> None:
    found = evidence.load(
        prepare=prepare, baseline=baseline, train_metrics=train_metrics, loss_curve=loss_curve, ema_metrics=ema_metrics,
        averages=averages, prequant_ttt=prequant_ttt, calibrate=calibrate, quantized_tensors=quantized_tensors, measure=measure,
        compress=compress, package=package, evaluate=evaluate, audit=audit,
        compress_runs=codecs.runs, evaluate_runs=evaluators.runs)
    text = tables.summary(found)
    for path, content in {
        html: page.render(found),
        summary: text,
        sizes: tables.sizes(found).to_csv(index=False, lineterminator="\n"),
        groups: tables.groups(found).to_csv(index=False, lineterminator="\n"),
        bits_per_byte: tables.bits_per_byte(found).to_csv(index=False, lineterminator="\n"),
    }.items():
        with stage.atomic(path) as partial:
            partial.write_text(content, encoding="utf-8")
    stage.write_json(metrics, tables.flat(found))
    print(text, end="")


if __name__ == "__main__":
    stage.run(main)
