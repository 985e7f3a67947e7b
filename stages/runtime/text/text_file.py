"""Compress any file with an evaluator as the model of its text; decompression returns the exact bytes.

    magic 8 | u8 form | u32 tokens | u64 bytes | 8 bytes of the key's sha256 | 8 bytes of the content's sha256 | range-coded tokens

form 0: the tokens of the file as text; form 1: one byte piece per byte, if the file is not UTF-8 or the tokenizer does not restore it.
All numbers are little endian. The key stands for artifact, evaluator and options. The decoder needs the same arithmetic as the encoder:
the same kind of processor, torch version and number of threads. Otherwise the checksum fails.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Iterable

from ..scoring.streaming import Stream
from . import arithmetic
from .tokenizer import BOS, Tokenizer

MAGIC = b"CADDIEZ\x01"
HEADER = struct.Struct("<8sBIQ8s8s")
TEXT, BYTES = 0, 1
MAX_TOKENS = 1 << 27
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


def compress(content: bytes, tokenizer: Tokenizer, evaluator, *, key: bytes, progress: Progress) -> tuple[bytes, float]:
    """The compressed file, and the code length Σ -log2 p in bits that the evaluator gives the tokens."""
    form, ids = tokens_of(content, tokenizer)
    if len(ids) > MAX_TOKENS:
        raise ValueError(f"the file has {len(ids):,} tokens; at most {MAX_TOKENS:,} are compressed at once, split it")
    stream, encoder, bits = Stream(evaluator, len(ids), BOS), arithmetic.Encoder(), 0.0
    for i in progress(range(len(ids))):
        logp_V = stream.dist()
        encoder.put(ids[i], arithmetic.frequencies(logp_V))
        bits -= float(logp_V[ids[i]]) / math.log(2)
        stream.push(ids[i : i + 1])
    header = HEADER.pack(MAGIC, form, len(ids), len(content), _digest(key), _digest(content))
    return header + (encoder.finish() if ids else b""), bits


def decompress(packed: bytes, tokenizer: Tokenizer, evaluator, *, key: bytes, progress: Progress) -> bytes:
    """The file that was compressed. ValueError with one sentence if the format or the artifact is another, or the data are damaged."""
    if len(packed) < HEADER.size or packed[: len(MAGIC)] != MAGIC:
        raise ValueError("this is no file that `compress` wrote, or it is cut off in its header")
    _, form, count, size, digest, checksum = HEADER.unpack_from(packed)
    if digest != _digest(key):
        raise ValueError("this was compressed with another artifact, evaluator, options or number of threads; decompress it with those")
    if form not in (TEXT, BYTES) or count > MAX_TOKENS or size > 1 << 40:
        raise ValueError("the header is damaged: it declares what `compress` never writes")
    stream, decoder, ids = Stream(evaluator, count, BOS), arithmetic.Decoder(packed[HEADER.size :]), []
    for _ in progress(range(count)):
        ids.append(decoder.get(arithmetic.frequencies(stream.dist())))
        stream.push(ids[-1:])
    content = content_of(form, ids, tokenizer)
    if len(content) != size or _digest(content) != checksum:
        raise ValueError(
            "the content does not fit its checksum: the file is damaged, or this machine computes in another way than the "
            "one that compressed it"
        )
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:8]
