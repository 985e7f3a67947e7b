"""T3: the costs that different tokens would have as the same target belong to one distribution.

The prefix up to j is scored repeatedly, each time with another token a as target j, and only the number in the ledger is used: -nats(a)
must equal the entry of the row at j for every a, bit for bit, and Σ p(a) over the tokens tried may not exceed 1. The sum needs no row: if
the probability is made up for whichever token comes, the sum exceeds 1. Source: condition C2.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict

PROVES = "Each of the tokens tried in a target's place cost what one and the same distribution says."
CANNOT_SEE = "Other positions than the one tried, and tokens that were not tried."
PRECEDENT = "Hashed n-gram caches, whose values sum to 277 and more: disallowed (organizers, #677, #779, #982, 27 Mar 2026)"
TOLERANCE = 1e-6


def check(evidence: Evidence) -> Verdict:
    unchanged, costs = evidence.probes[0], {}
    for position, token, request in evidence.probe_set.tried:
        costs[token] = float(evidence.probes[request].nats[position - 1])
    position = evidence.probe_set.tried[0][0]
    row = unchanged.rows[position]
    mismatch = max(abs(cost + float(row[token])) for token, cost in costs.items())
    total = float(np.exp(-np.array(list(costs.values()))).sum())
    share = float(np.exp(row[list(costs)]).sum())
    return Verdict(
        "pass" if mismatch == 0.0 and total <= 1 + TOLERANCE else "fail",
        {
            "position": position,
            "tokens_tried": len(costs),
            "vocabulary": evidence.text.vocabulary_size,
            "sum_over_the_tokens_tried": total,
            "their_share_in_the_row": share,
            "largest_mismatch_nats": mismatch,
        },
        positions=len(costs),
        largest_deviation=mismatch,
    )
