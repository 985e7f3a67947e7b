"""Compress any file with an evaluator as the model of its text; decompression returns the exact bytes.

    magic 8 | u8 form | 8 bytes of the sha256 of all that follows | what follows

form 0 (the file's tokens as text) and 1 (one byte piece per byte, if the file is not UTF-8 or the tokenizer does not restore it):
    u32 tokens | u16 lanes | u64 bytes | 8 bytes of the key's sha256 | 4 bytes of that of the first step's frequencies |
    8 bytes of the content's sha256 | range-coded tokens
form 2 (lzma), 3 (bzip2) and 4 (as it is): the file as that compressor writes it, where this is shorter, so that at most 17 bytes are lost.

The tokens of a file are cut into L lanes, and step t codes token t of every lane in their order, so that the evaluator has L rows to
compute at once (scoring/lanes). 0 lanes: the evaluator is asked for one token after the other, which every causal evaluator can.

All numbers are little endian. The key stands for artifact, evaluator and options. The decoder of forms 0 and 1 needs the same arithmetic as
the encoder: the same kind of processor, torch version and number of threads. Otherwise the frequencies of the first step differ, which is
told at once, or at last the checksum of the content fails.
"""

import bz2
import hashlib
import lzma
import struct
from collections.abc import Callable, Iterable

import numpy as np

from ..scoring.streaming import Stream
from . import arithmetic
from .tokenizer import BOS, Tokenizer

MAGIC = b"CADDIEZ\x02"
HEADER = struct.Struct("<8sB8s")
CODED = struct.Struct("<IHQ8s4s8s")
TEXT, BYTES = 0, 1
LZMA = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]}
GENERAL = {
    2: (lambda content: lzma.compress(content, **LZMA), lambda packed: lzma.decompress(packed, **LZMA)),
    3: (bz2.compress, bz2.decompress),
    4: (bytes, bytes),
}
NAMES = (None, None, "lzma", "bzip2", "nothing, as no compressor makes it shorter")  # of the forms; None: the evaluator
MAX_TOKENS = 1 << 27
OTHER_MACHINE = (
    "this machine computes in another way than the one that compressed the file; decompress it on the same kind of processor, with the "
    "same versions of torch and numpy"
)
LANE_TOKENS, MOST_LANES = 512, 128
Progress = Callable[[range], Iterable[int]]


def tokens_of(content: bytes, tokenizer: Tokenizer) -> tuple[int, list[int]]:
    """(form, ids): as text if the tokenizer restores it exactly, else byte by byte."""
    try:
        ids = tokenizer.encode(content.decode())
        if tokenizer.decode(ids) == content:
            return TEXT, ids
    except UnicodeDecodeError:
        pass
    return BYTES, [byte_ids(tokenizer)[byte] for byte in content]


def byte_ids(tokenizer: Tokenizer) -> list[int]:
    """For each byte value, the id of its byte piece."""
    if not tokenizer.processor:
        return list(range(tokenizer.vocabulary_size - 256, tokenizer.vocabulary_size))
    return [tokenizer.processor.PieceToId(f"<0x{byte:02X}>") for byte in range(256)]


def content_of(form: int, ids: list[int], tokenizer: Tokenizer) -> bytes:
    """The inverse of `tokens_of`."""
    if form == TEXT:
        return tokenizer.decode(ids)
    return b"".join(tokenizer.piece_bytes[i] for i in ids)


