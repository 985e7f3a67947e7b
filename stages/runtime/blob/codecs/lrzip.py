"""lrzip with its ZPAQ back end: context mixing, the strongest general-purpose codec that the contest's entries used (#1855).

It runs the `lrzip` program in a scratch folder with one thread, so that the bytes do not depend on the machine.
"""

import os
import shutil

from .. import external
from . import CodecError, MissingProgram, exactly

PROGRAM = "lrzip"


def encode(data: bytes, *, level: int = 9) -> bytes:
    """`level` 1..9 of the ZPAQ back end (-z)."""
    if not 1 <= level <= 9:
        raise ValueError(f"lrzip takes level 1..9, not {level}")
    return external.run(
        [*_command(), "-z", "-L", str(level), "data"],
        name="lrzip",
        source=("data", data),
        target="data.lrz",
        size=2 * len(data),
        is_trusted=True,
    )


def decode(blob: bytes, *, size: int) -> bytes:
    # Bytes 6..13 of an LRZI header hold the expected size (little endian); a wrong size is refused before the program allocates for it.
    if blob[:4] != b"LRZI" or len(blob) < 24:
        raise CodecError("lrzip blob does not start with an lrzip header; the file is damaged, make it again")
    if int.from_bytes(blob[6:14], "little") != size:
        raise CodecError(
            f"lrzip blob declares {int.from_bytes(blob[6:14], 'little')} bytes, its container {size}; the file is damaged, make it again"
        )
    return exactly(
        external.run([*_command(), "-d", "data.lrz"], name="lrzip", source=("data.lrz", blob), target="data", size=size), size, "lrzip"
    )


def _command() -> list[str]:
    path = shutil.which(PROGRAM)
    if path is None:
        raise MissingProgram(PROGRAM)
    # With its own priority of 19, other programs left it a hundredth of a core, and an honest file passed its limit of time.
    return [path, "-q", "-p", "1", "-N", str(os.nice(0))]
