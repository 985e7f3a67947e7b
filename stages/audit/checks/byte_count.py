"""T10: the score is divided by the bytes of all documents, and each target is counted once.

Every document is encoded again with the artifact's own tokenizer: its ids must be those of the shards, its bytes those of
the sidecar, and, where the tokenizer is lossless, its ids must decode to it. Published token shards come without documents, so
their bytes are counted from the ids. Where ids do not determine the bytes (CaseOps over nmt_nfkc), a sidecar is certified only if its
total is the known total of the contest's val split. A tokenizer may replace characters only by the published table of nmt_nfkc, whatever it
calls itself (stages/lib/text/normalization.py), and must normalize every document as one that holds only the table and settings that are
read there: a file that SentencePiece and we read in two ways would not. The ledger must have one finite entry per target. The reported bits
per byte must follow from these entries, and the bytes must follow from the reported numbers, as reviewers compute them from a log alone:

    implied bytes = loss N / (ln 2 · bits per byte)          loss nats per token, N targets
"""

import math
from itertools import zip_longest

import numpy as np

from stages.audit.evidence import Evidence, Verdict
from stages.lib.referee import artifact
from stages.lib.text import accounting, corpus, normalization
from stages.lib.text.encoder import Encoder
from stages.runtime.text.tokenizer import BOS, Tokenizer, load_processor

PROVES = "Against edited files: the score is the sum over all targets, each once, divided by the bytes of the documents."
CANNOT_SEE = "Whether the documents are those of the contest, if they were not loaded from its published files."
PRECEDENT = "Byte accounting of Issue #1719 and of #1806 (organizers removed #1184, 24 to 26 Apr 2026)"


def check(evidence: Evidence) -> Verdict:
    model = evidence.given_tokenizer or artifact.read(evidence.submission, "tokenizer.model")
    encoder, objection = Encoder(model), normalization.objection(model)
    tokenizer = encoder.tokenizer
    as_read = None if tokenizer.is_lossless else load_processor(normalization.as_read(model))
    tokens, counts = np.asarray(evidence.text.tokens), evidence.text.byte_counts
    edges = [*np.flatnonzero(tokens == BOS).tolist(), len(tokens)]
    has_text = corpus.facts(evidence.documents)["contents"] == "documents"
    raw = text_bytes = documents = 0
    first: dict[str, int | None] = {"length": None, "text": None}
    texts = corpus.texts(evidence.documents) if has_text else (None for _ in edges[1:])
    for number, (text, start, end) in enumerate(zip_longest(texts, edges[:-1], edges[1:])):
        documents = number + 1
        if start is None or (has_text and text is None):  # the shards have more or fewer documents
            first = {name: number if found is None else found for name, found in first.items()}
            break
        ids, counted = tokens[start:end], counts[start:end]
        if has_text:
            expected = encoder.encode([text])
            text_size = int(expected.text_bytes[0])
            same_bytes = int(counted.sum()) == text_size and np.array_equal(counted, expected.byte_counts)
            same_text = np.array_equal(ids, expected.ids)
            if tokenizer.is_lossless:
                same_text = same_text and tokenizer.decode(ids[1:].tolist()) == text.encode()
            elif not objection and not _normalizes_alike(tokenizer, as_read, text):
                objection = (
                    f"SentencePiece normalizes document {number} otherwise than the tokenizer's table says: it can be read in two ways"
                )
            raw, text_bytes = raw + len(text.encode()), text_bytes + text_size
        else:
            same_text = True
            same_bytes = not tokenizer.counts_follow_from_ids or np.array_equal(counted, tokenizer.byte_counts(ids))
            text_bytes += int(counted.sum())
            raw = text_bytes
        first["length"] = number if not same_bytes and first["length"] is None else first["length"]
        first["text"] = number if not same_text and first["text"] is None else first["text"]
    recomputed = float(evidence.nats.sum()) / math.log(2) / max(1, text_bytes)
    facts = {
        "raw_bytes": raw,
        "text_bytes": text_bytes,
        "sidecar_bytes": int(counts.sum()),
        "reported_bytes": evidence.metrics["bytes"],
        "piece_table_bytes": int(accounting.piece_counts(tokenizer, tokens).sum()),
        "tokenizer": tokenizer.certificate() | {"normalization": normalization.named(model)},
        "documents": documents,
        "targets": len(tokens) - 1,
        "scored": len(evidence.nats),
        "first_document_of_other_length": first["length"],
        "first_document_of_other_text": first["text"],
        "reported_bits_per_byte": evidence.metrics["bits_per_byte"],
        "recomputed_bits_per_byte": recomputed,
        "implied_bytes": _implied(evidence.metrics),
        "is_the_fields_val": accounting.is_fields_val(documents, text_bytes),
    }
    ok = (
        facts["text_bytes"] == facts["sidecar_bytes"] == facts["reported_bytes"]
        and edges[0] == 0
        and first == {"length": None, "text": None}
        and facts["targets"] == facts["scored"] == evidence.metrics["tokens"]
        and bool(np.isfinite(evidence.nats).all())
        and abs(recomputed - evidence.metrics["bits_per_byte"]) < 1e-9
        and abs(facts["implied_bytes"] - text_bytes) <= 1e-6 * max(1, text_bytes)
    )
    if objection:
        return Verdict("fail", facts | {"reason": objection}, positions=documents)
    if not ok:
        facts["reason"] = (
            f"{evidence.metrics['bits_per_byte']:.6f} bits per byte are stated, which are {facts['implied_bytes']:,.0f} bytes; the nats of "
            f"all targets and the {text_bytes:,} bytes of the text give {recomputed:.6f}"
        )
    if ok and not has_text and not tokenizer.counts_follow_from_ids and not accounting.is_fields_val(documents, text_bytes):
        facts["reason"] = "the raw documents are missing, the ids do not tell their bytes, and the total is not the field's"
        return Verdict("not_applicable", facts)
    return Verdict(
        "pass" if ok else "fail", facts, positions=documents, largest_deviation=abs(recomputed - evidence.metrics["bits_per_byte"])
    )


def _normalizes_alike(tokenizer: Tokenizer, as_read, text: str) -> bool:
    text = tokenizer.transformed(text)
    return tokenizer.processor.Normalize(text) == as_read.Normalize(text)


def _implied(metrics: dict) -> float:
    bits = metrics["bits_per_byte"]
    return metrics["loss_nats"] * metrics["tokens"] / math.log(2) / bits if bits else math.nan
