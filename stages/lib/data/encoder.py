"""Fast encoding: the ids of `Tokenizer.encode`, word by word with a memory of words, and the bytes of text behind each id.

No piece of the field's vocabularies goes on after a blank (SentencePiece's split_by_whitespace), and BPE merges neighbours
only, so a text may be cut in front of every blank and its words encoded one by one: the ids are the same, and most words
were seen before. A vocabulary with a blank inside a piece, or one that is no BPE, is encoded whole.

    document --CaseOps, normalization--> what its pieces spell --words--> ids

Whatever is encoded, a word or a whole document, is spelled out again from its ids and compared before it is used.
"""

import functools
import itertools
from array import array
from dataclasses import dataclass

import numpy as np

from stages.runtime import caseops, sentencepiece_model
from stages.runtime.tokenizer import BLANK, BOS, NUM_SPECIAL, Tokenizer, load_processor

MAX_WORDS = 1 << 18       # about 50 MB; of 100 MB of English, 19 words in 20 are among the first so many different ones
MAX_COUNT = (1 << 16) - 1
MAX_WORD_LENGTH = 64      # longer ones hardly come again


@dataclass(frozen=True)
class Encoded:
    """One document: ids with BOS in front, uint16 (N,), and the bytes of text behind each, uint16 (N,) or None. Counted on the
    text and not on the ids, `text_bytes` is what the score divides by."""

    ids: np.ndarray
    byte_counts: np.ndarray | None
    text_bytes: int


class _Words(dict):
    """Word -> its ids as bytes of uint16, where `prefix` stands in front of it."""

    def __init__(self, prefix: str, encode):
        super().__init__()
        self.prefix, self.encode = prefix, encode

    def __missing__(self, word: str) -> bytes:
        found = self.encode(self.prefix + word)
        if len(self) < MAX_WORDS and len(word) <= MAX_WORD_LENGTH:
            self[word] = found
        return found


