"""A tiny pipeline that has run once, in a folder of its own: most tests look at it or start from a copy."""

import fcntl
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from stages.audit import graph
from stages.lib.node import command, files, params, stage
from stages.lib.text import corpus

ROOT = Path(__file__).resolve().parents[1]
NODES = (
    ("prepare",),
    ("text_compressors",),
    ("vocabulary",),
    ("tokenize", "train"),
    ("tokenize", "holdout"),
    ("tokenize", "val"),
    ("train",),
    ("ema",),
    ("prequant_ttt",),
    ("calibrate",),
    ("sensitivity",),
    ("memory",),
    ("script",),
    ("fill_cap",),
    ("quantize",),
    ("plain_score", "train"),
    ("plain_score", "ema"),
    ("plain_score", "prequant_ttt"),
    ("plain_score", "quantize"),
    ("compress", "brotli_11"),
    ("compress", "zlib_9"),
    ("package",),
    ("evaluate", "sliding"),
    ("evaluate", "slot"),
    ("evaluate", "causal_slot"),
    ("audit", "sliding"),
    ("audit", "slot"),
    ("audit", "causal_slot"),
    ("report",),
)
TOGETHER = ("test_dvc", "test_report_compare", "test_sharing", "test_submission")  # each makes in seconds what all of its tests start from


def pytest_configure(config):
    """One worker per core: more threads than that wait for one another, and by default they wait by spinning.

    Twenty-eight tests of evaluators took 95 CPU seconds with two threads on two busy cores, and 8 with one. What a test starts on two
    threads all the same (a stage fixes its own number, so that bytes repeat) sleeps while it waits; the variable is read when torch is
    loaded, so it acts in the workers and in all that they start.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)  # what is not selected is gone then
def pytest_collection_modifyitems(items):
    """One worker starts with a test that needs the finished pipeline, and makes it; the other first does all that do not need it.

    Of the rest, the modules that stay together come first, since they take longest.
    """

    def work(item) -> str:
        return item.path.stem if item.path.stem in TOGETHER else item.nodeid

    waiting = {work(item): item for item in reversed(items) if "finished" in item.fixturenames}
    first = next((item for name, item in reversed(waiting.items()) if name not in TOGETHER), None)
    items.sort(key=lambda item: (item is not first, work(item) in waiting, work(item) not in TOGETHER))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker takes one test after the other, in the order above, but all of a module that is in TOGETHER.

    What `--dist loadgroup` is for: that of xdist 3.8 sets an attribute that pytest 9 does not read, and so knows no groups.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return module if Path(module).stem in TOGETHER else nodeid

    return Scheduling(config, log)


def processor_seconds() -> float:
    """What this process and those that it has waited for have used."""
    return sum(os.times()[:4])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item):
    yield from _clocked(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    yield from _clocked(item)


def _clocked(item):
    """Note the CPU seconds of the phase with the test's report, which also comes out of a worker."""
    before = processor_seconds()
    yield
    item.user_properties.append(("cpu_seconds", processor_seconds() - before))


def pytest_terminal_summary(terminalreporter, config):
    """What the run cost and where; no test fails for being slow, since a busy machine would make it lie."""
    spent = {
        report.nodeid: sum(value for name, value in getattr(report, "user_properties", ()) if name == "cpu_seconds")
        for kind in ("passed", "failed", "error")
        for report in terminalreporter.stats.get(kind, ())
        if report.when != "teardown"
    }
    if not spent:
        return
    costly = sorted(spent.items(), key=lambda entry: -entry[1])
    above = [seconds for seconds in spent.values() if seconds > 1]
    terminalreporter.write_line(
        f"{len(spent)} tests took {sum(spent.values()):.0f} CPU seconds without collecting them; "
        f"{len(above)} took more than one each, {sum(above):.0f} together. The slowest:"
    )
    for nodeid, seconds in costly[:8]:
        terminalreporter.write_line(f"{seconds:8.1f} s  {nodeid}")


def run_node(node: str, *argv: str) -> None:
    """One stage, in this process, in the current folder: the same as `python -m stages.<node> ...`."""
    threads = torch.get_num_threads()
    try:
        command.run(importlib.import_module(f"stages.{node}.__main__").main, list(argv))
    finally:
        torch.set_num_threads(threads)  # a stage sets its own number, which the small products of later tests must not inherit


# a small training with few surprises: one table, which is also the head, starts at random
SIMPLE_TRAINING = {
    "model.tied_head": True,
    "train.techniques": {},
    "train.matrix_learning_rate": 0.04,
    "train.embedding_learning_rate": 0.02,
    "train.muon.momentum": 0.95,
    "train.learning_rate_floor": 0.1,
    "ema.average": "ema_0.98",
}


