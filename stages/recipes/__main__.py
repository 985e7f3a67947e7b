"""Recipes: each is a published stack, or a profile, as one flat file of `path: value`; docs/recipes.md lists them all.

python -m stages.recipes                            the names
python -m stages.recipes pr1855                     its -S flags, for: dvc exp run $(python -m stages.recipes pr1855)
python -m stages.recipes pr1855 --apply             write its values into params.yaml, for: dvc repro
python -m stages.recipes pr1855 --scale tiny        the same recipe with every feature on and small sizes, for a CPU
python -m stages.recipes pr1855 --scale rehearsal   the same recipe at its published sizes with hardly any work: benchmarks/rehearse.py
python -m stages.recipes pr1855 --describe          its layers as they run, parameters, bytes and FLOPs; `default`: params.yaml as it is
python -m stages.recipes pr1855 --fits              whether its artifact will fit under the cap, from sizes alone; `default` too
python -m stages.recipes --check                    build every stack at full size and compare its parameters with the published number
python -m stages.recipes --document                 write docs/recipes.md
python -m stages.recipes --for 16MB --hours 1 --text data/my.jsonl     size a recipe of your own for this text and machine: docs/sizing.md
"""

import argparse
import shlex
import sys
from pathlib import Path

from stages.lib.node import command, params
from stages.recipes import catalog, describe, document, fits, rehearsal, shrink

DEFAULT = "default"  # stands for params.yaml as it is, in place of a recipe's name
PARAMS = Path("params.yaml")
SCALES = {"tiny": shrink.values, "rehearsal": rehearsal.values}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stages.recipes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="a recipe; without it, the list")
    parser.add_argument("--scale", choices=("full", *SCALES), default="full", help="tiny: small sizes (default: %(default)s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--apply", action="store_true", help="write the recipe into params.yaml instead of printing flags")
    what.add_argument("--describe", action="store_true", help="print its layers, parameters, bytes and FLOPs")
    what.add_argument("--fits", action="store_true", help="say from sizes alone whether its artifact will fit under the cap")
    what.add_argument("--check", action="store_true", help="compare every stack's number of parameters with the published one")
    what.add_argument("--document", action="store_true", help="write docs/recipes.md")
    own = parser.add_argument_group("a recipe of your own: docs/sizing.md")
    own.add_argument("--for", dest="cap", metavar="BYTES", help="size one for an artifact of at most so many bytes, such as 16MB or 500kB")
    own.add_argument("--hours", type=float, help="hours of training")
    own.add_argument("--text", type=Path, help="a file or folder of text (default: the built-in text)")
    own.add_argument("--gpus", type=int, help="number of GPUs; 0: the processor (default: those of this machine)")
    own.add_argument("--card", help="kind of these GPUs, if they are not here (default: the contest's H100)")
    own.add_argument("--context", type=int, help="width of the context in tokens (default: by the rules)")
    own.add_argument("--save", metavar="NAME", help="name of the recipe (default: by what was asked for)")
    own.add_argument("--overwrite", action="store_true", help="replace a recipe of that name")
    with command.sentences("recipes"):
        chosen = parser.parse_args(argv)
        if chosen.cap is not None:
            from stages.recipes.dial import size

            return size.run(chosen, params.read(PARAMS))
        given = [name for name in ("hours", "text", "gpus", "card", "context", "save", "overwrite") if getattr(chosen, name)]
        params.require(not given, f"--{given[0] if given else ''} is for a recipe of your own; say how many bytes it may have: --for 16MB")
        if chosen.check or chosen.document:
            params.require(chosen.name is None, "--check and --document look at all recipes; leave the name out")
            return check() if chosen.check else document.write()
        if chosen.name is None:
            params.require(not (chosen.apply or chosen.describe or chosen.fits), f"name a recipe; there are {', '.join(catalog.names())}")
            print("\n".join(catalog.names()))
            return 0
        tree = params.read(PARAMS)
        asks = chosen.describe or chosen.fits
        found = {} if asks and chosen.name == DEFAULT else scaled(chosen.name, chosen.scale, tree)
        if chosen.describe:
            print(describe.text(chosen.name, catalog.applied(found, tree)))
        elif chosen.fits:
            known = catalog.read_header(chosen.name) if chosen.name in catalog.stacks() and chosen.scale == "full" else None
            print(fits.sentence(chosen.name, fits.estimate(catalog.applied(found, tree), known)))
        elif chosen.apply:
            catalog.apply(found, PARAMS)
        else:
            print(shlex.join(catalog.flags(found)))
    return 0


def scaled(name: str, scale: str, tree: dict) -> dict:
    """The recipe's values by path, at full size, with small sizes or with little work. ValueError for a profile: it sets its sizes."""
    found = catalog.values(name, tree)
    if scale == "full":
        return found
    params.require(name not in catalog.PROFILES, f"{name} is no stack but a choice of sizes; leave --scale out")
    return found | SCALES[scale](catalog.applied(found, tree))


def check() -> int:
    """Print every stack with its number of parameters and the published number. Returns the exit code: 1 if any differs."""
    tree, is_wrong = params.read(PARAMS), False
    for name in catalog.stacks():
        published = catalog.read_header(name).parameters
        built = describe.network(catalog.applied(catalog.values(name, tree), tree))
        parameters = sum(weight.numel() for weight in built.parameters())
        is_wrong |= parameters != published
        print(f"{name:8} {parameters:>12,} parameters, {published:>12,} published{'' if parameters == published else ': THEY DIFFER'}")
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