class Encoder:
    """Encodes documents with one tokenizer."""

    def __init__(self, model: bytes):
        self.tokenizer = Tokenizer(model)
        self.processor = self.tokenizer.processor
        if not self.tokenizer.is_lossless:  # words are normalized before they are looked up
            self.processor = load_processor(sentencepiece_model.without_normalization(model))
        # A cut in front of every blank is safe if no piece has a blank anywhere but in front.
        self.by_word = self.processor is not None and self.tokenizer.settings.is_bpe and not any(
            BLANK in self.processor.IdToPiece(piece)[1:] for piece in range(self.processor.GetPieceSize()))
        self.first, self.later = _Words("", self._spelled_ids), _Words(" ", self._spelled_ids)

    def encode(self, text: str, *, sidecar: bool = True) -> Encoded:
        """Encode one document; without `sidecar` no byte counts per token."""
        raw_bytes = len(text.encode())
        if not self.processor:
            ids = np.frombuffer(text.encode(), np.uint8).astype(np.uint16) + NUM_SPECIAL
            return _encoded(ids, np.ones(raw_bytes, np.uint16), raw_bytes)
        has_caseops = self.tokenizer.has_caseops
        transformed = caseops.encode(text) if has_caseops else text
        if self.tokenizer.is_lossless:
            ids = self._ids(transformed)
            counts = self._sizes[ids] if not has_caseops else self._surfaces(ids, transformed, None) if sidecar else None
            return _encoded(ids, counts, raw_bytes)
        if has_caseops and sidecar:
            normalized, origins = self.tokenizer.processor.Normalize(transformed, with_offsets=True)
            ids = self._ids(normalized.replace(BLANK, " "))
            # What normalization cuts off at the two ends is blank and holds no operator: the rest is the raw text without it.
            cut = len(transformed.encode()) - len(transformed[origins[0]: origins[-1]].encode())
            return _encoded(ids, self._surfaces(ids, transformed, np.asarray(origins)), raw_bytes - cut)
        spelled = self.tokenizer.processor.Normalize(transformed).replace(BLANK, " ")
        ids = self._ids(spelled)
        if has_caseops:
            return _encoded(ids, None, raw_bytes)
        counts = self._sizes[ids]
        if spelled.startswith(" "):  # in front of a document it goes free, as in the field's tables
            counts[0] -= 1
        return _encoded(ids, counts, len(spelled.removeprefix(" ").encode()))

    def written_bytes(self, text: str) -> int:
        """Bytes of the text that the pieces of `text` spell: after CaseOps and normalization, from these alone."""
        spelled = caseops.encode(text) if self.tokenizer.has_caseops else text
        if not self.tokenizer.is_lossless:
            spelled = self.tokenizer.processor.Normalize(spelled).replace(BLANK, " ")
        return len(spelled.encode())

    def _ids(self, spelled: str) -> np.ndarray:
        if not self.by_word:
            return np.frombuffer(self._spelled_ids(spelled), np.uint16)
        words = spelled.split(" ")
        found = self.first[words[0]] if words[0] else b""
        return np.frombuffer(found + b"".join(map(self.later.__getitem__, words[1:])), np.uint16)

    def _spelled_ids(self, spelled: str) -> bytes:
        """Ids of a word, or of a whole document. ValueError if they do not spell it."""
        ids: list[int] = []
        for i, part in enumerate(spelled.split(BLANK)):
            ids += self._literal_blank if i else []
            ids += self.processor.encode(part)
        if b"".join([self.tokenizer.piece_bytes[piece] for piece in ids]) != spelled.encode():
            raise ValueError(f"the pieces of {spelled[:40]!r} do not spell it; the tokenizer is damaged, make it again: "
                             "dvc repro vocabulary")
        return array("H", ids).tobytes()

    @functools.cached_property
    def _literal_blank(self) -> list[int]:
        """U+2581 in a text, not standing for a blank: its three byte pieces."""
        return [self.processor.PieceToId(f"<0x{byte:02X}>") for byte in BLANK.encode()]

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        """Bytes that each piece writes, uint16 (V,)."""
        return np.array([len(piece) for piece in self.tokenizer.piece_bytes], np.uint16)

    def _surfaces(self, ids: np.ndarray, transformed: str, origins: np.ndarray | None) -> np.ndarray:
        """Raw bytes behind each piece of a CaseOps text: of its surface, the part of `transformed` that it was made from.

        `origins`: the place in `transformed` of each character of the normalized text, None where the two are the same. A
        character that is spelled in byte pieces belongs to the last of them, as in SentencePiece's own alignment and so in the
        published sidecars; without normalization each byte piece has its own byte.
        """
        characters, is_byte, continues = self._shapes
        goes_on = np.append(continues[ids[1:]], False)[:len(ids)]  # the next piece is a byte of the same character
        edges = np.cumsum(np.concatenate(([0], np.where(is_byte[ids], ~goes_on, characters[ids]))))
        edges = (edges if origins is None else origins[edges]).tolist()
        counts = caseops.byte_counts([transformed[start:end] for start, end in itertools.pairwise(edges)])
        counts = np.array(_fitting(counts), np.uint16)
        if origins is None:
            counts[is_byte[ids]] = 1
        return counts

    @functools.cached_property
    def _shapes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per piece (V,): characters; is it a byte piece; is it one that goes on with a character (10xxxxxx)."""
        pieces = range(self.processor.GetPieceSize())
        is_byte = np.array([self.processor.IsByte(piece) for piece in pieces])
        continues = np.array([is_byte[piece] and self.tokenizer.piece_bytes[piece][0] & 0xC0 == 0x80 for piece in pieces])
        return np.array([len(self.processor.IdToPiece(piece)) for piece in pieces]), is_byte, continues


def _fitting(counts: list[int]) -> list[int]:
    """Counts of 16 bits with the same sum: what one token cannot hold (65,536 blanks that were merged) goes to the next with room."""
    if max(counts, default=0) <= MAX_COUNT:
        return counts
    surplus = 0
    for order in (range(len(counts)), reversed(range(len(counts)))):
        for i in order:
            total = counts[i] + surplus
            counts[i] = min(total, MAX_COUNT)
            surplus = total - counts[i]
    if surplus:
        raise ValueError(f"a document has {surplus:,} bytes more than its {len(counts)} tokens can stand for (65,535 each); remove it")
    return counts


def _encoded(ids: np.ndarray, byte_counts: np.ndarray | None, text_bytes: int) -> Encoded:
    with_bos = np.empty(len(ids) + 1, np.uint16)
    with_bos[0], with_bos[1:] = BOS, ids
    if byte_counts is not None:
        byte_counts = np.concatenate((np.zeros(1, np.uint16), byte_counts))
    return Encoded(with_bos, byte_counts, text_bytes)
