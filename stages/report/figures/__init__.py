"""The figures of the report, one module for each subject; `all_of` draws them in the order of the page."""

from stages.lib.referee import time_budget
from stages.report import tables
from stages.report.drawing import Figure
from stages.report.evidence import Evidence
from stages.report.figures import codecs, lineage, scores, training, weights


def all_of(evidence: Evidence) -> dict[str, Figure]:
    """By name; a figure whose data is empty is left out, and the page then says why."""
    top = tables.headline(evidence)
    stages, evaluators, blobs = tables.stages(evidence), tables.evaluators(evidence), tables.codecs(evidence)
    drawn = [
        scores.waterfall(stages, evaluators, best=top.run),
        scores.compressors(tables.compressors(evidence)),
        training.loss_curve(evidence.loss),
        training.ledger(tables.budget(evidence), limit=time_budget.SECONDS),
        weights.errors(evidence.tensors),
        weights.bits(evidence.tensors),
        codecs.anatomy(evidence.anatomy),
    ]
    if len(evaluators):
        drawn.append(scores.evaluators(evaluators, best=top.run))
    if len(evidence.averages):
        drawn.append(training.averages(tables.averages(evidence)))
    if blobs["available"].any():
        drawn.append(codecs.bytes_and_seconds(blobs))
    if evidence.graph.boxes:
        drawn.append(lineage.draw(evidence.graph))
    return {figure.name: figure for figure in drawn}
