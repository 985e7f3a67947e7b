"""lrzip with its ZPAQ back end: context mixing, the strongest general-purpose codec the field used (#1855).

Runs the `lrzip` program in a temporary folder, one thread, so that the bytes do not depend on the machine.
"""

import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import CodecError, MissingProgram, exactly

PROGRAM = "lrzip"
TIMEOUT_SECONDS = 600
SLACK = 1 << 16  # bytes that the program may write besides the data


def encode(data: bytes, *, level: int = 9) -> bytes:
    """`level` 1..9 of the ZPAQ back end (-z)."""
    if not 1 <= level <= 9:
        raise ValueError(f"lrzip takes level 1..9, not {level}")
    return _run(["-z", "-L", str(level)], data, "data", "data.lrz")


def decode(blob: bytes, *, size: int) -> bytes:
    # Bytes 6..13 of an LRZI header hold the expected size (little endian); refuse before the program allocates for it.
    if blob[:4] != b"LRZI" or len(blob) < 24:
        raise CodecError("lrzip blob does not start with an lrzip header; the file is damaged, make it again")
    if int.from_bytes(blob[6:14], "little") != size:
        raise CodecError(f"lrzip blob declares {int.from_bytes(blob[6:14], 'little')} bytes, its container {size}; "
                         "the file is damaged, make it again")
    return exactly(_run(["-d"], blob, "data.lrz", "data", most=size), size, "lrzip")


def _run(arguments: list[str], data: bytes, source: str, target: str, *, most: int | None = None) -> bytes:
    """The file that lrzip makes; the header does not bind the program, so `most` limits what it may write."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise MissingProgram(PROGRAM)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, source).write_bytes(data)
        # HOME: a user's lrzip.conf would change the result
        limits = None if most is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most + SLACK, most + SLACK))
        try:
            done = subprocess.run([program, "-q", "-p", "1", *arguments, source], cwd=folder, capture_output=True, preexec_fn=limits,
                                  stdin=subprocess.DEVNULL, timeout=TIMEOUT_SECONDS, env={"HOME": folder, "PATH": "/usr/bin:/bin"})
        except subprocess.TimeoutExpired:
            raise CodecError(f"lrzip did not finish within {TIMEOUT_SECONDS} s; the file is damaged or far too large") from None
        if done.returncode != 0 or not Path(folder, target).is_file():
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise CodecError(f"lrzip failed on this blob ({said[-1] if said else f'exit code {done.returncode}'}); make it again")
        return Path(folder, target).read_bytes()
