"""Turn a `.pt` checkpoint into a safetensors file. The pickle in it is read by one program alone, in the referee's jail (unpickle.py)."""

import tempfile
import threading
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stages.lib.node import files
from stages.lib.node.params import require
from stages.lib.referee import jail

PROGRAM = Path(__file__).with_name("unpickle.py")
PLACE = "/checkpoint.pt"  # in the jail
SECONDS = 600
LARGEST = 4  # times the file: what the program may answer, besides ROOM
ROOM = 1 << 24
PIECE = 1 << 20


def to_safetensors(source: Path, target: Path) -> None:
    """Write `target` from a .pt file. ValueError if it holds more than tensors or is damaged; then nothing is written."""
    require(source.is_file(), f"{source} is no file; check the spelling")
    with files.atomic(target) as partial:
        said = _read(source, partial)
        try:
            state = load_file(partial)  # whatever a jailed program writes: a file of this format can be wrong, and nothing worse
        except SafetensorError:
            raise ValueError(
                f"{source} was not read: {said or 'the program that reads it ended'}; save the weights alone, with "
                "torch.save(model.state_dict(), path)"
            ) from None
        save_file({name: tensor.contiguous() for name, tensor in sorted(state.items())}, partial)


def _read(source: Path, target: Path) -> str:
    """Write what the program answers to `target`; returns the last line that it said."""
    most = LARGEST * source.stat().st_size + ROOM
    with tempfile.TemporaryFile() as stderr, open(target, "wb") as out:
        extra = {PLACE: source.resolve()}
        with jail.Jail(PROGRAM, [PLACE], stderr=stderr.fileno(), extra=extra, environment={}, gpu=False, alone=True) as process:
            watchdog = threading.Timer(SECONDS, process.kill)
            watchdog.daemon = True
            watchdog.start()
            while (piece := process.stdout.read(PIECE)) and most > 0:
                out.write(piece)
                most -= len(piece)
            watchdog.cancel()
        stderr.seek(0)
        lines = stderr.read().decode(errors="replace").strip().splitlines()
    return "".join(letter for letter in lines[-1] if letter.isprintable()) if lines else ""
