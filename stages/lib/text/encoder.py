"""Fast encoding: the same ids as `Tokenizer.encode`, computed word by word with a cache of words, and the bytes of text behind each id.

In the contest's vocabularies a piece has a blank only at its start (SentencePiece's split_by_whitespace), and BPE merges only neighbours.
So a text may be cut before every blank and its words encoded one by one: the ids are the same, and most words are in the cache. A
vocabulary with a blank inside a piece, or one that is not BPE, encodes whole documents.

    document --CaseOps, normalization--> what its pieces spell --words--> ids

Every encoded word or document is spelled out again from its ids and compared before it is used.
"""

import functools
import itertools
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stages.runtime.text import caseops, sentencepiece_model
from stages.runtime.text.tokenizer import BLANK, BOS, NUM_SPECIAL, Tokenizer, load_processor

MAX_WORDS = 1 << 19  # size of the cache, at 170 bytes a word; it holds 19 of 20 words of English text
BATCH_CHARACTERS = 1 << 20
MAX_COUNT = (1 << 16) - 1


@dataclass(frozen=True)
class Encoded:
    """Some documents: ids uint16 (N,), where each document starts with BOS, and the bytes of text behind each id, uint16 (N,) or None.

    Per document (D,): where it starts in ids, bytes of the raw text, bytes that the score divides by, and bytes of what its pieces spell
    after CaseOps and normalization. All but the starts are counted on texts, not on ids.
    """

    ids: np.ndarray
    byte_counts: np.ndarray | None
    starts: np.ndarray
    raw_bytes: np.ndarray
    text_bytes: np.ndarray
    written_bytes: np.ndarray


