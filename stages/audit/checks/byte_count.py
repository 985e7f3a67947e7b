"""The score is divided by the bytes of the raw documents, over all of them, each target once.

Three counts must agree: UTF-8 bytes of the raw documents, the sidecar's sum, and the metrics. The reported bits per byte
must follow from the ledger. The tokens must number documents' worth of targets: one ledger entry per target, all finite.
"""

import math

import numpy as np

from stages.audit.evidence import Evidence, Verdict
from stages.lib.data import corpus
from stages.runtime.tokenizer import BOS


def check(evidence: Evidence) -> Verdict:
    raw = [len(text.encode()) for text in corpus.read(evidence.documents)]
    starts = np.flatnonzero(np.asarray(evidence.text.tokens) == BOS)
    per_document = np.add.reduceat(evidence.text.byte_counts, starts) if len(starts) else np.zeros(0)
    part = next((i for i, (a, b) in enumerate(zip(raw, per_document, strict=False)) if a != b), None)
    recomputed = float(evidence.nats.sum()) / math.log(2) / sum(raw)
    facts = {
        "raw_bytes": sum(raw), "sidecar_bytes": int(evidence.text.byte_counts.sum()), "reported_bytes": evidence.metrics["bytes"],
        "documents": len(raw), "targets": len(evidence.text.tokens) - 1, "scored": len(evidence.nats),
        "first_document_that_differs": part, "reported_bits_per_byte": evidence.metrics["bits_per_byte"],
        "recomputed_bits_per_byte": recomputed}
    ok = (facts["raw_bytes"] == facts["sidecar_bytes"] == facts["reported_bytes"] and part is None and len(raw) == len(per_document)
          and facts["targets"] == facts["scored"] == evidence.metrics["tokens"] and bool(np.isfinite(evidence.nats).all())
          and abs(recomputed - evidence.metrics["bits_per_byte"]) < 1e-9)
    return Verdict("pass" if ok else "fail", facts)
