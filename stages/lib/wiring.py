"""Keep the `deps` of dvc.yaml true to the code: what main() declares, plus every file that the stage imports.

    python -m stages.lib.wiring            say which nodes differ; exit code 1 if any does
    python -m stages.lib.wiring --write    bring their deps up to date, and nothing else

Plug-ins are loaded by name: their deps are written by hand as templates (`evaluators/${item.evaluator}.py`) or folders, and stay; what the
files of such a folder import from elsewhere is added.
"""

import argparse
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from stages.lib import closure, stage

DVC_YAML = closure.ROOT / "dvc.yaml"
PLUGIN_FOLDERS = ("stages/runtime/codecs", "stages/runtime/coders", "stages/runtime/filters", "stages/runtime/evaluators",
                  "stages/runtime/features", "stages/audit/checks", "stages/runtime",
                  # of the one script, which is made of them
                  "stages/lib", "stages/train", "stages/ema", "stages/prequant_ttt", "stages/calibrate", "stages/allocate",
                  "stages/quantize", "stages/compress", "stages/smallest")


def expected(node: str, body: dict) -> list[str]:
    """The deps of one node of dvc.yaml, in order: what main() reads, plug-ins named by hand, imported files."""
    body_of = body.get("do", body)
    main = importlib.import_module(f"stages.{node}.__main__").main
    variant = "item" if isinstance(body.get("foreach"), list) else "key"
    paths = stage.contract(main, variant=f"${{{variant}}}", resolve=False)
    imported = closure.files(f"stages.{node}.__main__")
    by_hand = [dep for dep in body_of.get("deps", []) if _is_plugin(dep) and dep not in {*imported, *folded(imported)}]
    files = {*imported, *imported_by_plugins(by_hand)}
    return [*paths.inputs, *by_hand, *folded(path for path in files if not path.startswith(tuple(f"{folder}/" for folder in by_hand)))]


def folded(files: Iterable[str]) -> list[str]:
    """Sorted; a folder in place of its files where all of them are there: DVC reads and writes every line of dvc.lock at every node."""
    files, out = set(files), []
    for folder in sorted({str(parent) for path in files for parent in Path(path).parents[:-2]}):
        inside = {str(path.relative_to(closure.ROOT)) for path in (closure.ROOT / folder).rglob("*")
                  if path.is_file() and "__pycache__" not in path.parts}
        if len(inside) > 1 and inside <= files:
            files -= inside
            out.append(folder)
    return sorted([*files, *out])


def imported_by_plugins(by_hand: list[str]) -> set[str]:
    """What the plug-ins in whole folders import."""
    return {path for folder in by_hand for plugin in (closure.ROOT / folder).glob("*.py")
            for path in closure.files(".".join((*folder.split("/"), plugin.stem)))}


def _is_plugin(dep: str) -> bool:
    return any(dep == folder or ("${" in dep and dep.startswith(folder)) for folder in PLUGIN_FOLDERS)


def differences(tree: dict) -> dict[str, tuple[list[str], list[str]]]:
    """By node: deps that are missing from dvc.yaml, and deps that should not be there."""
    out = {}
    for node, body in tree["stages"].items():
        want, have = expected(node, body), body.get("do", body).get("deps", [])
        if list(have) != want:
            out[node] = [d for d in want if d not in have], [d for d in have if d not in want]
    return out


def main(argv: list[str] | None = None) -> int:
    from ruamel.yaml import YAML  # comes with dvc; keeps the comments

    parser = argparse.ArgumentParser(prog="python -m stages.lib.wiring", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="update dvc.yaml")
    write = parser.parse_args(argv).write
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    tree = yaml.load(DVC_YAML.read_text(encoding="utf-8"))
    found = differences(tree)
    for node, (missing, extra) in found.items():
        print(f"{node}: missing {missing or 'nothing'}, not needed {extra or 'nothing'}", file=sys.stderr)
    if write and found:
        for node, body in tree["stages"].items():
            body.get("do", body)["deps"] = expected(node, body)
        with stage.atomic(Path(DVC_YAML)) as partial, open(partial, "w", encoding="utf-8") as handle:
            yaml.dump(tree, handle)
    return 0 if write else int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
