"""A table of compressors on files of your own: those of compressors.py, the packaged artifact, and published results of other programs.

Every file is compressed alone. The artifact brings what it has learned from its training text, and the bytes of the artifact are not
counted; nor are those of ts_zip's language model. Published results are shown for a file that has the name and the size of alice29.txt or
enwik8. They were measured elsewhere, so they have no seconds here.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from stages.text_compressors import compressors
from stages.text_compressors.compressors import Run

ARTIFACT = Path("artifacts/package/submission.pyz")
TS_ZIP, LTCB = "bellard.org/ts_zip", "mattmahoney.net/dc/text.html"
NACRITH = "arXiv 2602.19626"


class Published(NamedTuple):
    """A result that others have published: the program, compressed bytes (None where only bits per byte are given), and the source."""

    program: str
    bytes: int | None
    bits_per_byte: float
    source: str


def _published(program: str, size: int, of: int, source: str) -> Published:
    return Published(program, size, 8 * size / of, source)


ALICE29, ENWIK8 = ("alice29.txt", 152_089), ("enwik8", 100_000_000)
PUBLISHED = {  # by name and size of the file
    ALICE29: (
        _published("xz", 48_492, 152_089, TS_ZIP),
        Published("cmix v21", None, 1.63, NACRITH),
        _published("ts_zip (RWKV 169M)", 21_713, 152_089, TS_ZIP),
    ),
    ENWIK8: (
        _published("zstd 0.6.0 -22 --ultra", 25_405_601, 100_000_000, LTCB),
        _published("xz", 24_865_244, 100_000_000, TS_ZIP),
        _published("nncp v3.2", 14_915_298, 100_000_000, LTCB),
        _published("cmix v21 -t", 14_623_723, 100_000_000, LTCB),
        _published("ts_zip (RWKV 169M)", 13_825_741, 100_000_000, TS_ZIP),
    ),
}


def main(paths: list[str], artifact: Path = ARTIFACT) -> None:
    """Print one table for each file. ValueError for a file that is missing or empty, and if a compressor fails."""
    files = [Path(path) for path in paths]
    for path in files:
        if not path.is_file() or not path.stat().st_size:
            raise ValueError(f"{path} is {'empty' if path.is_file() else 'not a file'}; name files with text in them")
    for path in files:
        print(table(path, artifact), flush=True)


def table(path: Path, artifact: Path) -> str:
    """The table of one file as Markdown, the smallest result last."""
    data = path.read_bytes()
    absent = compressors.absent(compressors.COMPRESSORS)
    runs = {name: compressors.run(name, data) for name in compressors.COMPRESSORS if name not in absent}
    notes = [f"{name} was left out: {reason}." for name, reason in absent.items()]
    if artifact.is_file():
        runs["submission.pyz compress"] = _by_artifact(artifact, path)
    else:
        notes.append(f"The artifact was left out: {artifact} is missing; make it with: dvc repro package")
    rows = [
        (took.bytes, 8 * took.bytes / len(data), [name, f"{took.bytes:,}", *_measured(took, len(data)), "here"])
        for name, took in runs.items()
    ]
    rows += [
        (entry.bytes, entry.bits_per_byte, [entry.program, "-" if entry.bytes is None else f"{entry.bytes:,}", "-", "-", "-", entry.source])
        for entry in PUBLISHED.get((path.name, len(data)), ())
    ]
    lines = [
        f"{path}: {len(data):,} bytes",
        "",
        "| compressor | bytes | bits per byte | seconds | kB/s | peak MB | measured |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for _, bits_per_byte, (name, size, *rest) in sorted(rows, key=lambda row: -row[1]):
        lines.append(f"| {' | '.join([name, size, f'{bits_per_byte:.3f}', *rest])} |")
    return "\n".join([*lines, "", *notes, *[""] * bool(notes)])


def _measured(took: Run, size: int) -> tuple[str, str, str]:
    """Seconds, kilobytes of the file per second, and the peak of memory in MB."""
    return f"{took.seconds:.1f}", f"{size / max(took.seconds, 1e-3) / 1000:,.1f}", f"{took.peak_bytes / 1e6:,.0f}"


def _by_artifact(artifact: Path, path: Path) -> Run:
    """`submission.pyz compress` of the file, by the clock from its start to its end. Its progress goes to the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "packed")
        command = [sys.executable, "-I", str(artifact), "compress", str(path), "--output", str(packed)]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise ValueError(f"{artifact} could not compress {path}; its own message is above")
        return Run(packed.stat().st_size, seconds, usage.ru_utime + usage.ru_stime, compressors.in_bytes(usage.ru_maxrss))
