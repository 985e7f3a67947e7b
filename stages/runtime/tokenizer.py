"""A lossless view of a SentencePiece model: text -> ids -> exactly the same bytes.

SentencePiece writes a blank as U+2581, so a literal U+2581 in the text would come back as a blank; here it is coded as its
three byte pieces. Decoding is a table look-up: the bytes of a text are the concatenation of `piece_bytes[id]`, which is
also why the bytes per token need no context and their sum over a document is the document's length.
"""

import functools
import hashlib

import numpy as np

BOS = 1  # ids 0..3 are pad, bos, eos, unk, as in the field's tokenizers
BLANK = "▁"


class Tokenizer:
    """Wraps the bytes of a SentencePiece model. ValueError if it is not one, or if it cannot be lossless."""

    def __init__(self, model: bytes):
        import sentencepiece

        self.sha256 = hashlib.sha256(model).hexdigest()
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError):
            raise ValueError("the tokenizer file is not a SentencePiece model; make it with: dvc repro vocabulary") from None
        if self.processor.bos_id() != BOS or any(self.processor.PieceToId(f"<0x{b:02X}>") == self.processor.unk_id() for b in range(256)):
            raise ValueError("the tokenizer lacks the 256 byte pieces or has another BOS id than 1; "
                             "train it with byte fallback: dvc repro vocabulary")

    @property
    def vocabulary_size(self) -> int:
        return self.processor.GetPieceSize()

    @functools.cached_property
    def piece_bytes(self) -> list[bytes]:
        """The text bytes that each id stands for; empty for control pieces such as BOS."""
        table = []
        for piece in range(self.vocabulary_size):
            if self.processor.IsByte(piece):
                table.append(bytes([int(self.processor.IdToPiece(piece)[1:-1], 16)]))
            elif self.processor.IsControl(piece) or self.processor.IsUnknown(piece) or self.processor.IsUnused(piece):
                table.append(b"")
            else:
                table.append(self.processor.IdToPiece(piece).replace(BLANK, " ").encode())
        return table

    @functools.cached_property
    def byte_counts(self) -> np.ndarray:
        """Bytes per id, int64 (V,)."""
        return np.array([len(piece) for piece in self.piece_bytes], np.int64)

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, without BOS."""
        ids: list[int] = []
        blank = [self.processor.PieceToId(f"<0x{byte:02X}>") for byte in BLANK.encode()]
        for i, part in enumerate(text.split(BLANK)):
            ids += blank if i else []
            ids += self.processor.EncodeAsIds(part)
        return ids

    def decode(self, ids) -> bytes:
        """The exact bytes that `ids` stand for."""
        return b"".join(map(self.piece_bytes.__getitem__, ids))
