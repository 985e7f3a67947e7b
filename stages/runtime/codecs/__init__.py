"""One compressor per file. The contract, checked over every file of this folder:

    encode(data: bytes, **options) -> bytes          deterministic; options are keyword-only and documented in the file
    decode(blob: bytes, *, size: int) -> bytes       inverse; `size` is the exact length of the data
    PROGRAM: str | None                              the program on PATH that the codec calls, if any

`decode` never produces more than `size` bytes. A blob that is corrupt, or whose content is not `size` bytes long, is a
CodecError with one sentence. A codec whose program is absent raises MissingProgram on use, with the line that installs it.
"""


class CodecError(ValueError):
    """The blob cannot be decoded to what it declares."""


class MissingProgram(ValueError):
    """The codec's external program is not on PATH."""

    def __init__(self, program: str):
        super().__init__(f"the program {program!r} is not installed; install it with: apt-get install {program} "
                         f"(Debian, Ubuntu), brew install {program} (macOS), or choose another codec")
        self.program = program


def exactly(data: bytes, size: int, codec: str) -> bytes:
    """`data` if it is `size` bytes long; CodecError otherwise."""
    if len(data) != size:
        raise CodecError(f"{codec} blob holds {len(data)} bytes, its header declares {size}; the file is damaged, make it again")
    return data
