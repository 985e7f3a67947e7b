"""Prove that a refactor changes no byte: run two revisions from a clean clone and compare the hashes of what they made.

    python -m tests.golden_run BEFORE [AFTER] [--profile tiny default]

BEFORE and AFTER are git revisions (AFTER is HEAD unless it is given). Each is cloned into a temporary folder, and the whole pipeline runs
there in the environment of this Python: the built-in text follows the installed packages, so hashes of two environments are not
comparable, and none are committed. What is compared are token shards, weights, averages, Hessians, codes, blobs and ledgers. The hashes
of a revision are kept in scratch/golden/, so that it runs once. Exit code 1 if a file differs or exists on one side only.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "scratch" / "golden"
SUFFIXES = (".safetensors", ".blob", ".npy", ".bin", ".model")
PROFILES = ("tiny", "default")


def hashes(revision: str, profile: str) -> dict[str, str]:
    """SHA-256 by path of what the pipeline at `revision` makes with `profile`; from scratch/golden/ if it ran before."""
    commit = subprocess.run(["git", "rev-parse", revision], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    kept = KEPT / f"{commit}-{profile}-{environment()}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            found = run(commit, profile, Path(folder) / "checkout")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found, indent=1))
    return json.loads(kept.read_text())


def environment() -> str:
    """A hash of the Python and of every installed distribution with its version."""
    installed = sorted({f"{item.metadata['Name']}=={item.version}" for item in importlib.metadata.distributions()})
    return hashlib.sha256("\n".join([sys.version, *installed]).encode()).hexdigest()[:12]


def run(commit: str, profile: str, checkout: Path) -> dict[str, str]:
    """Clone `commit`, run its pipeline, hash what came out."""
    variables = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}

    def command(*words: str, cwd: Path = checkout) -> None:
        subprocess.run(words, cwd=cwd, env=variables, check=True)

    command("git", "clone", "--quiet", str(ROOT), str(checkout), cwd=ROOT)
    command("git", "checkout", "--quiet", commit)
    if profile != "default":
        command(sys.executable, "-m", "stages.recipes", profile, "--apply")
    command("dvc", "repro", "--quiet")
    artifacts = checkout / "artifacts"
    return {
        str(path.relative_to(artifacts)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(artifacts.rglob("*"))
        if path.suffix in SUFFIXES and path.is_file()
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden_run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--profile", nargs="+", choices=PROFILES, default=list(PROFILES))
    chosen = parser.parse_args()
    differing = 0
    for profile in chosen.profile:
        before, after = (hashes(revision, profile) for revision in (chosen.before, chosen.after))
        for path in sorted(before.keys() | after.keys()):
            if before.get(path) != after.get(path):
                differing += 1
                what = "differs" if path in before and path in after else "is only in " + ("before" if path in before else "after")
                print(f"{profile}: artifacts/{path} {what}")
        print(
            f"{profile}: {sum(before.get(path) == after[path] for path in after)} of {len(before)} files of {chosen.before} are equal "
            f"in {chosen.after}"
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
