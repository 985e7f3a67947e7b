"""The audit of an experiment or commit, without touching the workspace.

    python -m stages.audit --rev five-bits                      every run of the experiment
    python -m stages.audit --rev seed-42 seed-43 seed-44 --run sliding --record 1.0810 --output certificates

The revision's own dvc.lock and params.yaml name its files. The files are fetched by their MD5 from DVC's cache into a folder that is
removed afterwards. The sizes of the audit come from the workspace's params.yaml. Several revisions are treated as seeds of one
configuration: with --record their scores are tested against it with a margin of 0.005 nats per token. Exit code 1 unless all are legal.
"""

import argparse
import contextlib
import inspect
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from stages.audit.evidence import AuditSettings
from stages.lib.blob import counted
from stages.lib.dvc import dvc_lock
from stages.lib.dvc.revisions import resolved
from stages.lib.node import access_log, command, files, params, stage
from stages.lib.referee.significance import MARGIN_NATS, one_sample

OPTIONAL = ("artifacts/script/train_gpt.py",)  # revisions that ran only a part of the pipeline may lack it; self_contained says so


def run(main: Callable, run_section: type, argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. `main` is the function of the stage, `run_section` the dataclass of its run."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rev", nargs="+", required=True, metavar="NAME", help="experiments, branches or commits")
    parser.add_argument("--run", nargs="+", metavar="RUN", help="runs of evaluate.runs (default: all of the revision)")
    parser.add_argument("--record", type=float, metavar="BPB", help="bits per byte to test the revisions' scores against")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="keep the certificates there, by revision and run")
    chosen = parser.parse_args(argv)
    with command.sentences("audit"):
        settings = params.section(params.read(Path("params.yaml")), AuditSettings)
        found: dict[str, list[dict]] = {}
        if chosen.output is not None:
            files.check_writable(chosen.output, "--output")
        for name in chosen.rev:
            for run, certificate in audited(name, main, run_section, settings, runs=chosen.run, output=chosen.output):
                found.setdefault(run, []).append(certificate)
        if chosen.record is not None:
            for run, certificates in found.items():
                print(f"{run}: {significance(certificates, chosen.record)}")
    return int(any(certificate["verdict"] != "legal" for certificates in found.values() for certificate in certificates))


def audited(name: str, main: Callable, run_section: type, settings: AuditSettings, *, runs: list[str] | None, output: Path | None):
    """Audit the runs of a revision one after the other; yields (run, certificate)."""
    commit = resolved(name, root=Path.cwd())
    written, tree = _text(commit, "dvc.lock", name), yaml.safe_load(_text(commit, "params.yaml", name))
    output = output.absolute() / name if output else None
    with _cache() as cache, tempfile.TemporaryDirectory(prefix="caddie-") as folder:
        root = Path(folder)
        (root / "dvc.lock").write_text(written, encoding="utf-8")
        stages = dvc_lock.read(root / "dvc.lock")
        known = [entry.split("@")[1] for entry in stages if entry.startswith("evaluate@")]
        for run in runs or known:
            if run not in known:
                raise ValueError(f"{name} has no run {run!r}; its runs are {', '.join(known) or 'none'}")
            wanted = stage.contract(main, variant=run, tree=tree).inputs
            records = [out["path"] for entry in stages.values() for out in entry.get("outs", []) if out["path"].endswith(access_log.NAME)]
            for path in (*wanted, *records):
                bring(stages, path, cache, root, required=path in wanted and path not in OPTIONAL)
            with contextlib.chdir(root):
                paths = {
                    parameter.name: Path(parameter.default.replace("{variant}", run))
                    for parameter in inspect.signature(main).parameters.values()
                    if isinstance(parameter.default, str)
                }
                print(f"{name}: ", end="")
                sections = params.section(tree, run_section, variant=run), params.section(tree, counted.PackageSettings)
                main(run, settings, *sections, **paths)
            certificate = files.read_json(root / paths["certificate"])
            if output:
                output.mkdir(parents=True, exist_ok=True)
                shutil.copytree((root / paths["certificate"]).parent, output / run, dirs_exist_ok=True)
            loss = files.read_json(root / paths["metrics"], required=("loss_nats",))["loss_nats"]
            yield run, certificate | {"loss_nats": loss}


def bring(stages: dict, path: str, cache, root: Path, *, required: bool) -> None:
    """Link an output of the lock under `root` from `cache`, DVC's store of contents, after checking the MD5 of each file.

    DVCFileSystem is not used: it takes a folder's list from its own index, unchecked, and copies the files, which are 16 GB at full size.
    """
    out = next((out for entry in stages.values() for out in entry.get("outs", []) if out["path"] == path), None)
    place = root / path
    if place.exists() or (out is None and not required):
        return
    if out is None:
        raise ValueError(f"the dvc.lock of this revision has no {path}; it was not run to the end")
    md5 = out["md5"]
    source = Path(cache.oid_to_path(md5))
    if not source.is_file():
        if not required:
            return  # the check `lineage` reports the missing record
        raise ValueError(f"{path} of this revision is not in DVC's cache; get it (dvc fetch, dvc exp pull) or run the experiment again")
    if not md5.endswith(".dir"):
        _link(source, place, md5)
        return
    place.mkdir(parents=True)
    for relative, part_md5 in _listed(cache, source, md5, path):
        part = Path(cache.oid_to_path(part_md5))
        if not part.is_file():
            raise ValueError(f"{path}/{relative} of this revision is not in DVC's cache; get it with dvc fetch or dvc exp pull")
        _link(part, place / relative, part_md5)


def _listed(cache, source: Path, md5: str, path: str) -> Iterator[tuple[str, str]]:
    """Name and MD5 of each file of a folder, as DVC reads the list that lies at `source`."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    _check(source, md5.removesuffix(".dir"))
    try:
        tree = Tree.load(cache, HashInfo("md5", md5), hash_name="md5")
    except ObjectFormatError:
        raise ValueError(f"DVC's list of {path} is no list of files; the cache is damaged") from None
    for key, _, found in tree:
        if not {"", ".."}.isdisjoint(key):
            raise ValueError(f"DVC's list of {path} names {'/'.join(key)}, which lies outside of it; the cache is damaged")
        yield "/".join(key), found.value


def _link(source: Path, place: Path, md5: str) -> None:
    _check(source, md5)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(source.absolute())


def _check(source: Path, md5: str) -> None:
    if files.md5(source) != md5:
        raise ValueError(f"{source} is not what its name says (MD5 differs); remove it and get it again with dvc fetch")


def significance(certificates: list[dict], record: float) -> str:
    """The significance test over revisions, as text; the margin is converted to bits per byte with these runs' own bytes per token."""
    first = certificates[0]
    margin = MARGIN_NATS * first["bits_per_byte"] / first["loss_nats"]
    return one_sample([certificate["bits_per_byte"] for certificate in certificates], record, margin).sentence


@contextlib.contextmanager
def _cache() -> Iterator:
    """DVC's store of contents by MD5 (dvc_data's HashFileDB), wherever this repository has it."""
    from dvc.repo import Repo  # takes half a second to import, and only this function needs it

    with contextlib.closing(Repo(".")) as repo:
        yield repo.cache.local


def _text(commit: str, path: str, name: str) -> str:
    try:
        return _git("show", f"{commit}:{path}")
    except ValueError:
        raise ValueError(f"{name} has no {path} in git; revisions that keep their dvc.lock, as experiments do, can be audited") from None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"git {arguments[0]} failed")
    return done.stdout
