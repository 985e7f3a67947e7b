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
Metrics = Annotated[Path, "metrics"]
Plot = Annotated[Path, "plot"]
Untracked = Annotated[Path, "untracked"]  # not in dvc.yaml: checkpoints that a killed run continues from, dvc.lock itself


@dataclasses.dataclass(frozen=True)
class Contract:
    """What one `main()` declares, with `{variant}` filled in: paths by kind, and the sections of params.yaml it reads. `opened` is the
    output that every stage has: the record of the data files that it really opened."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metrics: tuple[str, ...]
    plots: tuple[str, ...]
    sections: tuple[str, ...]
    opened: str


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
    return Contract(
        *(tuple(found[kind]) for kind in (Input, Output, Metrics, Plot)), tuple(read), record_path(found[Output], found[Metrics])
    )


def record_path(outputs: list[str], metrics: list[str]) -> str:
    """Where lib/node/access_log.py keeps its record: beside the metrics; of a stage that has only a folder, beside the folder."""
    return str(Path(metrics[0]).parent / access_log.NAME) if metrics else f"{outputs[0]}.{access_log.NAME}"


def fill(path: str, variant: str | None, tree: dict | None) -> str:
    """`{variant}` and dvc-like `${section.key}` in a declared path, resolved."""
    path = path.replace("{variant}", str(variant))
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(params.lookup(tree or {}, match[1])), path)


def arguments_of(main: Callable, tree: dict, *, variant: str | None = None, paths: dict[str, str] | None = None) -> dict:
    """What `main` is called with: its variant, its sections of `tree` (parsed params.yaml) and its paths, those in `paths` by name and
    the others as declared."""
    out = {}
    for parameter in inspect.signature(main).parameters.values():
        if parameter.annotation is Variant:
            out[parameter.name] = variant
        elif dataclasses.is_dataclass(parameter.annotation):
            out[parameter.name] = params.section(tree, parameter.annotation, variant=variant)
        else:
            out[parameter.name] = Path(fill((paths or {}).get(parameter.name, parameter.default), variant, tree))
    return out
