"""Recipes: a published stack, or a profile, as one flat file of `path: value`.

    python -m stages.recipes            the names
    python -m stages.recipes tiny       its -S flags, for: dvc exp run $(python -m stages.recipes tiny)
    python -m stages.recipes tiny --apply        write its values into params.yaml, for: dvc repro
"""

import argparse
import json
import shlex
from pathlib import Path

import yaml

from stages.lib import params, stage

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def values(name: str, tree: dict) -> dict:
    """The recipe's values by path. ValueError if it does not exist or sets a path that params.yaml does not have."""
    if name not in names():
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(names())}")
    found = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    for path in found:
        params.lookup(tree, path)
    return found


def flags(name: str, tree: dict) -> list[str]:
    """The recipe as -S flags of `dvc exp run`."""
    out = []
    for path, value in values(name, tree).items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        if isinstance(value, dict):  # hydra would merge it into what is there, refuses new keys, and takes none in quotes
            out += ["-S", f"~{path}", "-S", f"+{path}={text.replace(chr(34), '')}"]
        else:
            out += ["-S", f"{path}={text}"]
    return out


def apply(name: str, path: Path) -> None:
    """Write the recipe's values into a params.yaml, keeping its comments: what `dvc exp run` does, without an experiment."""
    from ruamel.yaml import YAML  # comes with dvc

    yaml_file = YAML()
    yaml_file.width = 4096
    tree = yaml_file.load(path.read_text(encoding="utf-8"))
    for leaf_path, value in values(name, tree).items():
        *parents, leaf = leaf_path.split(".")
        params.lookup(tree, ".".join(parents))[leaf] = value
    with stage.atomic(path) as partial, open(partial, "w", encoding="utf-8") as handle:
        yaml_file.dump(tree, handle)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.recipes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a recipe; without it, the list")
    parser.add_argument("--apply", action="store_true", help="write the recipe into params.yaml instead of printing flags")
    arguments = parser.parse_args(argv)
    name = arguments.name
    with stage.sentences("recipes"):
        if arguments.apply:
            params.require(bool(name), f"--apply needs a recipe; there are {', '.join(names())}")
            apply(name, Path("params.yaml"))
            return
        print(shlex.join(flags(name, params.read(Path("params.yaml")))) if name else "\n".join(names()))


if __name__ == "__main__":
    main()
