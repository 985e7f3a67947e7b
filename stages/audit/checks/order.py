"""T7: each target is scored once, in order, and before the artifact receives it.

The check reads two logs. The artifact's own harness logs the windows that it commits in the probe; they must follow each other without
gap or repetition. The audit logs the replay: it must have received the distribution for each replayed target before it sent that token.
Catches repeated tails, gaps, second passes. Source: conditions C3 and C4.
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
