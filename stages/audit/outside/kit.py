"""Put a program together from its own files and the kit of stages/runtime/kit.py, in a folder that `python` can start.

    python -m stages.audit.outside.kit MAIN FILE... --out FOLDER

MAIN becomes FOLDER/__main__.py, the other files keep their names. FOLDER/caddie has the kit and what it imports. It is all that ships.
"""

import argparse
import shutil
import sys
from pathlib import Path

from stages.lib.node import closure, command, files
from stages.lib.node.params import require
from stages.lib.referee.programs import Program

PACKAGE, ROOM = "caddie", "stages/runtime"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stages.audit.outside.kit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("main", type=Path, help="the program, which calls kit.serve")
    parser.add_argument("files", type=Path, nargs="*", help="what it imports and reads: modules, weights")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder, or one that this command made")
    chosen = parser.parse_args(argv)
    with command.sentences("audit.outside.kit"):
        put_together(chosen.main, chosen.files, chosen.out)
        print(f"{chosen.out}: {Program(chosen.out).num_bytes():,} bytes; it is started with: python {chosen.out}")
    return 0


def put_together(program: Path, others: list[Path], out: Path) -> None:
    """Write the folder. ValueError if a file is missing, or if the folder is somebody else's."""
    require(not out.exists() or (out / PACKAGE / "kit.py").is_file(), f"--out {out} exists and has no kit; name another folder")
    names = [path.name for path in others]
    require(len(set(names)) == len(names) and not {"__main__.py", PACKAGE} & set(names), "two of the files would have the same name")
    for path in (program, *others):
        require(path.is_file(), f"{path} is no file; check the spelling")
    files.check_writable(out, "--out")
    with files.atomic(out) as partial:
        partial.mkdir(parents=True)
        for path in closure.files(f"{ROOM.replace('/', '.')}.kit"):
            target = partial / path.replace(ROOM, PACKAGE, 1)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(closure.ROOT / path, target)
        shutil.copyfile(program, partial / "__main__.py")
        for path in others:
            shutil.copyfile(path, partial / path.name)


if __name__ == "__main__":
    sys.exit(main())
