"""Run the campaign: python -m tests.siege.run [NAME or KIND ...] [--write]; all of it takes half an hour on two cores.

A small pipeline is run once under scratch/siege. Names run these again and keep what is known of the others.
Each cheat is packed beside `sliding` in a copy of the code, evaluated and audited in
jails. The table goes to stdout, and with --write to docs/siege.md. Exit code 1 if a cheat passed or an honest evaluator was accused.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from stages.lib.node import files
from stages.lib.tokens import splits
from tests import conftest
from tests.siege import forgeries, memory

HERE = Path(__file__).parent
KINDS = ("handed", "sampling", "process", "memory", "files", "honest")
STEPS = (("package",), ("evaluate", "sliding"), ("audit", "sliding"))
TEXTS = (
    "celery",
    "kombu",
    "amqp",
    "billiard",
    "dulwich",
    "scmrepo",
    "dvc",
    "gitdb",
    "GitPython",
    "omegaconf",
    "hydra-core",
    "tomlkit",
    "voluptuous",
)


@dataclass(frozen=True)
class Outcome:
    """What a cheat came to: claimed and certified bits per byte, and what stood in its way."""

    name: str
    kind: str
    said: str
    claimed: float | None
    most: float | None
    verdict: str
    caught: dict[str, str]
    may_hold: float

    def passes(self, honest: float) -> bool:
        """Whether it is certified legal for less than the honest score, beyond the certificate's own bound."""
        return self.verdict == "legal" and self.most is not None and self.most + self.may_hold < honest


def names() -> dict[str, str]:
    """The kind of each case, by its name."""
    packed = {path.stem: path.parent.name for path in sorted(HERE.glob("packed/*/*.py")) if path.parent.name != "shared"}
    made = {one.__name__: kind for kind, module in (("memory", memory), ("files", forgeries)) for one in module.ALL}
    return dict(sorted((packed | made).items(), key=lambda item: KINDS.index(item[1])))


