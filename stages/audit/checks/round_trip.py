"""T9: a process that has never seen val can decode it from as many bits as the score states.

The first targets are arithmetically coded with the rows of the replay. Another process gets the bits, the artifact and the declared number
of targets, and must return every token. The number of bits may exceed the ledger's sum for these targets by 0.01 % plus 64 bits, and no
single target may differ by more than the replay allows. Only a method that is causal, normalized, single-pass and repeatable can pass.
"""

import math

import numpy as np

from stages.audit.evidence import Evidence, Verdict

PROVES = "The tokens coded were decoded exactly from as many bits as the ledger says, by a process that saw bits, artifact and length."
CANNOT_SEE = "Targets after the coded ones; `make certify` codes all of val."
PRECEDENT = "The coding argument of #1017 and #1172: what a decoder cannot compute is no code length"
SHARE, BITS = 1e-4, 64


def check(evidence: Evidence) -> Verdict:
    found = evidence.replay
    length = float(evidence.nats[: found.coded].sum()) / math.log(2)
    bits = 8 * len(found.code)
    off = int(np.count_nonzero(found.off[: found.coded]))
    facts = {
        "tokens": found.coded,
        "of_targets": len(evidence.tokens) - 1,
        "bits": bits,
        "bits_in_the_ledger": length,
        "allowed": length * (1 + SHARE) + BITS,
        "targets_of_another_length": off,
        "reason": found.uncodable,
    }
    if found.decoded is None:
        facts["reason"] = facts["reason"] or "the ledger's lengths are not those of a code that a decoder could read"
        return Verdict("fail", facts, positions=found.coded, largest_deviation=float(np.abs(found.excess[: found.coded]).max()))
    decoded, expected = found.decoded, np.asarray(evidence.tokens[1 : found.coded + 1], np.int64)
    if isinstance(decoded, str):
        facts["reason"] = f"the decoder failed: {decoded}"
        return Verdict("fail", facts, positions=found.coded)
    wrong = np.flatnonzero(decoded != expected)
    facts |= {"tokens_decoded": len(decoded), "tokens_wrong": len(wrong), "first_wrong": int(wrong[0]) + 1 if len(wrong) else None}
    ok = not len(wrong) and bits <= facts["allowed"]
    return Verdict("pass" if ok else "fail", facts, positions=found.coded, largest_deviation=max(0.0, bits - length))