def tiny_params() -> dict:
    """params.yaml with the tiny recipe on top, smaller still, and with documents of its own."""
    tree = params.read(ROOT / "params.yaml")
    for path, value in yaml.safe_load((ROOT / "stages/recipes/tiny.yaml").read_text()).items():
        set_leaf(tree, path, value)
    for path, value in {
        **SIMPLE_TRAINING,
        "prepare.source": "local",
        "prepare.path": "documents",
        "prepare.val_fraction": 0.15,
        "prepare.holdout_fraction": 0.15,
        "vocabulary.path": "documents",
        "model.features": {},
        "memory.bytes": 2000,
        "package.blob": "compress/brotli_11",
        **{f"quantize.groups.{group}.method": "gptq" for group in ("embedding", "attention", "mlp", "projection")},
        "quantize.groups.table.method": "nearest",
        "package.evaluator": "sliding",
        "package.options": {"window": 64, "stride": 32, "batch": 32},
        "train.steps": 12,
        "train.holdout_every": 6,
        "train.threads": 1,
        "vocabulary.size": 384,
        "compress.runs": {run: tree["compress"]["runs"][run] for run in ("brotli_11", "zlib_9")},
    }.items():
        set_leaf(tree, path, value)
    del tree["evaluate"]["runs"]["memory"]  # tests of its own look at it
    tree["package"]["evaluators"].remove("memory")
    return tree


def set_leaf(tree: dict, path: str, value) -> None:
    *parents, leaf = path.split(".")
    for key in parents:
        tree = tree[key]
    assert leaf in tree, f"no such parameter: {path}"
    tree[leaf] = value


def write_documents(folder: Path, *, count: int = 48, size: int = 3000) -> None:
    """Real English with code in it: the beginnings of modules of networkx, whose version is pinned, so every Python has the same text."""
    folder.mkdir(parents=True)
    modules = sorted(Path(importlib.util.find_spec("networkx").origin).parent.glob("*/*.py"))
    for path in [path for path in modules if path.stat().st_size > size][:count]:
        (folder / f"{path.parent.name}_{path.stem}.txt").write_text(path.read_text(encoding="utf-8")[:size], encoding="utf-8")


def write_prepared(folder: Path, texts: list[str], *, split: str = "val") -> Path:
    """A prepared split of documents, as `prepare` leaves it."""
    folder.mkdir(parents=True)
    path = folder / corpus.DOCUMENTS
    path.write_bytes(b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in texts))
    files.write_json(
        folder / corpus.META,
        {
            "contents": "documents",
            "split": split,
            "documents": len(texts),
            "bytes": sum(len(text.encode()) for text in texts),
            "sha256": files.sha256(path),
        },
    )
    return folder


def write_lock(root: Path) -> None:
    """dvc.lock as DVC would write it for the nodes that have run in `root`: deps and outs with their MD5s, and a node's own section."""
    tree, stages = params.read(root / "params.yaml"), {}

    def items(paths):
        return [{"path": path, "md5": graph.md5(root / path)} for path in sorted(paths) if (root / path).exists()]

    for node, *variant in NODES:
        contract = stage.contract(importlib.import_module(f"stages.{node}.__main__").main, variant="".join(variant), tree=tree)
        outs = items({*contract.outputs, *contract.metrics, *contract.plots, contract.opened})
        if outs:
            own = {"params": {"params.yaml": {node: tree[node]}}} if node in tree and not variant else {}
            stages["@".join((node, *variant))] = {"deps": items(contract.inputs), **own, "outs": outs}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder in which the whole tiny pipeline has run, once for all workers. Read only: take `project` to change something."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with open(root.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait, and find it done
        if not root.with_suffix(".done").exists():
            shutil.rmtree(root, ignore_errors=True)
            run_pipeline(root)
            root.with_suffix(".done").touch()
    return root


def run_pipeline(root: Path) -> None:
    """The tiny pipeline from text to report in `root`, in this process."""
    write_documents(root / "documents")
    (root / "params.yaml").write_text(yaml.safe_dump(tiny_params(), sort_keys=False))
    before = Path.cwd()
    os.chdir(root)
    try:
        for node, *variant in NODES:
            if node == "evaluate" and variant == ["sliding"]:
                write_lock(root)
            run_node(node, *variant)
    finally:
        os.chdir(before)


@pytest.fixture
def project(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished folder, as the current folder: yours to break."""
    root = tmp_path / "project"
    shutil.copytree(finished, root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def tree(project):
    """Change leaves of the project's params.yaml: tree(**{"train.steps": 3})."""

    def change(leaves: dict) -> dict:
        values = yaml.safe_load((project / "params.yaml").read_text())
        for path, value in leaves.items():
            set_leaf(values, path, value)
        (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return values

    return change
