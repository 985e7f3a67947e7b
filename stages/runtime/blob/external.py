"""Run an external program on bytes, in a scratch folder, under limits: its input may be hostile, and the program may have bugs.

A damaged blob can make a program hang, fill the disk or take all memory; here each case becomes a CodecError with one sentence. The limits
grow with `size`, the expected number of output bytes, so a slow machine can decode a large model and a small blob cannot block it for long.
"""

import os
import resource
import signal
import subprocess
import tempfile
from pathlib import Path

from .codecs import CodecError

SLACK_BYTES = 1 << 16  # the program may write this much besides the data, for its messages
CPU_SECONDS, CPU_BYTES = 4, 50_000  # seconds, and bytes for each further second; lrzip and zpaq need a fifth of that time
WALL_SECONDS, WALL_BYTES = 5, 5_000  # the same for wall-clock time, on a machine with ten other busy processes
MAX_SECONDS = 7200  # upper limit of both
MEMORY_BYTES, MEMORY_SHARE = 1 << 30, 32  # address space: the models of ZPAQ, and a multiple of the data


def run(
    command: list[str], *, name: str, source: tuple[str, bytes], target: str, size: int, start_seconds: int = 0, is_trusted: bool = False
) -> bytes:
    """Run `command` in an empty folder with the file `source` (name, content) and return the file `target`, about `size` bytes at most.

    `name` is the program's name in messages. `start_seconds` are added to both time limits for a program that is slow to start. Trusted
    input, which is our own data, has only the wall-clock limit. The environment has only HOME, TMPDIR (both the folder) and PATH, so no
    configuration changes the result.
    """
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, source[0]), source[1])
        said = call(command, folder=folder, name=name, size=size, start_seconds=start_seconds, is_trusted=is_trusted)
        made = Path(folder, target)
        if not made.is_file() or made.is_symlink():
            raise CodecError(f"{name} made no file of this blob ({said or 'it says nothing'}); make it again")
        if made.stat().st_size > size + SLACK_BYTES:
            raise CodecError(f"{name} made {made.stat().st_size} bytes where {size} are declared; the file is damaged, make it again")
        return made.read_bytes()


def call(command: list[str], *, folder: str, name: str, size: int, start_seconds: int = 0, is_trusted: bool = False) -> str:
    """Run the program to its end and return the last line of its output. CodecError if it failed or reached a limit."""
    seconds = MAX_SECONDS if is_trusted else min(MAX_SECONDS, start_seconds + WALL_SECONDS + size // WALL_BYTES)
    with open(Path(folder, "said"), "w+b") as said:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env={"HOME": folder, "TMPDIR": folder, "PATH": "/usr/local/bin:/usr/bin:/bin"},
            preexec_fn=None if is_trusted else lambda: _limit(size, start_seconds),
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise CodecError(f"{name} did not finish within {seconds} s; the file is damaged, or far too large for it") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
        lines = said.read().decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        raise CodecError(f"{name} failed on this blob ({lines[-1].strip() if lines else f'exit code {process.returncode}'}); make it again")
    return lines[-1].strip() if lines else ""


def write(path: Path, content: bytes) -> None:
    """Write a file with a fixed date, because an archive may store the date."""
    path.write_bytes(content)
    os.utime(path, (0, 0))


def _limit(size: int, start_seconds: int) -> None:
    seconds = min(MAX_SECONDS, start_seconds + CPU_SECONDS + size // CPU_BYTES)
    memory = MEMORY_BYTES + MEMORY_SHARE * size
    for what, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, size + SLACK_BYTES),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (limit, limit) if hard == resource.RLIM_INFINITY else (min(limit, hard), hard))