def lanes_for(tokens: int) -> int:
    """Into how many lanes a file of so many tokens is cut: a lane costs about a byte (docs/memory.md)."""
    return min(max(tokens // LANE_TOKENS, 1), MOST_LANES)


def order(tokens: int, lanes: int) -> np.ndarray:
    """The place in the file of each token, in the order in which they are coded: step t codes the t-th token of every lane. The lanes are
    contiguous and equally long, but for one token that the first of them have more."""
    length, rest = divmod(tokens, lanes)
    starts = np.arange(lanes) * length + np.minimum(np.arange(lanes), rest)
    return np.concatenate([(starts + np.arange(length)[:, None]).reshape(-1), starts[:rest] + length])


class OneByOne:
    """A single lane, of any evaluator."""

    def __init__(self, evaluator, num_targets: int):
        self.stream = Stream(evaluator, num_targets, BOS)

    def rows(self) -> np.ndarray:
        return np.exp(self.stream.dist())[None]

    def push(self, tokens: np.ndarray) -> None:
        self.stream.push(tokens.tolist())


def compress(content: bytes, tokenizer: Tokenizer, evaluator, *, key: bytes, progress: Progress, lanes=None) -> tuple[bytes, float]:
    """The compressed file, and the code length Σ -log2 p in bits that the evaluator gives the tokens. `lanes`: the class of the package
    scoring/lanes for this evaluator, if there is one that suits."""
    form, ids = tokens_of(content, tokenizer)
    if len(ids) > MAX_TOKENS:
        raise ValueError(f"the file has {len(ids):,} tokens; at most {MAX_TOKENS:,} are compressed at once, split it")
    width = lanes_for(len(ids)) if lanes else 1
    rows, encoder, bits = lanes(evaluator, width, BOS) if lanes else OneByOne(evaluator, len(ids)), arithmetic.Encoder(), 0.0
    coded, first = np.array(ids, np.int64)[order(len(ids), width)], b""
    for at in progress(range(0, len(ids), width)):
        tokens, p_LV = coded[at : at + width], rows.rows()
        counts_LV = arithmetic.shares(p_LV)
        first = first or _digest(counts_LV.tobytes())
        for token, counts_V in zip(tokens.tolist(), counts_LV, strict=False):
            encoder.put(token, counts_V)
        bits -= float(np.log2(p_LV[np.arange(len(tokens)), tokens]).sum())
        if len(tokens) == width:
            rows.push(tokens)
    head = CODED.pack(len(ids), width if lanes else 0, len(content), _digest(key), first, _digest(content))
    packed = {form: head + (encoder.finish() if ids else b"")} | {other: encode(content) for other, (encode, _) in GENERAL.items()}
    form = min(packed, key=lambda form: len(packed[form]))
    return HEADER.pack(MAGIC, form, _digest(packed[form])) + packed[form], bits


def checked(packed: bytes) -> tuple[int, bytes]:
    """(form, what follows the header). ValueError if this is no such file or damaged, which is known before anything is decoded."""
    if len(packed) < HEADER.size or packed[: len(MAGIC)] != MAGIC:
        raise ValueError("this is no file that this version of `compress` wrote, or it is cut off in its header")
    _, form, digest = HEADER.unpack_from(packed)
    follows = packed[HEADER.size :]
    if digest != _digest(follows):
        raise ValueError("the file is damaged: its bytes do not fit the checksum in its header; fetch it again")
    if form not in (TEXT, BYTES, *GENERAL):
        raise ValueError("the header is damaged: it declares what `compress` never writes")
    return form, follows


def decompress(form: int, follows: bytes, tokenizer: Tokenizer, opened, *, key: bytes, progress: Progress, lanes=None) -> bytes:
    """The file that was compressed, from what `checked` returned. `opened()` gives the evaluator and is called only if it is needed.
    ValueError with one sentence if the artifact is another."""
    if form in GENERAL:
        return GENERAL[form][1](follows)
    count, width, size, digest, first, checksum = CODED.unpack_from(follows)
    if digest != _digest(key):
        raise ValueError("this was compressed with another artifact, evaluator, options or number of threads; decompress it with those")
    if width and not lanes:
        raise ValueError("this was compressed in lanes, which this artifact cannot read; decompress it with the one that wrote it")
    rows = lanes(opened(), width, BOS) if width else OneByOne(opened(), count)
    width, decoder, coded = width or 1, arithmetic.Decoder(follows[CODED.size :]), np.zeros(count, np.int64)
    for at in progress(range(0, count, width)):
        tokens, counts_LV = coded[at : at + width], arithmetic.shares(rows.rows())  # a view
        if at == 0 and first != _digest(counts_LV.tobytes())[: len(first)]:
            raise ValueError(OTHER_MACHINE)
        for i, counts_V in enumerate(counts_LV[: len(tokens)]):
            tokens[i] = decoder.get(counts_V)
        if len(tokens) == width:
            rows.push(tokens)
    ids = coded[np.argsort(order(count, width))].tolist()
    content = content_of(form, ids, tokenizer)
    if len(content) != size or _digest(content) != checksum:
        raise ValueError(OTHER_MACHINE)
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:8]
