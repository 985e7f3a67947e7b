"""The contract of a stage is the signature of its main().

A stage's `main()` declares what it reads and writes by annotation, and dvc.yaml wires the same paths (a test compares):

    def main(
        run: Variant,                                                       # the name after `@`, if the node has variants
        settings: Settings,                                                 # dataclass with SECTION = "compress.runs.{variant}"
        *,
        codes: Input = "artifacts/quantize/codes.safetensors",
        blob: Output = "artifacts/compress/{variant}/model.blob",
        metrics: Metrics = "artifacts/compress/{variant}/metrics.json",
    ) -> None: ...

command.py turns that into `python -m stages.<name>`. Tests call `main` as a plain function with paths of their own.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from stages.lib.node import access_log, params

Variant = Annotated[str, "variant"]
Input = Annotated[Path, "input"]
Output = Annotated[Path, "output"]
Metrics = Annotated[Path, "metrics"]  # JSON of what it measured; for DVC an output, and a metric only where it is the report's
Plot = Annotated[Path, "plot"]
Untracked = Annotated[Path, "untracked"]  # not in dvc.yaml, such as checkpoints that a killed run continues from, or dvc.lock


@dataclasses.dataclass(frozen=True)
class Contract:
    """What one `main()` declares, with `{variant}` filled in: its paths by kind, and the sections of params.yaml that it reads. `opened` is
    an output that every stage has: the record of the data files that it opened."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metrics: tuple[str, ...]
    plots: tuple[str, ...]
    sections: tuple[str, ...]
    opened: str


def contract(main: Callable, *, variant: str | None = None, tree: dict | None = None, resolve: bool = True) -> Contract:
    """Read the contract from the signature of `main`. `tree` (parsed params.yaml) fills `${section.key}` in paths. With `resolve=False`
    they stay as dvc.yaml spells them."""
    found: dict[object, list[str]] = {Input: [], Output: [], Metrics: [], Plot: []}
    read = []
    for parameter in inspect.signature(main).parameters.values():
        if parameter.annotation in found:
            path = parameter.default
            found[parameter.annotation].append(fill(path, variant, tree) if resolve else path.replace("{variant}", str(variant)))
        elif dataclasses.is_dataclass(parameter.annotation):
            read.append(parameter.annotation.SECTION.format(variant=variant))
    return Contract(
        *(tuple(found[kind]) for kind in (Input, Output, Metrics, Plot)), tuple(read), record_path(found[Output], found[Metrics])
    )


def record_path(outputs: list[str], metrics: list[str]) -> str:
    """The path of lib/node/access_log.py's record: beside the metrics, or beside the output folder of a stage without metrics."""
    return str(Path(metrics[0]).parent / access_log.NAME) if metrics else f"{outputs[0]}.{access_log.NAME}"


def fill(path: str, variant: str | None, tree: dict | None) -> str:
    """Fill `{variant}` and the DVC-like `${section.key}` in a declared path."""
    path = path.replace("{variant}", str(variant))
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(params.lookup(tree or {}, match[1])), path)


def arguments_of(main: Callable, tree: dict, *, variant: str | None = None, paths: dict[str, str] | None = None) -> dict:
    """The arguments for `main`: its variant, its sections of `tree` (parsed params.yaml) and its paths. `paths` replaces declared paths by
    name."""
    out = {}
    for parameter in inspect.signature(main).parameters.values():
        if parameter.annotation is Variant:
            out[parameter.name] = variant
        elif dataclasses.is_dataclass(parameter.annotation):
            out[parameter.name] = params.section(tree, parameter.annotation, variant=variant)
        else:
            out[parameter.name] = Path(fill((paths or {}).get(parameter.name, parameter.default), variant, tree))
    return out
