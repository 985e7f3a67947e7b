"""If an evaluator claims that documents are apart, no document changes the scores of a later one.

Two sessions are told the same text, but one of them with another token in the first document; neither the old nor the new token starts a
document. Every row at the beginning of the second document must be bit-equal. This catches gates that carry the last token over a document
start (the smear gate of #1797). A method can be causal with or without this property: it is a claim about the method and none of the four
conditions. So a score without the claim, or with nothing to compare, can still be legal.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict
from stages.lib.referee import artifact
from stages.runtime.text.tokenizer import BOS

PROVES = "Against honest mistakes: if the evaluator claims that documents are apart, a changed token moved no score of the next document."
CANNOT_SEE = "Other documents than the first two, and an artifact that recognises the text."
PRECEDENT = (
    "SmearGate without a mask at document starts: #1797 blocked until #1851 and #1855 mended it (organizers, 28 Apr 2026); #2135 was "
    "accepted with the mask off (2 May 2026)"
)
ROWS = 8


def check(evidence: Evidence) -> Verdict:
    if "documents_apart" not in evidence.metrics["claims"]:
        return Verdict("reported", {"reason": "the evaluator does not claim that documents are apart"}, positions=0)
    tokens = np.asarray(evidence.tokens)
    starts = np.flatnonzero(tokens == BOS)
    if len(starts) < 2 or starts[1] < 3 or len(tokens) < starts[1] + 2:
        return Verdict("reported", {"reason": "there are no two documents to compare"}, positions=0)
    changed, generator = tokens.copy(), evidence.generator(2)
    places = {int(starts[1]) - 1, *generator.integers(1, starts[1], 2).tolist()}  # the last token too: most gates carry that one
    for place in places:
        others = np.setdiff1d(np.arange(evidence.text.vocabulary_size), [BOS, tokens[place]])
        changed[place] = generator.choice(others)
    targets = range(int(starts[1]) + 1, min(int(starts[1]) + 1 + ROWS, len(tokens)))
    rows, others = (_rows(evidence, text, targets) for text in (tokens, changed))
    apart = np.abs(np.exp(rows) - np.exp(others))
    moved = int(np.count_nonzero(apart.max(axis=1)))
    facts = {"tokens_changed": len(places), "rows_compared": len(rows), "rows_changed": moved, "largest_change": float(apart.max())}
    return Verdict("fail" if moved else "pass", facts, positions=len(rows), largest_deviation=float(apart.max()))


def _rows(evidence: Evidence, tokens: np.ndarray, targets: range) -> np.ndarray:
    with evidence.alone(), artifact.Session(evidence.submission, **artifact.about(tokens), **evidence.told) as session:
        known, found, order = 1, [], session.targets(tokens)
        for place in np.flatnonzero(np.isin(order, targets)) + 1:  # where these targets are in coding order
            session.know(tokens[order[known - 1 : place - 1]])
            known = place
            found.append(session.row())
        return np.array(found)
