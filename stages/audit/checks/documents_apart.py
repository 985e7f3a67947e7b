"""If an evaluator claims that documents are apart, no document changes the scores of a later one.

One token of the probe is changed; neither the old nor the new token starts a document. After the next document start, every score must be
bit-equal. (That start is itself a target of the changed document.) This catches gates that carry the last token over a document start
(the smear gate of #1797). A method can be causal with or without this property: it is a claim about the method and none of the four
conditions. So a score without the claim, or with nothing to compare, can still be legal.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict, difference
from stages.runtime.text.tokenizer import BOS

PROVES = "If the evaluator claims that documents are apart, no changed token moved a score of a later document."
CANNOT_SEE = "Documents after the probe."
PRECEDENT = "SmearGate without a mask at document starts: #1797 blocked until #1851 and #1855 mended it (organizers, 28 Apr 2026)"


def check(evidence: Evidence) -> Verdict:
    if "documents_apart" not in evidence.metrics["claims"]:
        return Verdict("reported", {"reason": "the evaluator does not claim that documents are apart"}, positions=0)
    base, moved, compared, largest = evidence.probes[0].nats, 0, 0, 0.0
    tokens = np.asarray(evidence.tokens[: evidence.probe_length + 1])
    starts = np.flatnonzero(tokens == BOS)
    for flip in evidence.probe_set.flips:
        ids = evidence.probe_set.requests[flip.request].ids
        later = starts[starts > flip.position]
        if flip.unchanged or flip.whole_future or not len(later) or tokens[flip.position] == BOS or BOS in ids:
            continue
        apart = difference(evidence.probes[flip.request].nats, base)[later[0] :]  # nats[t-1] belongs to target t: after the start
        compared += len(apart)
        moved += int(np.count_nonzero(apart))
        largest = max(largest, float(apart.max(initial=0.0)))
    if not compared:
        reason = "no document ended after a changed token; raise audit.probe_tokens or audit.flips to look at one"
        return Verdict("reported", {"reason": reason}, positions=0)
    return Verdict(
        "fail" if moved else "pass",
        {"later_scores_compared": compared, "later_scores_changed": moved, "largest_change_nats": largest},
        positions=compared,
        largest_deviation=largest,
    )
