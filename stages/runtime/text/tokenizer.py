"""One interface to the contest's tokenizers: SentencePiece (lossless or as published), with or without CaseOps, and plain bytes.

CaseOps operators may be one token with the blank before them (fused_markers.py) or stand before it (operators_first.py); the model file
says which.

A tokenizer gives the ids of a text, the text of some ids, and the number of text bytes that each id in a stream stands for (the
denominator of bits per byte). Its `certificate` states to which text these bytes belong:

| model                                   | text -> ids -> text         | bytes are those of                                   |
|-----------------------------------------|-----------------------------|------------------------------------------------------|
| identity normalization, or plain bytes  | unchanged                   | the raw document                                     |
| nmt_nfkc, as published in the contest   | normalized                  | the normalized document                              |
| either of these with CaseOps            | as above, case restored     | the raw document (nmt_nfkc: what its pieces cover)   |

SentencePiece writes a blank as U+2581, so a literal U+2581 would come back as a blank; a lossless model gets it as its three
byte pieces instead. CaseOps is recognised by its four operators being pieces.
"""

import functools
import hashlib
import json

import numpy as np

from . import caseops, operators_first, sentencepiece_model
from .fused_markers import FusedMarkers

SPECIAL = 0, 1, 2, 3  # pad, bos, eos, unk, as in the contest's tokenizers
_, BOS, _, UNKNOWN = SPECIAL
NUM_SPECIAL = len(SPECIAL)
MAX_PIECES = 1 << 16
BLANK = "▁"
PURE_BYTE = {
    "tokenizer_type": "pure_byte",
    "vocab_size": 260,  # the contest's fineweb_pure_byte_260.json
    "config": {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "byte_offset": NUM_SPECIAL, "byte_count": 256},
}


