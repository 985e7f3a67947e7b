"""Make the submission folder of one recipe: train each seed as a DVC experiment, collect the results, write the folder, and audit it.

    python -m stages.submission pr1855 --seeds 42,0,1234            artifacts/submission/pr1855/
    python -m stages.submission pr1855 --scale tiny                 the same with small sizes, minutes on a CPU
    python -m stages.submission default --record 1.0810             params.yaml as it is, and the test against a record

The folder has README.md, submission.json, a log per seed, train_gpt.py with readable source beside it, and requirements.txt. Every number
in it comes from a file of a run; these files are copied to artifacts/submission/<name>.runs/<seed>/. A finished seed is run again only if
parameters or code changed. params.yaml is restored at the end.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from stages.lib.node import closure, command, files, params, scratch
from stages.recipes import __main__ as recipes
from stages.recipes import catalog
from stages.submission import collect, write

FOLDER = Path("artifacts/submission")
KEPT = Path("scratch/submission/params.yaml")
DEFAULT_SEEDS = "42,0,1234"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stages.submission", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="a recipe, or default: params.yaml as it is")
    parser.add_argument("--seeds", default=DEFAULT_SEEDS, help="of the trainings, chosen before the first of them (default: %(default)s)")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full", help="tiny: small sizes (default: %(default)s)")
    parser.add_argument("--record", help="bits per byte of the record, or of each of its seeds with commas between")
    parser.add_argument("--threshold", type=float, metavar="NATS", help="to beat it by, nats per token (default: the field's 0.005)")
    chosen = parser.parse_args(argv)
    with command.sentences("submission"):
        seeds = _numbers(chosen.seeds, int, "--seeds")
        record = _numbers(chosen.record, float, "--record") if chosen.record else []
        with _params_put_back():
            runs = [_run(chosen.name, chosen.scale, seed) for seed in seeds]
        folder = FOLDER / chosen.name
        found = [collect.read(run) for run in runs]
        collect.check_alike(found)
        told = f"make submission NAME={chosen.name} SEEDS={','.join(map(str, seeds))} SCALE={chosen.scale}"
        write.folder(folder, chosen.name, found, command=told, record=record, threshold=chosen.threshold)
    return _audit(folder, write.over_cap(found))


@contextlib.contextmanager
def _params_put_back() -> Iterator[None]:
    """Restore params.yaml, which `dvc exp run -S` changes. The copy survives if the process is killed, and the next call restores it."""
    if KEPT.is_file():
        print(f"params.yaml is put back from {KEPT}, which a killed run left")
        shutil.move(KEPT, "params.yaml")
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(KEPT) as partial:
        shutil.copyfile("params.yaml", partial)
    try:
        yield
    finally:
        shutil.move(KEPT, "params.yaml")


def _run(name: str, scale: str, seed: int) -> Path:
    """The folder with the files of one seed's run; the seed is run first if the folder is not up to date."""
    tree = params.read(Path("params.yaml"))
    values = _values(name, scale, tree) | {"train.seed": seed}
    tree = catalog.applied(values, tree)
    params.require(
        tree["train"]["adopt"]["path"] is None,
        "train.adopt takes weights that were trained elsewhere, and the script of a submission trains; set train.adopt.path to null",
    )
    key = scratch.key(tree, *sorted(path for path in (closure.ROOT / "stages").rglob("*.py") if path.parts[-2] not in write.READERS))
    kept = FOLDER / f"{name}.runs" / str(seed)
    if (kept / collect.DONE).is_file() and files.read_json(kept / collect.DONE).get("key") == key:
        print(f"seed {seed}: finished before, taken from {kept}")
        return kept
    run = collect.run_of(tree)
    experiment = f"{name}-{scale}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    words = ["dvc", "exp", "run", "--name", experiment, *catalog.flags(values), f"audit@{run}", "script"]
    print(f"seed {seed}: {shlex.join(words)}", flush=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if subprocess.run(words, env=os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}, check=False).returncode:
        raise ValueError(f"the run of seed {seed} failed, see above; what was finished is kept, give the same command again")
    collect.keep(kept, run, key=key, experiment=experiment)
    return kept


def _values(name: str, scale: str, tree: dict) -> dict:
    """The values that replace those of params.yaml, by path."""
    if name != recipes.DEFAULT:
        return recipes.scaled(name, scale, tree)
    return catalog.values("tiny", tree) if scale == "tiny" else {}


def _numbers(text: str, kind: type, option: str) -> list:
    try:
        numbers = [kind(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    params.require(
        bool(numbers) and (kind is float or len(set(numbers)) == len(numbers)),
        f"{option} is {text!r}; it takes numbers with commas between, each once, such as 42,0,1234",
    )
    return numbers


def _audit(folder: Path, over: str) -> int:
    """Audit the folder as any published folder; the output goes to audit.txt in it, and the audit's exit code is returned.
    `over` says by how much the artifact is over the cap, if it is; it is not valid then."""
    done = subprocess.run([sys.executable, "-m", "stages.audit.submission", str(folder)], capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, end="")
    (folder / "audit.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    print(f"{folder}: {'audited' if not done.returncode else 'WRITTEN, BUT THE REFEREE OBJECTS'}{over}")
    return int(bool(done.returncode or over))


if __name__ == "__main__":
    sys.exit(main())
