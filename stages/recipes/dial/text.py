"""What a text is like, as far as sizes depend on it: bytes, documents, duplicates, and the likely language.

A duplicate has the same text as an earlier document. The language is the one whose commonest words are most frequent; a text in
which none of them are is named after its script. At most LOOKED_AT bytes are read, so the numbers of a larger text are those of its
beginning.
"""

import hashlib
import heapq
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.lib.text import accounting
from stages.prepare import builtin, local

LOOKED_AT = 100_000_000
PACKED = 3  # bytes of text in a byte of a compressed file, assumed
WORDS_FROM = 2_000_000  # characters from which the language is told
COMMON = {  # the most frequent function words of each language (any frequency list), without those that several languages share
    "English": "the of and to that is with for was it",
    "German": "der die und das nicht mit den von ist auch",
    "French": "les des et est une dans que qui pour pas",
    "Spanish": "el los que las por una con para del como",
    "Italian": "che il di per non della sono gli una nel",
    "Portuguese": "que não uma os com para mais como dos ao",
    "Dutch": "het een van en dat niet zijn voor met aan",
    "Polish": "nie się na że jest do to jak po ale",
    "Russian": "и в не на что он как это по но",
}
LEAST_SHARE = 0.03  # of the words: prose has 15 % and more, lists and code less than this
ALPHABETS = ("LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC")  # scripts whose letters all find room in a small vocabulary


FINEWEB_VOCABULARY, FINEWEB_TOKENS = 1024, 8_000_000_000  # of the contest's sp1024 shards, 80 of them


@dataclass(frozen=True)
class Text:
    """`bytes` are of all documents, estimated by the size of the files if only a part was read; the rest is of the part."""

    bytes: int
    documents: int
    duplicates: int
    duplicate_bytes: int
    language: str
    script: str
    is_whole: bool
    val_bytes: int | None = None  # of published shards, which are split and tokenized already

    @property
    def unique_bytes(self) -> int:
        """Bytes without duplicates."""
        return round(self.bytes * (1 - self.duplicate_share))

    @property
    def duplicate_share(self) -> float:
        """Of the bytes that were read."""
        return self.duplicate_bytes / max(1, min(self.bytes, LOOKED_AT))


FINEWEB = Text(
    bytes=round(FINEWEB_TOKENS * accounting.VAL_BYTES / accounting.VAL_TOKENS["sp1024"]),
    documents=round(FINEWEB_TOKENS * accounting.VAL_DOCUMENTS / accounting.VAL_TOKENS["sp1024"]),
    duplicates=0,
    duplicate_bytes=0,
    language="English",
    script="LATIN",
    is_whole=True,
    val_bytes=accounting.VAL_BYTES,
)


def look(path: Path | None) -> Text:
    """Read the text below `path`, or the built-in one. ValueError for a file that `prepare` would refuse, and for a text without words."""
    files = [] if path is None else local.files(path)
    there = sum(file.stat().st_size * (PACKED if file.suffix in local.COMPRESSED else 1) for file in files)
    seen, duplicates, sample = set(), [], []
    sum_of_sizes, documents, left, is_whole = 0, 0, WORDS_FROM, True
    for raw in _documents(path):
        if sum_of_sizes >= LOOKED_AT:
            is_whole = False
            break
        sum_of_sizes, documents = sum_of_sizes + len(raw), documents + 1
        if (digest := _digest(raw)) in seen:
            duplicates.append(len(raw))
        seen.add(digest)
        if left > 0:
            sample.append(raw.decode()[:left])
            left -= len(sample[-1])
    if not documents:
        raise ValueError(f"{path} holds no text; give --text a file or folder with documents in it")
    language, script = told("\n".join(sample))
    size = sum_of_sizes if is_whole else max(sum_of_sizes, there)
    documents = round(documents * size / sum_of_sizes)  # of all of the text, as its bytes are
    return Text(size, documents, len(duplicates), sum(duplicates), language, script, is_whole)


def drawn(path: Path, size: int, pieces: int) -> list[str]:
    """Documents that hold `size` bytes, drawn by their hashes from all that `look` reads, in the order of the text: what comes first is
    often of another kind than the rest. Of a document of more than size / pieces bytes it is so much from its middle, so that a few long
    ones do not fill the whole. A text that is not longer than `size` is taken whole."""
    kept: list[tuple[int, int, bytes]] = []
    is_longer = any(total > size for total in itertools.accumulate(len(raw) for raw in _documents(path)))
    most = size // pieces if is_longer else size
    read = held = 0
    for number, raw in enumerate(_documents(path)):
        if read >= LOOKED_AT:
            break
        read, digest, start = read + len(raw), _digest(raw), max(0, (len(raw) - most) // 2)
        piece = raw[start : start + most]
        held += len(piece)
        heapq.heappush(kept, (-int.from_bytes(digest), number, piece))
        while held - len(kept[0][2]) >= size:
            held -= len(heapq.heappop(kept)[2])
    return [raw.decode(errors="ignore") for _, raw in sorted((number, raw) for _, number, raw in kept)]


def _documents(path: Path | None) -> Iterator[bytes]:
    """All documents that hold something."""
    found = builtin.read() if path is None else (document for task in local.tasks(local.files(path)) for document in local.parse(task))
    return (raw for _, text in found if (raw := text.encode()))


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()


def told(sample: str) -> tuple[str, str]:
    """The likely language and the commonest script of a text."""
    letters = Counter(unicodedata.name(character, "?").split()[0] for character in sample[::17] if character.isalpha())
    script = letters.most_common(1)[0][0] if letters else "?"
    words = Counter(sample.lower().split())
    share = {language: sum(words[word] for word in common.split()) / max(1, words.total()) for language, common in COMMON.items()}
    best = max(share, key=share.get)
    return (best if share[best] >= LEAST_SHARE else f"not told (script {script.capitalize()}, few common words)"), script
