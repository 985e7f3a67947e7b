"""What every `python -m stages.<name>` shares: the signature is the contract, errors are one sentence, writes are atomic.

A stage's `main()` declares what it reads and writes by annotation, and dvc.yaml wires the same paths (a test compares):

    def main(
        run: Variant,                                                       # the name after `@`, if the node has variants
        settings: Settings,                                                 # dataclass with SECTION = "compress.runs.{variant}"
        *,
        codes: Input = "artifacts/quantize/codes.safetensors",
        blob: Output = "artifacts/compress/{variant}/model.blob",
        metrics: Metrics = "artifacts/compress/{variant}/metrics.json",
    ) -> None: ...

`run(main)` turns that into a command: one positional argument for the variant, one option per path, params.yaml read and
validated, `--help` from the module's docstring. Tests call `main` as a plain function with paths of their own.
"""

import argparse
import contextlib
import dataclasses
import errno
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from stages.lib.node import access_log, params

Variant = Annotated[str, "variant"]
Input = Annotated[Path, "input"]
Output = Annotated[Path, "output"]
Metrics = Annotated[Path, "metrics"]
Plot = Annotated[Path, "plot"]
Untracked = Annotated[Path, "untracked"]  # not in dvc.yaml: checkpoints that a killed run continues from, dvc.lock itself


PATH_ERRORS = {
    errno.ENOENT: "is missing; check the spelling, or run the stage that makes it",
    errno.EACCES: "may not be read or written by this user; change its permissions",
    errno.EPERM: "may not be read or written by this user; change its permissions",
    errno.ENOTDIR: "needs a folder where there is a file; move that file away",
    errno.EISDIR: "is a folder where a file is needed; move it away",
    errno.EEXIST: "is a file where a folder is needed; move it away",
}


@dataclasses.dataclass(frozen=True)
class Contract:
    """What one `main()` declares, with `{variant}` filled in: paths by kind, and the sections of params.yaml it reads. `opened` is the
    output that every stage has: the record of the data files that it really opened."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metrics: tuple[str, ...]
    plots: tuple[str, ...]
    sections: tuple[str, ...]
    access_log: str


def contract(main: Callable, *, variant: str | None = None, tree: dict | None = None, resolve: bool = True) -> Contract:
    """Read the contract off the signature of `main`. `tree` (parsed params.yaml) fills the `${section.key}` in paths;
    with `resolve=False` they stay as dvc.yaml spells them."""
    found: dict[object, list[str]] = {Input: [], Output: [], Metrics: [], Plot: []}
    read = []
    for parameter in inspect.signature(main).parameters.values():
        if parameter.annotation in found:
            path = parameter.default
            found[parameter.annotation].append(fill(path, variant, tree) if resolve else path.replace("{variant}", str(variant)))
        elif dataclasses.is_dataclass(parameter.annotation):
            read.append(parameter.annotation.SECTION.format(variant=variant))
    return Contract(*(tuple(found[kind]) for kind in (Input, Output, Metrics, Plot)), tuple(read),
                    record_path(found[Output], found[Metrics]))


def record_path(outputs: list[str], metrics: list[str]) -> str:
    """Where lib/node/access_log.py keeps its record: beside the metrics; of a stage that has only a folder, beside the folder."""
    return str(Path(metrics[0]).parent / access_log.NAME) if metrics else f"{outputs[0]}.{access_log.NAME}"


def fill(path: str, variant: str | None, tree: dict | None) -> str:
    """`{variant}` and dvc-like `${section.key}` in a declared path, resolved."""
    path = path.replace("{variant}", str(variant))
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(params.lookup(tree or {}, match[1])), path)


def run(main: Callable, argv: list[str] | None = None) -> None:
    """Parse the command line, read params.yaml, call `main`; a user's mistake ends as one sentence and exit code 1."""
    name = inspect.getmodule(main).__spec__.parent.removeprefix("stages.")
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=inspect.getmodule(main).__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--params", default="params.yaml", metavar="FILE", help="parameters (default: params.yaml)")
    signature = inspect.signature(main)
    for parameter in signature.parameters.values():
        if parameter.annotation is Variant:
            parser.add_argument(parameter.name, help=f"which {parameter.name}; see params.yaml and dvc.yaml")
        elif parameter.annotation in (Input, Output, Metrics, Plot, Untracked):
            kind = parameter.annotation.__metadata__[0]
            option = "--" + parameter.name.replace("_", "-")
            parser.add_argument(option, default=parameter.default, metavar="PATH", help=f"{kind} (default: %(default)s)")
    chosen = vars(parser.parse_args(argv))
    with sentences(name):
        tree = params.read(Path(chosen.pop("params")))
        variant = next((chosen[p.name] for p in signature.parameters.values() if p.annotation is Variant), None)
        arguments = {}
        for parameter in signature.parameters.values():
            if parameter.annotation is Variant:
                arguments[parameter.name] = variant
            elif dataclasses.is_dataclass(parameter.annotation):
                arguments[parameter.name] = params.section(tree, parameter.annotation, variant=variant)
            else:
                arguments[parameter.name] = Path(fill(chosen[parameter.name], variant, tree))
        for parameter in signature.parameters.values():
            path = arguments[parameter.name]
            if parameter.annotation is Input and not path.exists():
                raise ValueError(f"{path} is missing; {_way_out(path)}")
        outputs, metrics = ([str(arguments[parameter.name]) for parameter in signature.parameters.values() if parameter.annotation is kind]
                            for kind in (Output, Metrics))
        with access_log.recorded(Path(record_path(outputs, metrics))):
            main(**arguments)


def _way_out(path: Path) -> str:
    if "artifacts" in path.parts[:-1]:
        return f"run the stage that makes it: dvc repro {path.parts[path.parts.index('artifacts') + 1]}"
    return "check the spelling on the command line and in params.yaml"


@contextlib.contextmanager
def sentences(name: str) -> Iterator[None]:
    """Turn what a user can cause into `caddie <name>: <one sentence>` and exit code 1; our own bugs keep their traceback."""
    try:
        yield
    except ValueError as error:
        _fail(name, str(error))
    except OSError as error:
        path = error.filename2 or error.filename
        if error.errno in PATH_ERRORS and path is not None:
            _fail(name, f"{path} {PATH_ERRORS[error.errno]}")
        if error.errno in PATH_ERRORS:
            _fail(name, str(error))
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE):
            raise
        _fail(name, f"{error.strerror} while writing {path or 'an output'}; free some space and run it again, "
                    "finished stages are kept")
    except KeyboardInterrupt:
        print(f"caddie {name}: interrupted; nothing half-written was left, run it again to continue", file=sys.stderr)
        raise SystemExit(130) from None


def _fail(name: str, sentence: str) -> None:
    print(f"caddie {name}: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(1) from None