class Tokenizer:
    """Wraps a SentencePiece model or the pure-byte JSON file, as bytes. ValueError for anything else, and if bytes cannot be counted."""

    def __init__(self, model: bytes):
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.processor = None
        if model.lstrip()[:1] == b"{":
            _check_pure_byte(model)
            self.settings = sentencepiece_model.TokenizerSettings("identity", False, ())
        else:
            self.processor = load_processor(model)
            self.settings = sentencepiece_model.settings(model)
        operators = [self.processor.PieceToId(char) for char in caseops.OPERATORS] if self.processor else [UNKNOWN]
        self.operators = tuple(operators) if UNKNOWN not in operators else ()
        self.fused_markers = None
        if self.settings.markers and not self.operators:
            raise ValueError(f"{self.settings.markers} is about CaseOps operators, and the tokenizer has none; use one with CaseOps")
        if self.settings.markers == "fused_markers":
            if any(self.processor.IdToPiece(piece)[1:].endswith(BLANK) for piece in range(self.vocabulary_size)):
                raise ValueError("fused_markers needs pieces that do not end with a blank; use a tokenizer that splits at blanks")
            byte_pieces = [self.processor.PieceToId(f"<0x{byte:02X}>") for byte in range(3)]
            self.fused_markers = FusedMarkers(self.processor.PieceToId(BLANK), self.operators, tuple(byte_pieces))

    @property
    def vocabulary_size(self) -> int:
        return self.processor.GetPieceSize() if self.processor else PURE_BYTE["vocab_size"]

    @property
    def is_lossless(self) -> bool:
        """Whether every text is restored byte for byte."""
        return not self.settings.lossy_because

    @property
    def has_caseops(self) -> bool:
        return bool(self.operators)

    @property
    def counts_follow_from_ids(self) -> bool:
        """False for CaseOps over nmt_nfkc: there the raw bytes per piece depend on the raw text, so only the sidecar has them."""
        return self.is_lossless or not self.has_caseops

    def certificate(self) -> dict:
        """Facts for a reviewer: whether it is lossless, why not, and by the bytes of which text the score is divided."""
        counted = "raw documents" if self.is_lossless else "normalized documents"
        if self.has_caseops and not self.is_lossless:
            counted = "raw documents, without the blanks that normalization removes at their ends"
        return {
            "kind": "sentencepiece" if self.processor else "bytes",
            "vocabulary_size": self.vocabulary_size,
            "sha256": self.sha256,
            "lossless": self.is_lossless,
            "lossy_because": list(self.settings.lossy_because),
            "bytes_counted_on": counted,
            "normalization": self.settings.normalization,
            "transform": "lossless_caps_caseops_v1" + f" {self.settings.markers}".rstrip() if self.has_caseops else "none",
        }

    @functools.cached_property
    def piece_bytes(self) -> list[bytes]:
        """The text bytes that each id writes; empty for control pieces such as BOS. CaseOps operators write themselves."""
        if not self.processor:
            return [b""] * NUM_SPECIAL + [bytes([value]) for value in range(256)]
        table = []
        for piece in range(self.vocabulary_size):
            if self.processor.IsByte(piece):
                table.append(bytes([int(self.processor.IdToPiece(piece)[1:-1], 16)]))
            else:
                table.append(b"" if self._is_boundary(piece) else self.processor.IdToPiece(piece).replace(BLANK, " ").encode())
        return table

    @functools.cached_property
    def _written(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each id: the bytes that it writes (int64), whether these begin with a blank, whether there are none."""
        sizes = np.array([len(piece) for piece in self.piece_bytes], np.int64)
        return sizes, np.array([piece[:1] == b" " for piece in self.piece_bytes]), sizes == 0

    def byte_counts(self, tokens: np.ndarray) -> np.ndarray:
        """Bytes of text that each token of a stream stands for, int64 (N,). The stream starts with a BOS.

        A token counts the bytes that its piece writes. A tokenizer that is not lossless does not count a blank at the start of a document,
        as in the contest's tables. With CaseOps an operator counts 0, or 3 bytes if an ESC operator makes it a character of the document.
        """
        tokens = np.asarray(tokens)
        sizes, blank, silent = self._written
        counts = sizes[tokens]
        if not self.is_lossless and len(tokens):
            counts[1:] -= blank[tokens[1:]] & silent[tokens[:-1]]
            counts[0] -= blank[tokens[0]]
        if self.has_caseops:
            counts[np.isin(tokens, self.operators)] = 0
            marker = -1
            for escape in np.flatnonzero(tokens[:-1] == self.operators[caseops.OPERATORS.index(caseops.ESC)]):
                if escape != marker + 1 or marker < 0:
                    marker = escape
                    if tokens[escape + 1] in self.operators:
                        counts[escape + 1] = len(caseops.ESC.encode())
                else:
                    marker = -1  # this ESC is the character that the one before it escapes
        return counts

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, without BOS; for a published tokenizer exactly those of SentencePiece."""
        if not self.processor:
            return [value + NUM_SPECIAL for value in text.encode()]
        text = self.transformed(text)
        if not self.is_lossless:
            return self._fused(self.processor.EncodeAsIds(text))
        ids: list[int] = []
        blank = [self.processor.PieceToId(f"<0x{byte:02X}>") for byte in BLANK.encode()]
        for i, part in enumerate(text.split(BLANK)):
            ids += blank if i else []
            ids += self.processor.EncodeAsIds(part)
        return self._fused(ids)

    def transformed(self, text: str) -> str:
        """What normalization and SentencePiece get: `text` with its capitals as operators, if there are operators."""
        if not self.has_caseops:
            return text
        return operators_first.encode(caseops.encode(text)) if self.settings.markers == "operators_first" else caseops.encode(text)

    def _fused(self, ids: list[int]) -> list[int]:
        return self.fused_markers.fuse(np.array(ids, np.int64))[0].tolist() if self.fused_markers else ids

    def decode(self, ids, *, leniently: bool = False) -> bytes:
        """The bytes that `ids` stand for: the exact document if the tokenizer is lossless, else the normalized one. `leniently`: operators
        that cannot apply are dropped, as at the end of a part of a document."""
        if self.fused_markers:
            ids = self.fused_markers.separate(np.array(ids, np.int64)).tolist()
        written = b"".join(map(self.piece_bytes.__getitem__, ids))
        if not self.has_caseops:
            return written
        # surrogateescape, because ids that a model generates need not be valid UTF-8
        text = written.decode(errors="surrogateescape")
        if self.settings.markers == "operators_first":
            text = operators_first.decode(text)
        is_strict = self.is_lossless and not leniently
        return (caseops.decode if is_strict else caseops.decode_leniently)(text).encode(errors="surrogateescape")

    def _is_boundary(self, piece: int) -> bool:
        if not self.processor:
            return piece < NUM_SPECIAL
        return self.processor.IsControl(piece) or self.processor.IsUnknown(piece) or self.processor.IsUnused(piece)


def load_processor(model: bytes):
    """A SentencePieceProcessor of `model`. ValueError if it is not a model, or lacks pieces that are needed to count bytes."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, OSError):
        raise ValueError("the tokenizer file is not a SentencePiece model; make it with: dvc repro vocabulary") from None
    special = processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()
    if special != SPECIAL:
        raise ValueError(
            f"the tokenizer has pad, bos, eos and unk at {special}, the field's are at {SPECIAL}; train it with these ids: "
            "dvc repro vocabulary"
        )
    if processor.GetPieceSize() > MAX_PIECES:
        raise ValueError(
            f"the tokenizer has {processor.GetPieceSize():,} pieces, ids in shards are 16 bits: at most {MAX_PIECES:,}; "
            "train a smaller one: dvc repro vocabulary"
        )
    if any(processor.PieceToId(f"<0x{byte:02X}>") == UNKNOWN for byte in range(256)):
        raise ValueError("the tokenizer lacks the 256 byte pieces; train it with byte fallback: dvc repro vocabulary")
    if processor.PieceToId(BLANK) == UNKNOWN:
        raise ValueError(
            "the tokenizer has no standalone U+2581 piece, so that a blank becomes three byte pieces and would count as 3 "
            "bytes (#897); train it on text with blanks: dvc repro vocabulary"
        )
    return processor


def _check_pure_byte(model: bytes) -> None:
    try:
        content = json.loads(model)
    except (ValueError, RecursionError):
        content = None
    if content != PURE_BYTE:
        raise ValueError(
            "the tokenizer file is JSON but not the field's pure-byte tokenizer (260 ids, byte b is id 4 + b); "
            "make it with vocabulary.source: bytes"
        )
