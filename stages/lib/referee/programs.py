"""What a session starts in the jail: a program, with all that it ships.

    Program(Path("submission.pyz"))      what `package` packs; the first program of the jail runs it
    given("perl bigram.pl")              anything else that speaks docs/protocol.md

A command names one file or folder, which ships. The jail shows a copy of it that is made anew for each session, so no session can leave a
note in it. Beside it there are the interpreter, if the command begins with one, the system's shared libraries, and what our own artifact
sees. The interpreter is the referee's Python or a program of /usr/bin; it does not count.
"""

import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.lib.node import files

PACKED, PLACE = "/artifact/submission.pyz", "/artifact/program"  # where the jail shows what ships
SYSTEM = "/usr/bin:/bin"
PYTHON = ("python", "python3")
MOST_BYTES = 1 << 30  # it is copied for every session


@dataclass(frozen=True)
class Program:
    """`ships`: a file or folder. `words`: the command, in which PLACE stands for what ships; none: a submission.pyz, which needs no
    command. `interpreter`: a program of the system, or None."""

    ships: Path
    words: tuple[str, ...] = ()
    interpreter: Path | None = None

    @property
    def is_packed(self) -> bool:
        return not self.words

    def entries(self) -> Iterator[tuple[str, Path]]:
        """Name and path of every file that ships, sorted. ValueError for what is no file."""
        if self.ships.is_file():
            yield self.ships.name, self.ships
            return
        if not self.ships.is_dir():
            raise ValueError(f"{self.ships} is neither a file nor a folder, such as a pipe or a device; give the file itself")
        for path in sorted(self.ships.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ValueError(f"{path} is a link or no file, so what it ships cannot be counted; put the file itself there")
            if path.is_file():
                yield path.relative_to(self.ships).as_posix(), path

    def num_bytes(self) -> int:
        """The bytes of all files that ship, and of their names."""
        return sum(path.stat().st_size + len(name.encode()) for name, path in self.entries())

    def sha256(self) -> str:
        """Of the file, or of the names, sizes and contents of the folder."""
        if self.ships.is_file():
            return files.sha256(self.ships)
        digest = hashlib.sha256()
        for name, path in self.entries():
            digest.update(f"{name}\0{path.stat().st_size}\0{files.sha256(path)}\n".encode())
        return digest.hexdigest()

    def copied(self, place: Path) -> Path:
        """`place` as a copy: names and contents, and nothing of times, modes or attributes."""
        whole = self.ships.is_file()
        for name, path in self.entries():
            target = place if whole else place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755)
        return place


def of(program: "Path | Program") -> Program:
    """A path is that of a submission.pyz."""
    return program if isinstance(program, Program) else Program(Path(program))


def given(command: str, *, ships: Path | None = None, python: str) -> Program:
    """The program of a command, such as `python folder`, `perl script.pl` or `./program --fast`. `ships`: the folder that ships, if the
    command names only a part of it. `python`: the interpreter of Python. ValueError if it cannot be started in a jail or counted."""
    words = shlex.split(command)
    if not words:
        raise ValueError("the command is empty; give one such as 'python folder' or 'perl script.pl'")
    head, interpreter = [], None
    if words[0] in PYTHON:
        head = [python, "-B"]
    elif "/" not in words[0]:
        found = shutil.which(words[0], path=SYSTEM)
        if found is None:
            raise ValueError(
                f"{words[0]} is no program of {SYSTEM.replace(':', ' or ')}; give a path, such as ./{words[0]}, if it is to ship"
            )
        head, interpreter = [found], Path(found)
    rest = words[1:] if head else words
    paths = [word for word in rest if not word.startswith("-") and os.path.exists(word)]
    if ships is None:
        if len(paths) != 1:
            raise ValueError(
                f"the command names {len(paths)} files or folders, {', '.join(paths) or 'none'}; it takes one, or --ships FOLDER"
            )
        ships = Path(paths[0])
    ships = ships.resolve()
    if not ships.exists():
        raise ValueError(f"{ships} is missing; check the spelling")
    if not head and not Path(words[0]).resolve().is_relative_to(ships):
        raise ValueError(f"{words[0]} is started and not in {ships}, which ships; put it there")
    if not head and Path(words[0]).is_file() and _begins(Path(words[0]), b"#!"):
        raise ValueError(f"{words[0]} is a script; put its interpreter first, as in 'perl {words[0]}'")
    program = Program(ships, tuple(head + [_inside(word, ships) if word in paths else word for word in rest]), interpreter)
    if program.num_bytes() > MOST_BYTES:
        raise ValueError(f"{ships} has more than {MOST_BYTES:,} bytes; give what ships alone")
    return program


def _begins(path: Path, text: bytes) -> bool:
    with open(path, "rb") as handle:
        return handle.read(len(text)) == text


def _inside(word: str, ships: Path) -> str:
    path = Path(word).resolve()
    if not path.is_relative_to(ships):
        raise ValueError(f"{word} does not lie in {ships}, which is all that ships; the jail shows nothing else")
    return str(Path(PLACE) / path.relative_to(ships))
