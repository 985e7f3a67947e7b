"""General-purpose compressors on the text that is scored. A language model must beat them to be worth its bytes.

    bits_per_byte              = 8 * |C(val)| / |val|
    bits_per_byte_after_train  = 8 * (|C(train + val)| - |C(train)|) / |val|

The second row gives the compressor what a trained model has seen: text of the same kind. The rule is the same for every compressor: it
compresses train followed by val as one text, and what it needs for train alone is subtracted. Each compressor runs at the best setting of
its library or program, without checksums. The text is one stream, so there is no overhead per document.

`python -m stages.text_compressors.compressors NAME` is one run: it compresses the standard input and prints a JSON line with the compressed
bytes, the seconds, and the peak memory in bytes. Each run has a process of its own, because memory is counted by the process.
"""

import difflib
import json
import lzma
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

XZ_DICTIONARY_BYTES = (64 << 20, 1536 << 20)  # the size of preset 9, and the largest that liblzma accepts
ZSTD_WINDOW_LOG = (10, 31)  # the range that zstd accepts on 64-bit machines
BROTLI_WINDOW_LOG = 24  # 16 MB; larger windows exist in the library but not in its Python binding
PPMD_ORDER, PPMD_BYTES = 16, 1 << 30
ROOT = Path(__file__).resolve().parents[2]


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


def ppmd_16(data: bytes) -> bytes:
    """PPMd variant H, the one of 7-zip: prediction by partial matching with contexts of up to 16 bytes (Shkarin, 2002). The model may take
    1 GiB, which 9 MB of text fill to a quarter; a model that is full starts anew."""
    import pyppmd

    encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_BYTES)
    return encoder.encode(data) + encoder.flush()


def zpaq_5(data: bytes) -> bytes:
    """zpaq -m5: context mixing of about twenty models (Mahoney). It runs in one thread, which puts up to 64 MB into one block."""
    from stages.runtime.blob.codecs import zpaq

    return zpaq.encode(data, method=5)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    function.__name__: function for function in (xz_9e, brotli_11, zstd_22, ppmd_16, zpaq_5)
}
PROGRAMS = {"zpaq_5": "zpaq"}  # what is no Python library and may be absent
SLOWEST_FIRST = ("zpaq_5", "brotli_11", "xz_9e")  # so that no long job is left alone at the end


class Job(NamedTuple):
    """One run of a compressor over `val`, `train` or `train_val` (train followed by val)."""

    compressor: str
    text: str


class Run(NamedTuple):
    """What one run took: compressed bytes, seconds by the clock, seconds of a core (which a busy machine changes less), and the peak of
    resident memory in bytes. The peak is that of the process that compresses; for a library, this is an interpreter with the text in it."""

    bytes: int
    seconds: float
    core_seconds: float
    peak_bytes: int


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


def absent(names: Iterable[str]) -> dict[str, str]:
    """Those of `names` whose program is not installed here, with a sentence on how to install it."""
    needed = {name: PROGRAMS[name] for name in names if name in PROGRAMS}
    return {
        name: f"the program {program} is not installed; install it with apt-get install {program} or brew install {program}"
        for name, program in needed.items()
        if shutil.which(program) is None
    }


def measure(names: Iterable[str], after_train: Iterable[str], val: bytes, train: bytes, *, workers: int) -> Iterator[tuple[Job, Run]]:
    """Each job with what it took, as they finish. `val` is run for all names, the other texts for `after_train`.

    ValueError if a compressor fails.
    """
    texts = {"train_val": train + val, "train": train, "val": val}
    names = sorted(names, key=lambda name: SLOWEST_FIRST.index(name) if name in SLOWEST_FIRST else len(SLOWEST_FIRST))
    after_train = set(after_train)
    jobs = [Job(name, text) for name in names for text in texts if text == "val" or name in after_train]
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(run, job.compressor, texts[job.text]): job for job in jobs}
        for done in as_completed(running):
            yield running[done], done.result()


def run(name: str, data: bytes) -> Run:
    """Compress `data` in a process of its own. ValueError if that fails."""
    command = [sys.executable, "-m", "stages.text_compressors.compressors", name]
    done = subprocess.run(command, input=data, capture_output=True, check=False, cwd=ROOT)
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"{name} failed on {len(data):,} bytes of text ({reason}); leave it out of text_compressors.compressors")
    return Run(**json.loads(done.stdout))


def run_here(name: str, data: bytes) -> Run:
    """Compress `data` in this process. Its memory counts from the start of the process."""
    start, core_start = time.perf_counter(), _core_seconds()
    size = len(COMPRESSORS[name](data))
    seconds, core_seconds = time.perf_counter() - start, _core_seconds() - core_start
    return Run(size, round(seconds, 3), round(core_seconds, 3), max(_peak_bytes(), _peak_of_programs()))


def _core_seconds() -> float:
    """Seconds of a core that this process and the programs that it called have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _peak_bytes() -> int:
    """The peak of this process. On Linux it is taken from /proc, because ru_maxrss would start with what the parent process had."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    return in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _peak_of_programs() -> int:
    """The largest peak of the programs that this process has called."""
    return in_bytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def in_bytes(ru_maxrss: int) -> int:
    """ru_maxrss in bytes; Linux gives it in KiB."""
    return ru_maxrss if sys.platform == "darwin" else 1024 * ru_maxrss


def summarize(measured: Iterable[tuple[Job, Run]], val_bytes: int) -> dict[str, dict]:
    """By compressor: bytes and bits per byte of val, alone and after train (None if not measured), the seconds of all runs together, and
    the largest peak of memory of a run in bytes."""
    runs: dict[str, dict[str, Run]] = {}
    for job, took in measured:
        runs.setdefault(job.compressor, {})[job.text] = took
    table = {}
    for name, by_text in runs.items():
        alone = by_text["val"].bytes
        after = by_text["train_val"].bytes - by_text["train"].bytes if "train" in by_text else None
        table[name] = {
            "bytes": alone,
            "bits_per_byte": 8 * alone / val_bytes,
            "bytes_after_train": after,
            "bits_per_byte_after_train": None if after is None else 8 * after / val_bytes,
            "seconds": round(sum(took.seconds for took in by_text.values()), 3),
            "peak_bytes": max(took.peak_bytes for took in by_text.values()),
        }
    return table


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("text_compressors"):
        print(json.dumps(run_here(sys.argv[1], sys.stdin.buffer.read())._asdict()))
