"""Fast encoding: the ids of `Tokenizer.encode`, word by word with a memory of words, and the bytes of text behind each id.

No piece of the field's vocabularies goes on after a blank (SentencePiece's split_by_whitespace), and BPE merges neighbours
only, so a text may be cut in front of every blank and its words encoded one by one: the ids are the same, and most words
were seen before. CaseOps changes runs of letters only, so it is done per word too. A vocabulary with a blank inside a
piece, or one that is no BPE, is encoded whole.

Every word that enters the memory is decoded again and compared; so is what is encoded whole. The byte counts come from the
words themselves, not from the tokenizer's tables: accounting.py compares the two.
"""

import functools
import itertools
import re
from array import array
from dataclasses import dataclass

import numpy as np

from stages.runtime import caseops, sentencepiece_model
from stages.runtime.tokenizer import BLANK, BOS, Tokenizer, load_processor

MAX_WORDS = 1 << 18       # about 50 MB; of 100 MB of English, 19 words in 20 are among the first so many different ones
MAX_WORD_LENGTH = 64      # longer ones hardly come again
LOSSLESS_WORD = re.compile(r" ?[^ ]+| ")
NORMALIZED_WORD = re.compile(f"{BLANK}?[^{BLANK}]+|{BLANK}")


@dataclass(frozen=True)
class Encoded:
    """One document: ids (with BOS in front) and the bytes of text behind each, uint16 (N,). Counted
    on the text and not on the ids, `text_bytes` is what the score divides by."""

    ids: np.ndarray
    byte_counts: np.ndarray
    text_bytes: int


class _Words(dict):
    """word -> (ids, byte counts) as bytes of uint16."""

    def __init__(self, encode):
        super().__init__()
        self.encode = encode

    def __missing__(self, word: str) -> tuple[bytes, bytes]:
        found = self.encode(word)
        if len(self) < MAX_WORDS and len(word) <= MAX_WORD_LENGTH:
            self[word] = found
        return found


