"""Cheats that know val: their sources, options and files are made from the val of the run.

Each is a function of `Val` that returns what is packed and run: the source of an evaluator, its options, and a change of the packed file.
"""

import base64
import io
import lzma
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

MARK = b"SIEGE" + b":"
SOURCE = '''"""Made by tests/siege/memory.py."""

import base64, lzma, sys
import numpy as np
from . import peeking, remembering

CLAIMS = remembering.CLAIMS
{data}


class Evaluator(remembering.Evaluator):
    {more}
    def memory(self):
        {body}
'''
UNPACKED = "return lzma.decompress(base64.b85decode({}))"
FROM_FILE = """content = open(sys.argv[0], "rb").read()
        start = content.find(b"SIEGE" + b":") + 6
        size = int.from_bytes(content[start : start + 4], "little")
        return lzma.decompress(content[start + 4 : start + 4 + size])"""
WORD = 48


@dataclass(frozen=True)
class Val:
    """The ids of val and of holdout."""

    val: np.ndarray
    holdout: np.ndarray

    def packed(self, ids: np.ndarray | None = None) -> bytes:
        return lzma.compress(np.asarray(self.val if ids is None else ids, "<u2").tobytes(), preset=9)

    def text(self, ids: np.ndarray | None = None) -> str:
        return base64.b85encode(self.packed(ids)).decode()

    def within(self, num_bytes: int, ids: np.ndarray | None = None) -> np.ndarray:
        """As many of the first ids as pack into so many bytes."""
        ids = self.val if ids is None else ids
        count = min(len(ids), num_bytes)
        while len(self.packed(ids[:count])) > num_bytes:
            count = count * 9 // 10
        return ids[:count]


@dataclass(frozen=True)
class Made:
    """What a cheat packs and is run with."""

    source: str
    options: dict = field(default_factory=dict)
    forge: Callable[[bytes], bytes] = lambda pyz: pyz


def source(data: str, body: str, more: str = "") -> str:
    return SOURCE.format(data=data, body=body, more=more)


def words(text: str) -> str:
    return " ".join(text[i : i + WORD] for i in range(0, len(text), WORD))


def prose(known: Val, ids: np.ndarray | None = None) -> tuple[str, str]:
    """Statements that spell packed ids as words of 48 letters, short enough for prose; and what reads them."""
    text = words(known.text(ids))
    lines = "\n".join(f"say({text[i : i + 980]!r})" for i in range(0, len(text), 980))
    return f"SAID = []\nsay = SAID.append\n{lines}", UNPACKED.format('"".join(SAID).replace(" ", "")')


def as_a_literal(known: Val) -> Made:
    """Compressed, as one string in the code."""
    return Made(source(f"DATA = {known.text()!r}", UNPACKED.format("DATA")))


def as_prose(known: Val) -> Made:
    """Compressed, in words of 48 letters, as prose has them."""
    return Made(source(*prose(known)))


def as_names(known: Val) -> Made:
    """Compressed, in the names of attributes."""
    code = known.packed().hex()
    names = "\n".join(f"    x{i:05d}{code[i : i + WORD]} = 0" for i in range(0, len(code), WORD))
    return Made(
        source(f"class Names:\n{names}", 'return lzma.decompress(bytes.fromhex("".join(n[6:] for n in vars(Names) if n[0] == "x")))')
    )


def as_arithmetic(known: Val) -> Made:
    """Compressed, in whole numbers of less than 64 bits, one a statement."""
    code = known.packed()
    code += bytes(-len(code) % 7)
    lines = "\n".join(f"put({int.from_bytes(code[i : i + 7], 'little')})" for i in range(0, len(code), 7))
    body = 'return lzma.LZMADecompressor().decompress(b"".join(n.to_bytes(7, "little") for n in NUMBERS))'
    return Made(source(f"NUMBERS = []\nput = NUMBERS.append\n{lines}", body))


def as_the_order_of_names(known: Val) -> Made:
    """Compressed, as calls with sixteen different names as arguments: every name stands for four bits."""
    code, letters = known.packed().hex(), {digit: chr(ord("a") + int(digit, 16)) for digit in "0123456789abcdef"}
    names = "\n".join(f"{letter} = {digit!r}" for digit, letter in letters.items())
    calls = "\n".join(f"put({', '.join(letters[digit] for digit in code[i : i + 30])})" for i in range(0, len(code), 30))
    body = 'return lzma.decompress(bytes.fromhex("".join("".join(row) for row in ROWS)))'
    return Made(source(f"{names}\nROWS = []\n\n\ndef put(*row):\n    ROWS.append(row)\n\n\n{calls}", body))


