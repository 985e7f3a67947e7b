"""General-purpose compressors on the text that is scored. A language model must beat them to be worth its bytes.

    bits_per_byte              = 8 * |C(val)| / |val|
    bits_per_byte_after_train  = 8 * (|C(train + val)| - |C(train)|) / |val|

The second row gives the compressor what a trained model has seen: text of the same kind. Each compressor runs at the best setting of its
library, without checksums. The text is one stream, so there is no overhead per document.
"""

import difflib
import lzma
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

XZ_DICTIONARY_BYTES = (64 << 20, 1536 << 20)  # the size of preset 9, and the largest that liblzma accepts
ZSTD_WINDOW_LOG = (10, 31)  # the range that zstd accepts on 64-bit machines
BROTLI_WINDOW_LOG = 24  # 16 MB; larger windows exist in the library but not in its Python binding


def xz_9e(data: bytes) -> bytes:
    """LZMA2 at preset 9 extreme. The dictionary covers all of `data` up to 1.5 GiB."""
    smallest, largest = XZ_DICTIONARY_BYTES
    dictionary = min(max(len(data), smallest), largest)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    return lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=filters)


def brotli_11(data: bytes) -> bytes:
    """Brotli at quality 11 in text mode. Its window is the last 16 MB, so more train text does not help it."""
    import brotli

    return brotli.compress(data, mode=brotli.MODE_TEXT, quality=11, lgwin=BROTLI_WINDOW_LOG)


def zstd_22(data: bytes) -> bytes:
    """Zstandard at level 22 with long-distance matching. The window covers all of `data` up to 2 GiB."""
    import zstandard

    smallest, largest = ZSTD_WINDOW_LOG
    parameters = zstandard.ZstdCompressionParameters.from_level(
        22, source_size=len(data), window_log=min(max(len(data).bit_length(), smallest), largest), enable_ldm=True, write_checksum=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"xz_9e": xz_9e, "brotli_11": brotli_11, "zstd_22": zstd_22}


class Job(NamedTuple):
    """One run of a compressor over `val`, `train` or `train_val` (train followed by val)."""

    compressor: str
    text: str


def check(names: Iterable[str]) -> None:
    """ValueError if a name is unknown (the nearest is offered) or given twice, or if there is no name."""
    names = list(names)
    for name in names:
        if name not in COMPRESSORS:
            close = difflib.get_close_matches(name, COMPRESSORS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(COMPRESSORS)}"
            raise ValueError(f"text_compressors.compressors: {name!r} is not known; {hint}")
    if not names or len(set(names)) < len(names):
        known = ", ".join(COMPRESSORS)
        raise ValueError(f"text_compressors.compressors is {names}; it takes one or more of {known}, each once")


def measure(
    names: Iterable[str], after_train: Iterable[str], val: bytes, train: bytes, *, workers: int
) -> Iterator[tuple[Job, int, float]]:
    """Each job with its compressed bytes and its seconds, as they finish. `val` is run for all names, the other texts for `after_train`.

    The jobs run in parallel threads, because the libraries release the interpreter's lock.
    """
    texts = {"train_val": train + val, "train": train, "val": val}
    # Longest first (brotli takes three times as long as the others), so that no long job is left alone at the end.
    names = sorted(names, key=lambda name: name != "brotli_11")
    after_train = set(after_train)
    jobs = [Job(name, text) for text in texts for name in names if text == "val" or name in after_train]
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(_timed, COMPRESSORS[job.compressor], texts[job.text]): job for job in jobs}
        for done in as_completed(running):
            yield running[done], *done.result()


def _timed(compress: Callable[[bytes], bytes], data: bytes) -> tuple[int, float]:
    start = time.perf_counter()
    return len(compress(data)), time.perf_counter() - start


def summarize(measured: Iterable[tuple[Job, int, float]], val_bytes: int) -> dict[str, dict]:
    """By compressor: bytes and bits per byte of val, alone and after train (None if not measured), and seconds."""
    sizes, seconds = {}, {}
    for job, size, took in measured:
        sizes[job] = size
        seconds[job.compressor] = seconds.get(job.compressor, 0.0) + took
    table = {}
    for name in seconds:
        alone = sizes[Job(name, "val")]
        after = None
        if Job(name, "train") in sizes:
            after = sizes[Job(name, "train_val")] - sizes[Job(name, "train")]
        table[name] = {
            "bytes": alone,
            "bits_per_byte": 8 * alone / val_bytes,
            "bytes_after_train": after,
            "bits_per_byte_after_train": None if after is None else 8 * after / val_bytes,
            "seconds": round(seconds[name], 3),
        }
    return table