class Encoder:
    """Encodes documents with one tokenizer."""

    def __init__(self, model: bytes):
        self.tokenizer = Tokenizer(model)
        self.words = _Words(self._lossless_word)
        if not self.tokenizer.is_lossless:
            self.after_normalization = load_processor(sentencepiece_model.without_normalization(model))
            self.words = _Words(self._normalized_word)
        # A cut in front of every blank is safe if no piece has a blank anywhere but in front.
        processor = self.tokenizer.processor
        self.by_word = processor is not None and self.tokenizer.settings.is_bpe and not any(
            BLANK in processor.IdToPiece(piece)[1:] for piece in range(processor.GetPieceSize()))

    def encode(self, text: str) -> Encoded:
        """Encode one document. ValueError if a lossless tokenizer does not give it back byte for byte."""
        if not self.tokenizer.is_lossless:
            return self._raw_surfaces(text) if self.tokenizer.has_caseops else self._normalized(text)
        return self._lossless(text)

    def written_bytes(self, text: str) -> int:
        """Bytes of the text that the pieces of `text` spell: after CaseOps and normalization, from these alone."""
        transformed = caseops.encode(text) if self.tokenizer.has_caseops else text
        if not self.tokenizer.is_lossless:
            transformed = self.tokenizer.processor.Normalize(transformed).replace(BLANK, " ")
        return len(transformed.encode())

    def _lossless(self, text: str) -> Encoded:
        raw = text.encode()
        if not self.tokenizer.processor:
            return _encoded(np.frombuffer(raw, np.uint8).astype(np.uint16) + 4, np.ones(len(raw), np.uint16), len(raw))
        ids, counts = self._joined(LOSSLESS_WORD.findall(text)) if self.by_word else self._lossless_word(text)
        return _encoded(np.frombuffer(ids, np.uint16), np.frombuffer(counts, np.uint16), len(raw))

    def _joined(self, words: list[str]) -> tuple[bytes, bytes]:
        pairs = list(map(self.words.__getitem__, words))
        return b"".join([ids for ids, _ in pairs]), b"".join([counts for _, counts in pairs])

    def _lossless_word(self, word: str) -> tuple[bytes, bytes]:
        tokenizer = self.tokenizer
        ids = tokenizer.encode(word)
        if tokenizer.decode(ids) != word.encode():
            raise ValueError(f"the tokenizer calls itself lossless, but {word[:40]!r} does not come back; train it again: "
                             "dvc repro vocabulary")
        if tokenizer.has_caseops:
            counts = _surface_bytes([tokenizer.piece_bytes[piece] for piece in ids])
        else:
            counts = [len(tokenizer.piece_bytes[piece]) for piece in ids]
        return array("H", ids).tobytes(), array("H", counts).tobytes()

    def _normalized(self, text: str) -> Encoded:
        """As published: SentencePiece normalizes, and the bytes are those of the normalized document."""
        normalized = self.tokenizer.processor.Normalize(text)
        ids, counts = self._written(normalized)
        byte_counts = np.frombuffer(counts, np.uint16)
        if normalized.startswith(BLANK):  # in front of a document it goes free, as in the field's tables
            byte_counts = byte_counts - (np.arange(len(byte_counts)) == 0)
        return _encoded(np.frombuffer(ids, np.uint16), byte_counts, len(normalized.removeprefix(BLANK).replace(BLANK, " ").encode()))

    def _written(self, normalized: str) -> tuple[bytes, bytes]:
        """Ids, and bytes of the normalized text behind each."""
        if not self.by_word:
            return self._normalized_word(normalized)
        return self._joined(NORMALIZED_WORD.findall(normalized))

    def _normalized_word(self, word: str) -> tuple[bytes, bytes]:
        ids = self.after_normalization.EncodeAsIds(word)
        pieces = [self.tokenizer.piece_bytes[piece] for piece in ids]
        if b"".join(pieces) != word.replace(BLANK, " ").encode():
            raise ValueError(f"the tokenizer does not write {word[:40]!r} of its own normalized text; its vocabulary is damaged")
        return array("H", ids).tobytes(), array("H", map(len, pieces)).tobytes()

    def _raw_surfaces(self, text: str) -> Encoded:
        """CaseOps over nmt_nfkc, as published: per piece the raw bytes of its surface, the part of the text that it was made from.

        A character that is spelled in byte pieces belongs to the last of them, as in SentencePiece's own alignment.
        """
        transformed = caseops.encode(text)
        normalized, origins = self.tokenizer.processor.Normalize(transformed, with_offsets=True)
        written = self._written(normalized)
        ids = np.frombuffer(written[0], np.uint16)
        goes_on = np.append(self.continues[ids[1:]], False)  # the next piece is a byte of the same character
        ends = np.cumsum(np.where(self.is_byte[ids], ~goes_on, self.characters[ids]))
        edges = np.asarray(origins)[np.concatenate(([0], ends))].tolist()
        counts = caseops.byte_counts([transformed[start:end] for start, end in itertools.pairwise(edges)])
        # What normalization cuts off at the two ends is blank and holds no operator: the rest is the raw text without it.
        covered = len(transformed[origins[0]: origins[-1]].encode())
        return _encoded(ids, np.array(counts, np.uint16), len(text.encode()) - (len(transformed.encode()) - covered))

    @functools.cached_property
    def characters(self) -> np.ndarray:
        """Characters of normalized text per piece, int64 (V,)."""
        processor = self.tokenizer.processor
        return np.array([len(processor.IdToPiece(piece)) for piece in range(processor.GetPieceSize())], np.int64)

    @functools.cached_property
    def is_byte(self) -> np.ndarray:
        """Is it a byte piece? bool (V,)."""
        processor = self.tokenizer.processor
        return np.array([processor.IsByte(piece) for piece in range(processor.GetPieceSize())], bool)

    @functools.cached_property
    def continues(self) -> np.ndarray:
        """Is it a byte piece that goes on with a character (10xxxxxx)? bool (V,)."""
        pieces = self.tokenizer.piece_bytes
        return np.array([is_byte and pieces[i][0] & 0xC0 == 0x80 for i, is_byte in enumerate(self.is_byte)], bool)


def _surface_bytes(pieces: list[bytes]) -> list[int]:
    """Raw bytes behind each piece of one lossless CaseOps word. A byte piece need not be a character, but is always one byte."""
    counts: list[int] = []
    for is_byte, group in itertools.groupby(pieces, key=lambda piece: len(piece) == 1):
        run = list(group)
        counts += [1] * len(run) if is_byte else caseops.byte_counts([piece.decode() for piece in run])
    return counts


def _encoded(ids: np.ndarray, byte_counts: np.ndarray, text_bytes: int) -> Encoded:
    with_bos = np.empty(len(ids) + 1, np.uint16)
    with_bos[0], with_bos[1:] = BOS, ids
    counts = np.zeros(len(ids) + 1, np.uint16)
    counts[1:] = byte_counts
    return Encoded(with_bos, counts, text_bytes)