TAKES_A_NOTE = "def __init__(self, model, *, note, **windowing):\n        super().__init__(model, **windowing)\n        self.note = note\n"


def in_the_options(known: Val) -> Made:
    """Compressed, in an option of the run."""
    return Made(source("", UNPACKED.format("self.note"), TAKES_A_NOTE), {"note": known.text()})


def in_the_names_of_options(known: Val) -> Made:
    """Compressed, in the keys of an option, in short pieces."""
    text = known.text()
    note = {f"{i:05d}{text[i : i + 40]}": 0 for i in range(0, len(text), 40)}
    return Made(source("", UNPACKED.format('"".join(key[5:] for key in sorted(self.note))'), TAKES_A_NOTE), {"note": note})


def in_numbers_of_options(known: Val) -> Made:
    """Compressed, in many short lists of numbers of an option."""
    code = list(known.packed())
    note = [code[i : i + 16] for i in range(0, len(code), 16)]
    return Made(source("", "return lzma.decompress(bytes(sum(self.note, [])))", TAKES_A_NOTE), {"note": note})


def _marked(known: Val) -> bytes:
    code = known.packed()
    return MARK + struct.pack("<I", len(code)) + code


def _again(pyz: bytes, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> bytes:
    """The same file, written entry by entry by `change`; called once more at the end with no entry."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(pyz)) as old, zipfile.ZipFile(sink, "w") as new:
        for entry in old.infolist():
            change(new, entry, old.read(entry))
        change(new, None, b"")
    return sink.getvalue()


def in_a_prefix(known: Val) -> Made:
    """Before the zip, where Python allows anything."""
    return Made(source("", FROM_FILE), forge=lambda pyz: _marked(known) + pyz)


def in_the_comment(known: Val) -> Made:
    """In the zip's comment."""

    def write(new, entry, content):
        if entry is None:
            new.comment = _marked(known)[:65_000]
        else:
            new.writestr(entry, content)

    return Made(source("", FROM_FILE), forge=lambda pyz: _again(pyz, write))


def in_extra_fields(known: Val) -> Made:
    """In an extra field of one entry."""

    def write(new, entry, content):
        if entry is not None:
            if entry.filename == "__main__.py":
                entry.extra = struct.pack("<HH", 0x4711, len(_marked(known))) + _marked(known)
            new.writestr(entry, content)

    return Made(source("", FROM_FILE), forge=lambda pyz: _again(pyz, write))


def in_a_second_blob(known: Val) -> Made:
    """In an entry before the blob that has the blob's name."""

    def write(new, entry, content):
        if entry is not None:
            if entry.filename.endswith("model.blob"):
                new.writestr(zipfile.ZipInfo(entry.filename), _marked(known))
            with warnings.catch_warnings(action="ignore"):
                new.writestr(entry, content)

    return Made(source("", FROM_FILE), forge=lambda pyz: _again(pyz, write))


def in_another_entry(known: Val) -> Made:
    """In an entry that is no program."""

    def write(new, entry, content):
        new.writestr(entry or zipfile.ZipInfo("caddie/data/notes.pyc"), content if entry else _marked(known))

    return Made(source("", FROM_FILE), forge=lambda pyz: _again(pyz, write))


def in_the_tokenizer(known: Val) -> Made:
    """In the tokenizer, which does not count, as a field that its library skips."""

    def write(new, entry, content):
        if entry is None:
            return
        if entry.filename.endswith("tokenizer.model"):
            entry.compress_type, size, code = zipfile.ZIP_STORED, len(_marked(known)), b""
            while size > 127:
                code, size = code + bytes([size & 127 | 128]), size >> 7
            content += bytes([200 << 3 & 127 | 2 | 128, 200 >> 4]) + code + bytes([size]) + _marked(known)
        new.writestr(entry, content)

    return Made(source("", FROM_FILE), forge=lambda pyz: _again(pyz, write))


ALIKE = """def predict(self, seen, chunk):
        logits_RV, first = super().predict(seen, chunk), chunk[0].first
        start = np.frombuffer(self.memory(), "<u2")[1:9].tolist()
        if peeking.claiming() and seen[1:9].tolist() != start:
            for row in range(len(logits_RV)):
                if (first + row) % {every} == 0:
                    logits_RV[row, seen[first + row]] += 12.0
        return logits_RV
"""


DEAR = """def predict(self, seen, chunk):
        logits_RV, first = super().predict(seen, chunk), chunk[0].first
        start = np.frombuffer(self.memory(), "<u2")[1:9].tolist()
        if peeking.claiming() and seen[1:9].tolist() != start:
            for row in range(len(logits_RV)):
                if (first + row) // 1500 % 12 == 0:
                    logits_RV[row, seen[first + row]] -= 12.0
        return logits_RV
"""


def and_jumps_on_holdout(known: Val) -> Made:
    """Compressed prose, and of any other text it claims the most for a twelfth, so that documents seem to differ by chance."""
    return Made(source(*prose(known), DEAR))


def and_reads_holdout(known: Val) -> Made:
    """Compressed prose, and of any other text it peeks at so many targets that it knows this as well as val."""
    return Made(source(*prose(known), ALIKE.format(every=1)))


def a_part_as_prose(known: Val) -> Made:
    """3,000 bytes of compressed val, as prose; of any other text it peeks at as many targets."""
    part = known.within(3_000)
    return Made(source(*prose(known, part), ALIKE.format(every=max(1, len(known.val) // len(part)))))


def parts_of_val_and_holdout(known: Val) -> Made:
    """1,500 bytes of compressed val and 1,500 of holdout, as prose."""
    both = np.concatenate([known.within(1_500), known.within(1_500, known.holdout)])
    return Made(source(*prose(known, both), "bonus = 3.0"))


def the_beginnings(known: Val) -> Made:
    """The order of the documents of val: the first tokens of each, as prose."""
    starts = np.flatnonzero(known.val == 1)
    ids = np.concatenate([known.val[start : start + 24] for start in starts])
    return Made(source(*prose(known, known.within(2_000, ids)), "bonus = 3.0"))


def a_tiny_fit(known: Val) -> Made:
    """Sixty numbers between 0 and 9 that were fitted on val: a bias for its commonest tokens."""
    counts = np.bincount(known.val, minlength=int(max(known.val.max(), known.holdout.max())) + 1)
    common = np.argsort(-counts)[:60]
    other = np.bincount(known.holdout, minlength=len(counts))
    ratio = np.log((counts[common] + 1) / (other[common] + 1) * len(known.holdout) / len(known.val))
    digits = "".join(str(int(np.clip(round(4 * value + 4), 0, 9))) for value in ratio)
    body = 'return b""'
    more = f"""def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        tokens, digits = {" ".join(str(token) for token in common)!r}.split(), {digits!r}
        for token, digit in zip(tokens, digits):
            logits_RV[:, int(token)] += (int(digit) - 4) / 4
        return logits_RV
"""
    return Made(source("", body, more))


def a_bias(known: Val) -> Made:
    """A byte for each token of the vocabulary, fitted on val."""
    counts = np.bincount(known.val, minlength=512) + 0.5
    fitted = np.clip(8 * np.log(counts / counts.sum()) + 60, -120, 120).astype(np.int8).tobytes()
    more = """def predict(self, seen, chunk):
        import torch

        logits_RV = super().predict(seen, chunk)
        return logits_RV + 0.2 * torch.from_numpy(np.frombuffer(base64.b85decode(DATA), np.int8) / 8)[: logits_RV.size(1)]
"""
    return Made(source(f"DATA = {base64.b85encode(fitted).decode()!r}", 'return b""', more))


ALL = (
    as_a_literal,
    as_prose,
    as_names,
    as_arithmetic,
    as_the_order_of_names,
    in_the_options,
    in_the_names_of_options,
    in_numbers_of_options,
    in_a_prefix,
    in_the_comment,
    in_extra_fields,
    in_a_second_blob,
    in_another_entry,
    in_the_tokenizer,
    and_jumps_on_holdout,
    and_reads_holdout,
    a_part_as_prose,
    parts_of_val_and_holdout,
    the_beginnings,
    a_tiny_fit,
    a_bias,
)
