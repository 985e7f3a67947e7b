"""One compressor per file. The contract, checked over every file of this folder:

    encode(data: bytes, **options) -> bytes          deterministic; options are keyword-only and documented in the file
    decode(blob: bytes, *, size: int) -> bytes       inverse; `size` is the exact length of the data
    PROGRAM: str | None                              the program on PATH that the codec calls, if any
    PACKAGE: str                                     the Python package that it calls, if it may be absent

`decode` never produces more than `size` bytes. It raises a CodecError with one sentence if the blob is corrupt or its content is not `size`
bytes long. A codec whose program or package is absent raises MissingProgram on use, with the line that installs it.
"""

import importlib.util
import shutil
from types import ModuleType


class CodecError(ValueError):
    """The blob cannot be decoded to the content that it declares."""


class MissingProgram(ValueError):
    """The program or package that the codec calls is not installed."""

    def __init__(self, name: str, *, is_package: bool = False):
        line = f"pip install {name}" if is_package else f"apt-get install {name} (Debian, Ubuntu), brew install {name} (macOS)"
        super().__init__(
            f"the {'package' if is_package else 'program'} {name!r} is not installed; install it with: {line}, or choose another codec"
        )
        self.program = name


def is_available(codec: ModuleType) -> bool:
    """Whether the program or package that the codec (or coder) calls is installed here."""
    program, package = getattr(codec, "PROGRAM", None), getattr(codec, "PACKAGE", None)
    return (program is None or shutil.which(program) is not None) and (package is None or importlib.util.find_spec(package) is not None)


def exactly(data: bytes, size: int, codec: str) -> bytes:
    """`data` if it is `size` bytes long; CodecError otherwise."""
    if len(data) != size:
        raise CodecError(f"{codec} blob holds {len(data)} bytes, its header declares {size}; the file is damaged, make it again")
    return data
