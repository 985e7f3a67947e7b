"""Which normalization a SentencePiece model really has: by its table, and not by the name that it gives itself.

A model's table (NormalizerSpec.precompiled_charsmap) says which characters become which before the text is cut into pieces. The score of
a tokenizer that is not lossless is divided by the bytes of the normalized text. A table that turns many characters into one makes this text
easy to predict, so only the published table is accepted.
"""

import hashlib

from stages.runtime.text import sentencepiece_model

NORMALIZER_SPEC, DENORMALIZER_SPEC, TABLE = 3, 5, 2
# Wire types of all that SentencePiece 0.2 knows: 0 number, 2 bytes, 5 float.
PIECE = {1: 2, 2: 5, 3: 0}
TRAINER = (
    dict.fromkeys((1, 2, 5, 7, 30, 31, 36, 44, 45, 46, 47, 48, 53, 54), 2)
    | dict.fromkeys((10, 15, 51), 5)
    | dict.fromkeys((3, 4, 6, *range(11, 15), *range(16, 27), *range(32, 36), *range(40, 44), 49, 50, 52, 55), 0)
)
NORMALIZER = {1: 2, 2: 2, 3: 0, 4: 0, 5: 0, 6: 2}
KNOWN = {1: PIECE, 2: TRAINER, NORMALIZER_SPEC: NORMALIZER, DENORMALIZER_SPEC: NORMALIZER}
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
    return None if _is_pure_byte(model) or _has_known_types(model) else sentencepiece_model.DAMAGED


def as_read(model: bytes) -> bytes:
    """The pieces and settings of a SentencePiece model with the normalization that is read here and no other field: whatever SentencePiece
    finds beside them in `model` shows in a text that the two normalize in different ways."""
    spec = sentencepiece_model.messages(model)[NORMALIZER_SPEC]
    kept = b"".join(_field(number, value) for number, value, _ in sentencepiece_model.fields(model) if number in (1, 2))
    return kept + _field(NORMALIZER_SPEC, b"".join(_field(key, spec[key]) for key in (1, TABLE, 3, 4, 5) if key in spec))


def _table(model: bytes, spec: int) -> bytes:
    return b"" if _is_pure_byte(model) else sentencepiece_model.messages(model)[spec].get(TABLE, b"")


def _is_pure_byte(model: bytes) -> bool:
    return model.lstrip()[:1] == b"{"


def _has_known_types(model: bytes) -> bool:
    for number, message, _ in sentencepiece_model.fields(model):
        for key, _, whole in sentencepiece_model.fields(message) if number in KNOWN else ():
            if whole[0] & 7 != KNOWN[number].get(key, whole[0] & 7):
                return False
    return True


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes((value & 127 | 128,)), value >> 7
    return out + bytes((value,))
