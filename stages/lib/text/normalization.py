"""Which normalization a SentencePiece model really has: by its table, and not by the name that it gives itself.

A model's table (NormalizerSpec.precompiled_charsmap) says which characters become which before the text is cut into pieces. The score of
a tokenizer that is not lossless is divided by the bytes of the normalized text. A table that turns many characters into one makes this text
easy to predict, so only the published table is accepted.
"""

import hashlib

from stages.runtime.text import sentencepiece_model

NORMALIZER_SPEC, DENORMALIZER_SPEC, TABLE = 3, 5, 2
# sha256 of the table of nmt_nfkc, by the releases of SentencePiece that write it: every release orders it in another way.
NMT_NFKC = {
    "51d3684747b35ef99cd4802f37cc1ee0c6bec4d060814f774efb1066d3c167f2": "0.1.99 and 0.2.0; the contest's CaseOps tokenizer of 8,192 pieces",
    "79372c41389c2b9b29bc171017ab5400e352debd686b02670a42bec709015074": "0.2.1; the contest's tokenizer of 1,024 pieces",
    "5febaab28312e9dbddb42be695c9e4380367f7ebe65121cdf894fb5d59d37eed": "0.2.2",
    "1e2c7b43d3ee9755ceaa2ac335e253d8703604e0249ee1e81156c92b46423844": "0.2.3",
}


def named(model: bytes) -> str:
    """`identity` (no table), `nmt_nfkc` (the published table), or `unknown` with the sha256 of the table."""
    table = _table(model, NORMALIZER_SPEC)
    found = hashlib.sha256(table).hexdigest()
    return "identity" if not table else "nmt_nfkc" if found in NMT_NFKC else f"unknown (a table with sha256 {found})"


def objection(model: bytes) -> str | None:
    """Why the bytes of texts that this tokenizer normalizes cannot be the bytes of a score; None if nothing speaks against it."""
    name = named(model)
    if name.startswith("unknown"):
        return f"the tokenizer's normalization is {name}, and not the published nmt_nfkc: its bytes are not those of the field"
    if _table(model, DENORMALIZER_SPEC):
        return "the tokenizer replaces characters when it decodes, which no published tokenizer does"
    return None


def _table(model: bytes, spec: int) -> bytes:
    if model.lstrip()[:1] == b"{":  # the pure-byte tokenizer
        return b""
    merged: dict = {}
    for number, value, _ in sentencepiece_model.fields(model):
        if number == spec:
            merged |= {key: part for key, part, _ in sentencepiece_model.fields(value)}
    return bytes(merged.get(TABLE, b""))
