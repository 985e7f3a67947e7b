"""What a run without the pipeline around it does in another way, by module and function: the new source, and why."""

import ast

from stages.lib import closure

SCRATCH = "the whole run is one process: what was killed begins again"
METERS = "how well the hardware is used is measured by the pipeline"
TABLES = "tables and curves for the report"
ALONE = "nobody reads what is half written, and nothing is left to a successor"
WRITTEN = "the blob was written a moment ago"
CUTS = {
    ("stages.lib.stage", "atomic"): ("""
@contextlib.contextmanager
def atomic(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
""", ALONE),
    ("stages.lib.scratch", "Folder.locked"): ("""
@contextlib.contextmanager
def locked(self):
    self.path.mkdir(parents=True, exist_ok=True)
    yield
""", ALONE),
    ("stages.lib.scratch", "Folder.remove"): ("def remove(self): pass", ALONE),
    ("stages.lib.checkpoints", "Folder.drop_snapshots_after"): ("def drop_snapshots_after(self, step): pass", SCRATCH),
    ("stages.lib.launch", "relaunch"): ("def relaunch(*_): pass", "torchrun started all processes"),
    ("stages.lib.launch", "require_same"): ("def require_same(*_): pass", SCRATCH),
    ("stages.lib.schedule", "record"): ("def record(times, events): pass", "the clock of a run is recorded by the pipeline"),
    ("stages.runtime.header", "_inflate"): ("def _inflate(text): return zlib.decompress(text)", WRITTEN),
    ("stages.runtime.header", "_json"): ("def _json(text): return json.loads(text)", WRITTEN),
    ("stages.runtime.header", "_section"): ("""
def _section(values):
    how, filters, tensors, size, sha256 = values
    return Section(how, filters, [Entry(*entry) for entry in tensors], size, sha256)
""", WRITTEN),
    ("stages.runtime.dequantize", "check"): ("def check(*_): pass", WRITTEN),
    ("stages.train.__main__", "_key"): ("def _key(*_): return 'run'", SCRATCH),
    ("stages.train.__main__", "_write_curve"): ("def _write_curve(*_): pass", TABLES),
    ("stages.lib.checkpoints", "Folder.latest"): ("def latest(self): return None", SCRATCH),
    ("stages.train.loop", "hardware_of"): ("def hardware_of(model, settings, world): return Hardware(0, 0, 1.0)", METERS),
    ("stages.train.loop", "checkpoint"): ("def checkpoint(run, batches, world, folder): pass", SCRATCH),
    ("stages.quantize.table", "rows"): ("def rows(result, state, hessians): return []", TABLES),
    ("stages.quantize.table", "csv"): ("def csv(found): return ''", TABLES),
    ("stages.quantize.table", "summary"): ("def summary(found): return {}", TABLES),
    ("stages.compress.__main__", "describe"): ("def describe(settings): return {}", TABLES),
    ("stages.compress.__main__", "coded_bytes"): ("def coded_bytes(blob, codings): return {}", TABLES),
    ("stages.lib.payload", "sizes"): ("def sizes(model): return {'weights': 1}", TABLES),
    ("stages.runtime.header", "_check_together"): ("def _check_together(*_): pass", WRITTEN),
    ("stages.ema.__main__", "_write"): ("def _write(*_): pass", TABLES),
    ("stages.runtime.features", "_build"): (
        "def _build(name, config): return plugin.load('features', name).Feature(config, **config.features[name])", "options were checked"),
}


def sources(tree: dict) -> dict[str, str]:
    """The changed modules, by name."""
    found = {}
    for module in {module for module, _ in CUTS}:
        path = closure.ROOT.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        parsed = ast.parse(path.read_text(encoding="utf-8"))
        for (where, name), (source, _) in CUTS.items():
            if where == module:
                _replace(parsed, name.split("."), ast.parse(source).body[0])
        found[module] = ast.unparse(parsed)
    return found


def _replace(tree: ast.Module | ast.ClassDef, path: list[str], new: ast.stmt) -> None:
    for number, node in enumerate(tree.body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == path[0]:
            if len(path) == 1:
                tree.body[number] = new
            else:
                _replace(node, path[1:], new)
            return
    raise AssertionError(f"nothing is called {path[0]}")
