"""Recipes: a published stack, or a profile, as one flat file of `path: value`.

    python -m stages.recipes            the names
    python -m stages.recipes tiny       its -S flags, for: dvc exp run $(python -m stages.recipes tiny)
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


def flags(name: str, tree: dict) -> list[str]:
    """The recipe as -S flags. ValueError if it does not exist or sets a path that params.yaml does not have."""
    if name not in names():
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(names())}")
    out = []
    for path, value in (yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) or {}).items():
        params.lookup(tree, path)
        out += ["-S", f"{path}={json.dumps(value, separators=(',', ':')) if not isinstance(value, str) else value}"]
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.recipes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a recipe; without it, the list")
    name = parser.parse_args(argv).name
    with stage.sentences("recipes"):
        print(shlex.join(flags(name, params.read(Path("params.yaml")))) if name else "\n".join(names()))


if __name__ == "__main__":
    main()
