"""T9: a decoder that has never seen val can decode it from as many bits as the score states.

The first targets are arithmetically coded with rows that the artifact gives token by token. Another jail gets the bits, the artifact and
the declared number of targets, and must return every token. The number of bits may exceed the claim for these targets by 0.01 % plus 64
bits. Only a method that is causal, normalized, single-pass and repeatable can pass.
"""

import math

from stages.audit.evidence import Evidence, Verdict

PROVES = (
    "Against anyone: the tokens coded were decoded exactly from as many bits as claimed, in a jail that held bits, artifact and length."
)
CANNOT_SEE = "Targets after the coded ones; `make certify` codes all of val."
PRECEDENT = "The coding argument of #1017 and #1172: what a decoder cannot compute is no code length"
SHARE, BITS = 1e-4, 64


def check(evidence: Evidence) -> Verdict:
    found = evidence.coded
    length = found.claimed / math.log(2)
    bits, allowed = 8 * len(found.code), length * (1 + SHARE) + BITS
    facts = {
        "tokens": found.count,
        "of_targets": len(evidence.tokens) - 1,
        "bits": bits,
        "bits_claimed": length,
        "allowed": allowed,
        "largest_difference_nats": found.largest,
    }
    if found.decoded is None:
        return Verdict("fail", facts | {"reason": found.reason}, positions=found.count)
    wrong = found.wrong
    facts |= {"tokens_wrong": len(wrong), "first_wrong": int(wrong[0]) + 1 if len(wrong) else None}
    if bits > allowed:
        facts["reason"] = f"the code has {bits:,} bits where {length:,.0f} were claimed: the claim used what a decoder does not know"
    passed = not len(wrong) and bits <= allowed
    return Verdict("pass" if passed else "fail", facts, positions=found.count, largest_deviation=max(0.0, bits - length))