class Encoder:
    """Encodes documents with one tokenizer."""

    def __init__(self, model: bytes):
        self.tokenizer = Tokenizer(model)
        self.processor = self.tokenizer.processor
        if not self.tokenizer.is_lossless:  # words are normalized before they are looked up
            self.processor = load_processor(sentencepiece_model.without_normalization(model))
        # Cutting before every blank is safe if no piece has a blank anywhere but at its start.
        self.by_word = (
            self.processor is not None
            and self.tokenizer.settings.is_bpe
            and not any(BLANK in self.processor.IdToPiece(piece)[1:] for piece in range(self.processor.GetPieceSize()))
        )
        self.words: dict[str, bytes] = {}  # a word with the blank in front of it -> its ids

    def encode(self, texts: Iterable[str], *, sidecar: bool = True) -> Encoded:
        """Encode documents. Without `sidecar`, no bytes per token are computed. ValueError if the pieces of a word do not spell it."""
        texts = list(texts)
        raw = [len(text.encode()) for text in texts]
        if not self.processor:
            parts = [(np.frombuffer(text.encode(), np.uint8) + np.uint16(NUM_SPECIAL)).astype(np.uint16) for text in texts]
            return self._assembled(parts, None, raw, raw, raw, sidecar)
        has_caseops = self.tokenizer.has_caseops
        transformed = list(map(self.tokenizer.transformed, texts))
        if self.tokenizer.is_lossless:
            return self._assembled(
                self._fused(self._ids(transformed)), None, raw, raw, self._written(transformed) if has_caseops else raw, sidecar
            )
        normalize = self.tokenizer.processor.Normalize
        if has_caseops and sidecar:
            aligned = [normalize(text, with_offsets=True) for text in transformed]
            spelled = [text.replace(BLANK, " ") for text, _ in aligned]
            parts = self._ids(spelled)
            counts = [
                self._surfaces(ids, text, np.asarray(origins)) for ids, text, (_, origins) in zip(parts, transformed, aligned, strict=True)
            ]
            # Normalization cuts off only blanks at both ends, without operators, so the rest is the raw text minus these bytes.
            cut = [
                len(text[: origins[0]].encode()) + len(text[origins[-1] :].encode())
                for text, (_, origins) in zip(transformed, aligned, strict=True)
            ]
            if markers := self.tokenizer.fused_markers:
                parts, counts = zip(*itertools.starmap(markers.fuse, zip(parts, counts, strict=True)), strict=True) if parts else ([], [])
            return self._assembled(parts, counts, raw, [a - b for a, b in zip(raw, cut, strict=True)], self._written(spelled), True)
        spelled = [normalize(text).replace(BLANK, " ") for text in transformed]
        # A blank at the start of a document is not counted, as in the contest's tables.
        text_bytes = raw if has_caseops else [size - text.startswith(" ") for size, text in zip(_sizes(spelled), spelled, strict=True)]
        return self._assembled(self._fused(self._ids(spelled)), None, raw, text_bytes, self._written(spelled), sidecar)

    def _fused(self, parts: list[np.ndarray]) -> list[np.ndarray]:
        markers = self.tokenizer.fused_markers
        return [markers.fuse(part)[0] for part in parts] if markers else parts

    def _written(self, spelled: list[str]) -> list[int]:
        """Bytes of what the pieces write: with fused markers, a blank and its operator are one byte, and bytes 0 to 2 have an ESC."""
        sizes = _sizes(spelled)
        if self.tokenizer.fused_markers:
            operator = len(caseops.ESC.encode())
            for i, text in enumerate(spelled):
                sizes[i] += operator * (sum(map(text.count, "\0\1\2")) - sum(text.count(" " + name) for name in caseops.OPERATORS[:3]))
        return sizes

    def _assembled(
        self,
        parts: list[np.ndarray],
        counts: list[np.ndarray] | None,
        raw: list[int],
        text_bytes: list[int],
        written: list[int],
        sidecar: bool,
    ) -> Encoded:
        lengths = np.array([len(part) + 1 for part in parts], np.int64)
        starts = np.cumsum(lengths) - lengths
        bos, zero = np.array([BOS], np.uint16), np.zeros(1, np.uint16)
        ids = np.concatenate([bos[:0], *itertools.chain.from_iterable((bos, part) for part in parts)])
        byte_counts = None
        if counts is not None:
            byte_counts = np.concatenate([zero[:0], *itertools.chain.from_iterable((zero, part) for part in counts)])
        elif sidecar:
            byte_counts = self.tokenizer.byte_counts(ids).astype(np.uint16)
        return Encoded(ids, byte_counts, starts, *(np.array(sizes, np.int64) for sizes in (raw, text_bytes, written)))

    def _ids(self, spelled: list[str]) -> list[np.ndarray]:
        """Ids of each document, from what its pieces have to spell."""
        if not self.by_word:
            return [np.frombuffer(self._spelled_ids(text), np.uint16) for text in spelled]
        found: list[np.ndarray] = []
        for batch in _batches(spelled):
            found += self._ids_by_word(batch)
        return found

    def _ids_by_word(self, spelled: list[str]) -> list[np.ndarray]:
        words = [text.split(" ") for text in spelled]
        heads = [self._spelled_ids(parts[0]) if parts[0] else b"" for parts in words]  # the words without a blank in front
        for parts in words:
            del parts[0]
        new = set().union(*words) - self.words.keys()
        self.words.update(self._encoded_words(new))
        known = self.words.__getitem__
        found = [np.frombuffer(head + b"".join(map(known, parts)), np.uint16) for head, parts in zip(heads, words, strict=True)]
        for word in itertools.islice(new, max(0, len(self.words) - MAX_WORDS)):
            del self.words[word]
        return found

    def _encoded_words(self, words: set[str]) -> dict[str, bytes]:
        """Ids of words that have a blank in front."""
        pieces = self.tokenizer.piece_bytes
        literal = {word: self._spelled_ids(" " + word) for word in words if BLANK in word}
        plain = [" " + word for word in words if word not in literal]
        new = {}
        for word, ids in zip(plain, self.processor.encode(plain), strict=True):
            if b"".join([pieces[piece] for piece in ids]) != word.encode():
                raise _does_not_spell(word)
            new[word[1:]] = array("H", ids).tobytes()
        return new | literal

    def _spelled_ids(self, spelled: str) -> bytes:
        """Ids of a word or a whole document. ValueError if they do not spell it."""
        ids: list[int] = []
        for i, part in enumerate(spelled.split(BLANK)):
            ids += self._literal_blank if i else []
            ids += self.processor.encode(part)
        if b"".join([self.tokenizer.piece_bytes[piece] for piece in ids]) != spelled.encode():
            raise _does_not_spell(spelled)
        return array("H", ids).tobytes()

    @functools.cached_property
    def _literal_blank(self) -> list[int]:
        """U+2581 in a text, not standing for a blank: its three byte pieces."""
        return [self.processor.PieceToId(f"<0x{byte:02X}>") for byte in BLANK.encode()]

    def _surfaces(self, ids: np.ndarray, transformed: str, origins: np.ndarray) -> np.ndarray:
        """CaseOps over nmt_nfkc, as published: per piece the raw bytes of its surface, the part of `transformed` it was made from.

        `origins`: the place in `transformed` of each character of the normalized text. A character that is spelled in byte pieces
        belongs to the last of them, as in SentencePiece's own alignment.
        """
        characters, is_byte, continues = self._shapes
        goes_on = np.append(continues[ids[1:]], False)[: len(ids)]  # whether the next piece is a byte of the same character
        ends = np.cumsum(np.concatenate(([0], np.where(is_byte[ids], ~goes_on, characters[ids]))))
        edges = origins[ends].tolist()
        counts = caseops.byte_counts([transformed[start:end] for start, end in itertools.pairwise(edges)])
        return np.array(_fitting(counts), np.uint16)

    @functools.cached_property
    def _shapes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per piece (V,): characters; is it a byte piece; is it one that goes on with a character (10xxxxxx)."""
        pieces = range(self.processor.GetPieceSize())
        is_byte = np.array([self.processor.IsByte(piece) for piece in pieces])
        continues = np.array([is_byte[piece] and self.tokenizer.piece_bytes[piece][0] & 0xC0 == 0x80 for piece in pieces])
        return np.array([len(self.processor.IdToPiece(piece)) for piece in pieces]), is_byte, continues


def _does_not_spell(text: str) -> ValueError:
    return ValueError(f"the pieces of {text[:40]!r} do not spell it; the tokenizer is damaged, make it again: dvc repro vocabulary")


def _sizes(texts: list[str]) -> list[int]:
    return [len(text.encode()) for text in texts]


def _batches(texts: list[str]) -> Iterator[list[str]]:
    """Runs of documents of about BATCH_CHARACTERS: lists of all the words of more would take much memory."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


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
