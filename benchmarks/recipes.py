"""Every published stack in small, from the built-in text to its certificate: the verdicts and seconds of docs/recipes.md.

    python benchmarks/recipes.py                    all of them, 1 to 3 minutes each on 2 cores; prints a table
    python benchmarks/recipes.py pr1855 pr1958      these
    python benchmarks/recipes.py --write            into docs/recipes.csv; then: python -m stages.recipes --document

Each runs `dvc repro` in a folder of its own, with its own cache, in a copy of this working tree: nothing is taken from earlier runs.
The verdicts are of the published method; the scores are those of models of 64 features and 24 steps, and mean nothing.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(Path(__file__).parent):  # a script: its folder's modules could hide others
    sys.path[0] = str(ROOT)

import argparse
import csv
import json
import os
import shutil
import subprocess
import tempfile
import time

import yaml

COLUMNS = ("recipe", "run", "verdict", "failed", "bits_per_byte", "artifact_bytes", "seconds")
TABLE = ROOT / "docs/recipes.csv"


def copy_tree(folder: Path) -> None:
    """The tracked files of this working tree, and those that would be, as a DVC project without git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n    analytics = false\n")


def run(name: str, folder: Path) -> list[dict]:
    """A stack in small, run in the empty `folder`: one row of COLUMNS per evaluator."""
    seconds = reproduce(name, folder)
    package = json.loads((folder / "artifacts/package/metrics.json").read_text())
    return [
        _row(name, json.loads((folder / f"artifacts/audit/{which}/certificate.json").read_text()), package, seconds)
        for which in yaml.safe_load((folder / "params.yaml").read_text())["evaluate"]["runs"]
    ]


def reproduce(name: str, folder: Path) -> float:
    """The pipeline of a stack in small, in the empty `folder`; its seconds."""
    copy_tree(folder)
    environment = os.environ | {
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUTF8": "1",
        "PYTHONPATH": str(folder),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait are slow on busy cores
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    started = time.monotonic()
    for command in (["python", "-m", "stages.recipes", name, "--scale", "tiny", "--apply"], ["dvc", "repro"]):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name}: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def _row(name: str, certificate: dict, package: dict, seconds: float) -> dict:
    failed = [check for check, found in certificate["checks"].items() if found["verdict"] == "fail"]
    return {
        "recipe": name,
        "run": certificate["run"],
        "verdict": certificate["verdict"],
        "failed": " ".join(failed),
        "bits_per_byte": f"{certificate['bits_per_byte']:.4f}",
        "artifact_bytes": package["artifact_bytes"],
        "seconds": round(seconds),
    }


def main() -> None:
    from stages.recipes import catalog

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="stacks (default: all)")
    parser.add_argument("--write", action="store_true", help="put the rows into docs/recipes.csv, each stack's when it is done")
    arguments = parser.parse_args()
    names = arguments.names or catalog.whole()
    if unknown := set(names) - set(catalog.whole()):
        parser.error(f"no stacks: {', '.join(sorted(unknown))}; there are {', '.join(catalog.whole())}")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="caddie-recipe-") as folder:
            rows = run(name, Path(folder))
        print("\n".join("  ".join(str(value) for value in row.values()) for row in rows), flush=True)
        if arguments.write:
            write(rows)


def write(rows: list[dict]) -> None:
    """Put the rows of one stack in the place of its old ones; the table stays in the order of names."""
    with open(TABLE, newline="", encoding="utf-8") as handle:
        others = [row for row in csv.DictReader(handle) if row["recipe"] != rows[0]["recipe"]]
    with open(TABLE, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*others, *rows], key=lambda row: row["recipe"]))


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/recipes.py"):
        main()
