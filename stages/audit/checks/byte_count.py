"""The score is divided by the bytes of the raw documents, over all of them, each target once.

Three counts must agree: UTF-8 bytes of the raw documents, the sidecar's sum, and the metrics. The tokens of each document,
decoded with the artifact's own tokenizer, must be its text. One finite ledger entry per target; the reported bits per byte
must follow from them.
"""

import math

import numpy as np

from stages.audit.evidence import Evidence, Verdict
from stages.lib import artifact
from stages.lib.data import corpus
from stages.runtime.tokenizer import BOS, Tokenizer


def check(evidence: Evidence) -> Verdict:
    texts = [text.encode() for text in corpus.read(evidence.documents)]
    tokens = np.asarray(evidence.text.tokens)
    starts = np.flatnonzero(tokens == BOS)
    counted = np.add.reduceat(evidence.text.byte_counts, starts).tolist() if len(starts) else []
    tokenizer = Tokenizer(artifact.read(evidence.submission, "tokenizer.model"))
    decoded = [tokenizer.decode(ids[1:]) for ids in np.split(tokens, starts[1:])] if len(starts) else []
    num_bytes = sum(map(len, texts))
    recomputed = float(evidence.nats.sum()) / math.log(2) / num_bytes
    facts = {
        "raw_bytes": num_bytes, "sidecar_bytes": int(evidence.text.byte_counts.sum()), "reported_bytes": evidence.metrics["bytes"],
        "documents": len(texts), "targets": len(tokens) - 1, "scored": len(evidence.nats),
        "first_document_of_other_length": _first_difference(map(len, texts), counted),
        "first_document_of_other_text": _first_difference(texts, decoded),
        "reported_bits_per_byte": evidence.metrics["bits_per_byte"], "recomputed_bits_per_byte": recomputed}
    ok = (facts["raw_bytes"] == facts["sidecar_bytes"] == facts["reported_bytes"] and len(texts) == len(counted)
          and facts["first_document_of_other_length"] is None and facts["first_document_of_other_text"] is None
          and facts["targets"] == facts["scored"] == evidence.metrics["tokens"] and bool(np.isfinite(evidence.nats).all())
          and abs(recomputed - evidence.metrics["bits_per_byte"]) < 1e-9)
    return Verdict("pass" if ok else "fail", facts)


def _first_difference(left, right) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
