"""The work of a stage in parts that any scheduler can run, in any order and on any machine that sees the same folder.

    python -m stages.tokenize train --part 3 --of 8      one of eight parts, numbered from 1
    dvc repro tokenize@train                             the stage itself puts finished parts together instead of doing the work

A part is a folder scratch/<stage>/<key>.parts/<part>-of-<of>/, which appears when it is complete. The key is a hash of everything that the
work depends on, so parts of another text, of other parameters or of other code are never read. The output has the same bytes for any number
of parts. Each part has a record of the data files that it opened, which becomes a part of the stage's own record.
"""

import argparse
import contextlib
import inspect
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages.lib.node import access_log, command, files, params, stage
from stages.lib.node.stage import Variant


class Share(NamedTuple):
    """Part `part` of `of`, from 1."""

    part: int
    of: int

    @property
    def name(self) -> str:
        return f"{self.part}-of-{self.of}"

    def span(self, length: int) -> tuple[int, int]:
        """Its part of range(length). The parts cover the range in order, and their lengths differ by at most 1."""
        return length * (self.part - 1) // self.of, length * self.part // self.of


def is_asked_for(argv: list[str]) -> bool:
    return any(word == "--part" or word.startswith("--part=") for word in argv)


def run(main: Callable, part: Callable, argv: list[str]) -> None:
    """Run the command line of one part: `part(share, **arguments)` with the arguments that the stage's `main` would get."""
    module = inspect.getmodule(main)
    name = module.__spec__.parent.removeprefix("stages.")
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    variant = next((one.name for one in inspect.signature(main).parameters.values() if one.annotation is Variant), None)
    if variant:
        parser.add_argument(variant, help=f"which {variant}; see dvc.yaml")
    parser.add_argument("--part", type=int, required=True, metavar="I", help="the number of this part, from 1")
    parser.add_argument("--of", type=int, required=True, metavar="K", help="how many parts there are")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="parameters (default: %(default)s)")
    with command.sentences(name):
        chosen = vars(parser.parse_args(argv))
        share = Share(chosen["part"], chosen["of"])
        params.require(
            1 <= share.part <= share.of, f"--part {share.part} --of {share.of}: parts are numbered from 1 to the number after --of"
        )
        part(share, **stage.arguments_of(main, params.read(chosen["params"]), variant=chosen.get(variant)))


def beside(place: Path) -> Path:
    """The folder of the parts of the work that is done in the scratch folder `place`."""
    return place.with_name(f"{place.name}.parts")


@contextlib.contextmanager
def written(folder: Path, share: Share) -> Iterator[Path]:
    """A folder to write one part into; it gets its name if the block ends without error. What the block opens is recorded in it."""
    with files.atomic(folder / share.name) as partial:
        partial.mkdir()
        with command.recorded(partial / access_log.NAME):
            yield partial
    there = len(_sets(folder)[share.of])
    print(f"part {share.part} of {share.of} is in {folder / share.name}; {there} of {share.of} are there")


def finished(folder: Path) -> list[Path]:
    """The parts of a complete set, in order, or an empty list if no part was made. ValueError if every set lacks a part.

    What the parts opened is reported to the access log of the stage that calls this.
    """
    sets = _sets(folder)
    for of, there in sorted(sets.items()):
        if len(there) == of:
            found = [folder / Share(part, of).name for part in range(1, of + 1)]
            for path in found:
                opened = json.loads((path / access_log.NAME).read_text(encoding="utf-8", errors="surrogateescape"))
                if not isinstance(opened, list):
                    raise ValueError(f"the record of what {path} opened is incomplete; remove that folder and run this part again")
                for name in opened:
                    access_log.report(Path(name))
            return found
    if sets:
        of = min(sets, key=lambda of: of - len(sets[of]))
        missing = sorted(set(range(1, of + 1)) - sets[of])
        raise ValueError(
            f"{len(missing)} of {of} parts are missing in {folder}, the first is number {missing[0]}; run it with --part {missing[0]} --of "
            f"{of}, or remove that folder to do the whole work here"
        )
    return []


def _sets(folder: Path) -> dict[int, set[int]]:
    """The numbers of the parts that are there, by the number of all parts. A part that is being written, or was killed, is not there."""
    found: dict[int, set[int]] = {}
    for path in folder.glob("*"):
        if match := re.fullmatch(r"(\d+)-of-(\d+)", path.name):
            found.setdefault(int(match[2]), set()).add(int(match[1]))
    return found


def remove(folder: Path) -> None:
    """Remove all parts, when they are put together."""
    shutil.rmtree(folder, ignore_errors=True)