def base(root: Path) -> None:
    """A finished small pipeline in `root`, on a text that no jail shows."""
    (root / "documents").mkdir(parents=True)
    for name in TEXTS:
        for file in (importlib.metadata.files(name) or [])[:400]:
            path = Path(file.locate())
            if path.suffix == ".py" and path.is_file() and path.stat().st_size > 4_000 and len(list((root / "documents").iterdir())) < 120:
                text = path.read_text(encoding="utf-8", errors="ignore")[:4_000]
                (root / "documents" / f"{name}_{'_'.join(file.parts)}.txt").write_text(text, encoding="utf-8")
    tree = conftest.tiny_params()
    for leaf, value in {
        "train.steps": 300,
        "vocabulary.size": 512,
        "audit.replayed": 300,
        "package.evaluators": ["sliding"],
        "evaluate.runs": {"sliding": tree["evaluate"]["runs"]["sliding"]},
        "prepare.max_bytes": 2_000_000,
    }.items():
        conftest.set_leaf(tree, leaf, value)
    (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    with contextlib.chdir(root):
        for node in conftest.NODES:
            if node[0] == "evaluate":
                break
            conftest.run_node(*node)
        conftest.write_lock(root)
        for node in STEPS[1:]:
            conftest.run_node(*node)


def outcome(name: str, kind: str, start: Path, work: Path, tree: Path) -> Outcome:
    """Pack, evaluate and audit one case in a copy of `start`; `tree` is the code, to which what is made is added."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)
    said = ""
    with contextlib.chdir(work):
        parameters, forge = yaml.safe_load(Path("params.yaml").read_text()), None
        made = memory.Made("")
        if kind == "memory":
            known = memory.Val(
                *(np.asarray(splits.read(Path(f"artifacts/tokenize/{split}"), split).tokens[:]) for split in ("val", "holdout"))
            )
            make = getattr(memory, name)
            made, said = make(known), make.__doc__
            (tree / f"stages/runtime/scoring/evaluators/{name}.py").write_text(made.source)
        elif kind == "files":
            forge = getattr(forgeries, name)
            said = forge.__doc__
        else:
            said = (HERE / f"packed/{kind}/{name}.py").read_text().split('"""')[1].split("\n\n")[0]
        if kind != "files":
            run = parameters["evaluate"]["runs"]["sliding"]
            run["evaluator"], run["options"] = name, run["options"] | made.options
            parameters["package"]["evaluators"] = ["sliding", name]
            Path("params.yaml").write_text(yaml.safe_dump(parameters))
        caught, printed = {}, io.StringIO()
        for step in STEPS:
            if kind == "files" and step[0] != "audit":
                continue
            if step[0] == "audit":
                if forge:
                    forge()
                conftest.write_lock(work)
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                try:
                    conftest.run_node(*step)
                except SystemExit as error:
                    if error.code:
                        caught = {step[0]: (printed.getvalue().strip().splitlines() or ["?"])[-1]}
                        break
            if step[0] == "package" and kind == "memory":
                pyz = Path("artifacts/package/submission.pyz")
                pyz.write_bytes(made.forge(pyz.read_bytes()))
        claimed, most, verdict, may_hold = None, None, "refused", 0.0
        with contextlib.suppress(FileNotFoundError, KeyError):
            claimed = json.loads(Path("artifacts/evaluate/sliding/metrics.json").read_text())["bits_per_byte"]
        if not caught:
            found = json.loads(Path("artifacts/audit/sliding/certificate.json").read_text())
            verdict, most = found["verdict"], found["at_most_bits_per_byte"]
            may_hold = found["checks"]["data_in_code"]["evidence"].get("may_hold_bits_per_byte", 0.0)
            caught = {
                check: facts["evidence"].get("reason", "")
                for check, facts in found["checks"].items()
                if facts["verdict"] in ("fail", "not_applicable")
            }
    return Outcome(name, kind, " ".join(said.split()), claimed, most, verdict, caught, may_hold)


def inside(chosen: list[str], start: Path) -> Iterator[Outcome]:
    """The outcomes, with the code of the current folder, which is a copy to which the packed cheats were added."""
    tree, known = Path.cwd(), names()
    for name, kind in known.items():
        if not chosen or name in chosen or kind in chosen:
            yield outcome(name, kind, start, tree.with_name("work"), tree)


def table(outcomes: list[Outcome], honest: float) -> str:
    """The outcomes as Markdown."""
    lines = ["| cheat | what it does | claims | gain | X | verdict | caught by |", "|---|---|---:|---:|---:|---|---|"]
    for one in outcomes:
        claimed, gain = ("", "") if one.claimed is None else (f"{one.claimed:.3f}", f"{honest - one.claimed:+.3f}")
        caught = ", ".join(f"`{check}`" for check in one.caught) or ("nothing to catch" if one.kind == "honest" else "its own bound")
        most = "" if one.most is None else f"{one.most:.3f}"
        said = one.said.split(". ")[0].rstrip(".")
        verdict = f"{one.verdict} **PASSES**" if one.passes(honest) else one.verdict
        lines.append(f"| {one.kind}: `{one.name}` | {said} | {claimed} | {gain} | {most} | {verdict} | {caught} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.siege.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"cheats, or kinds of them: {', '.join(KINDS)}")
    parser.add_argument("--write", action="store_true", help="write docs/siege.md")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=Path("scratch/siege"))
    chosen = parser.parse_args(argv)
    if chosen.inside:
        with open(chosen.inside.with_name("outcomes.jsonl"), "a", encoding="utf-8") as kept:
            for one in inside(chosen.names, chosen.inside):
                print(json.dumps(asdict(one)), file=kept, flush=True)
                print(f"{one.kind}: {one.name}: {one.verdict}, claims {one.claimed}, X {one.most}, {one.caught}", flush=True)
        return 0
    folder, root = chosen.folder.absolute(), Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    start, tree = folder / "base", folder / "tree"
    if not (start / "artifacts/audit/sliding/certificate.json").is_file():
        shutil.rmtree(start, ignore_errors=True)
        base(start)
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name in ("stages", "tests", "params.yaml", "dvc.yaml", "pyproject.toml"):
        (shutil.copytree if (root / name).is_dir() else shutil.copy)(root / name, tree / name)
    for path in HERE.glob("packed/*/*.py"):
        shutil.copy(path, tree / "stages/runtime/scoring/evaluators")
    outcomes_path = folder / "outcomes.jsonl"
    if not chosen.names:
        outcomes_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.siege.run", "--inside", str(start), *chosen.names]
    subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, check=True)
    kept = {one["name"]: Outcome(**one) for one in map(json.loads, outcomes_path.read_text(encoding="utf-8").splitlines())}
    outcomes = [kept[name] for name in names() if name in kept]
    certified = files.read_json(start / "artifacts/audit/sliding/certificate.json")
    honest = certified["bits_per_byte"]
    text = table(outcomes, honest)
    print(text)
    accused = [one.name for one in outcomes if one.kind == "honest" and one.verdict != "legal"]
    passing = [one.name for one in outcomes if one.kind != "honest" and one.passes(honest)]
    most = certified["at_most_bits_per_byte"]
    print(f"honest sliding: {honest:.3f}, X {most:.3f}; passing: {passing or 'none'}; accused: {accused or 'none'}")
    if chosen.write:
        (root / "docs/siege.md").write_text(HEAD.format(honest=honest, most=most, table=text), encoding="utf-8")
    return int(bool(passing or accused))


HEAD = """# The referee under siege

Written by `make test-siege`. Each artifact of this table lies, each was packed, evaluated and audited on a small text, where honest
sliding costs {honest:.3f} bits per byte and X is {most:.3f}. A cheat passes if its certificate says "legal" and its X, with what the
certificate says that code can hold of val, is below the honest score. "Its own bound" means that nothing was accused, because what was
gained lies within X.

{table}"""

if __name__ == "__main__":
    sys.exit(main())
