"""The recipe files: flat `path: value`, which replace values of params.yaml. header.py parses the comment header of a stack.

`tiny` and `short` are profiles: `tiny` sets small sizes for trials, `short` leaves out what a sweep of the quantizer does not need.
A profile is not a published stack, so it has no header. `caddie` is our own stack: its header names no published run. A recipe that `--for`
sized has none either: its first line begins with SIZED.
"""

import copy
import json
import shlex
from pathlib import Path

import yaml

from stages.lib.node import files, params
from stages.recipes import header
from stages.recipes.dial import context

FOLDER = Path(__file__).parent
PROFILES, OWN = ("tiny", "short"), ("caddie",)
SIZED = "# Sized for:"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def stacks() -> list[str]:
    """The recipes that replicate a published stack: all except the profiles, our own, and those that were sized here."""
    return [name for name in names() if name not in PROFILES + OWN and not is_sized(name)]


def whole() -> list[str]:
    """The recipes that set up a whole stack: the published ones, and our own."""
    return stacks() + list(OWN)


def is_sized(name: str) -> bool:
    """Whether `--for` wrote this recipe."""
    return name in names() and _text(name).startswith(SIZED)


def read_header(name: str) -> header.Header:
    return header.parse(_text(name), name)


def values(name: str, tree: dict) -> dict:
    """The recipe's values by path. ValueError if it does not exist, sets a path that params.yaml does not have, or was sized with another
    width of the context than its values now have."""
    found = yaml.safe_load(_text(name)) or {}
    for path in found:
        params.lookup(tree, path)
    if name == "short":
        found |= context.without_memory(tree["train"]["sequence_length"])
    if is_sized(name):
        context.check(found, f"stages/recipes/{name}.yaml")
    return found


def _text(name: str) -> str:
    if name not in names():
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(names())}")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def applied(found: dict, tree: dict) -> dict:
    """A copy of the parsed params.yaml with values set by path; a mapping replaces a mapping as a whole."""
    tree = copy.deepcopy(tree)
    for path, value in found.items():
        *parents, leaf = path.split(".")
        (params.lookup(tree, ".".join(parents)) if parents else tree)[leaf] = copy.deepcopy(value)
    return tree


def own_text() -> str:
    """The option of `dvc exp run` that copies a text of one's own into the folder of an experiment; git does not track it."""
    text = params.read(Path("params.yaml"))["prepare"]
    given = Path(text["path"])
    return f"-C {shlex.quote(str(given))}" if text["source"] == "local" and not given.is_absolute() and given.exists() else ""


def flags(found: dict) -> list[str]:
    """Values by path as -S flags of `dvc exp run`."""
    out = []
    for path, value in found.items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        if isinstance(value, dict):  # hydra would merge it with the present mapping, refuses new keys, and accepts no quoted keys
            out += ["-S", f"~{path}", "-S", f"+{path}={text.replace(chr(34), '')}"]
        else:
            out += ["-S", f"{path}={text}"]
    return out


def apply(found: dict, path: Path) -> None:
    """Write values into a params.yaml and keep its comments, as `dvc exp run` does, but without an experiment."""
    from ruamel.yaml import YAML  # comes with dvc

    yaml_file = YAML()  # with DVC's layout, so that a later experiment changes only lines of its own
    yaml_file.default_flow_style = False
    tree = yaml_file.load(path.read_text(encoding="utf-8"))
    for leaf_path, value in found.items():
        *parents, leaf = leaf_path.split(".")
        params.lookup(tree, ".".join(parents))[leaf] = value
    with files.atomic(path) as partial, open(partial, "w", encoding="utf-8") as handle:
        yaml_file.dump(tree, handle)
