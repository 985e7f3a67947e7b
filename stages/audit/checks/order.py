"""T7: each target is scored once, in order, and before it is told.

Two logs. That of the artifact's own harness in the probe: windows as they were committed, which must follow each other without gap or
repetition. That of the replay, which the audit itself keeps: the distribution for each replayed target was received before its token was
sent. Catches repeated tails, gaps, second passes. Source: conditions C3 and C4.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict

PROVES = "Every target of the ledger has one score; in the probe they were committed once and in order, in the replay before being told."
CANNOT_SEE = "What a harness that lies about its commits did; the replay does not rest on its word."
PRECEDENT = "Two-pass rescoring is training on the evaluation data (organizers, #846 to #959, 27 Mar 2026); best of several passes, #659"


def check(evidence: Evidence) -> Verdict:
    commits = evidence.probes[0].commits
    firsts, lasts, _ = commits.T
    gaps = int(np.count_nonzero(firsts[1:] != lasts[:-1] + 1))
    covers = len(commits) > 0 and firsts[0] == 1 and lasts[-1] == evidence.probe_length
    told, late, asked = 0, 0, 0
    for kind, first, last in evidence.replay.events:
        if kind == "push":
            late += first != told + 1
            told = last
        else:
            asked += 1
            late += first != told + 1
    scored = len(evidence.nats) == len(evidence.tokens) - 1 and bool(np.isfinite(evidence.nats).all())
    ok = covers and not gaps and not late and scored
    return Verdict(
        "pass" if ok else "fail",
        {
            "windows_committed": len(commits),
            "gaps_or_repetitions": gaps,
            "covers_the_probe": bool(covers),
            "targets": len(evidence.tokens) - 1,
            "scores_in_the_ledger": len(evidence.nats),
            "received_before_the_token": asked - late,
            "after_it": late,
        },
        positions=len(commits) + asked,
        largest_deviation=float(gaps + late),
    )
