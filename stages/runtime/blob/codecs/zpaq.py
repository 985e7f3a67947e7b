"""zpaq: context mixing with models chosen for the data; lrzip's back end, but with newer models. Method 5 is the strongest.

It runs the `zpaq` program in a scratch folder with one thread and a fixed date, because the archive stores a date. The archive is listed
before it is unpacked. One that holds anything but the single file `data` could write elsewhere, so it is refused.
"""

import re
import shutil
import tempfile
from pathlib import Path

from .. import external
from . import CodecError, MissingProgram, exactly

PROGRAM = "zpaq"
DATE = "20000101000000"
ENTRY = re.compile(r"^[-+#=?^] ")


def encode(data: bytes, *, method: int = 5) -> bytes:
    """`method` 0..5, from the fastest to the strongest."""
    if not 0 <= method <= 5:
        raise ValueError(f"zpaq takes method 0..5, not {method}")
    command = [_path(), "add", "data.zpaq", "data", f"-m{method}", "-threads", "1", "-until", DATE, "-noattributes"]
    return external.run(command, name="zpaq", source=("data", data), target="data.zpaq", size=2 * len(data), is_trusted=True)


def decode(blob: bytes, *, size: int) -> bytes:
    path = _path()
    with tempfile.TemporaryDirectory() as folder:
        external.write(Path(folder, "data.zpaq"), blob)
        external.call([path, "list", "data.zpaq", "-threads", "1"], folder=folder, name="zpaq", size=len(blob))
        entries = [line.split() for line in Path(folder, "said").read_text(errors="replace").splitlines() if ENTRY.match(line)]
    if len(entries) != 1 or len(entries[0]) != 5 or entries[0][3:] != [str(size), "data"]:
        raise CodecError(f"zpaq blob does not hold exactly one file of {size} bytes named data; the file is damaged, make it again")
    command = [path, "extract", "data.zpaq", "data", "-to", "out", "-threads", "1"]
    return exactly(external.run(command, name="zpaq", source=("data.zpaq", blob), target="out", size=size), size, "zpaq")


def _path() -> str:
    path = shutil.which(PROGRAM)
    if path is None:
        raise MissingProgram(PROGRAM)
    return path
