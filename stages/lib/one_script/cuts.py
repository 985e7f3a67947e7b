"""What a run without the pipeline around it does not do, or does in a shorter way: by module and function, each with the reason.

Functions get another body; statements of functions go. What is cut away shows something, or guards against what cannot be here; the test
that the script makes the pipeline's blob to the bit is what holds this list to that.
"""

import ast
import re
from pathlib import Path

from stages.lib import closure
from stages.lib.one_script import settled, settled_artifact

RESUMING = "a run is one process: what was killed begins again"
SHOWING = "measurements, tables and curves for the report"
READING = "the blob was written a moment ago by the same program"
CHECKED = "options were checked when the script was made"

FUNCTIONS = {
    RESUMING: {
        ("stages.lib.stage", "atomic"): "@contextlib.contextmanager\ndef atomic(path):\n"
                                        "    path.parent.mkdir(parents=True, exist_ok=True)\n    yield path",
        ("stages.lib.scratch", "Folder.locked"): "def locked(self): return contextlib.nullcontext()",
        ("stages.lib.opened", "report"): "def report(path): pass",
        ("stages.train.loop", "checkpoint"): "def checkpoint(run, batches, world, folder): pass",
        ("stages.lib.launch", "relaunch"): "def relaunch(*_): pass",
        ("stages.lib.launch", "require_same"): "def require_same(*_): pass",
    },
    SHOWING: {
        ("stages.train.loop", "hardware_of"): "def hardware_of(model, settings, world): pass",
        ("stages.quantize.table", "csv"): "def csv(found): return ''",
    },
    READING: {
        ("stages.runtime.program", "call"): "def call(command, *, folder, **_): subprocess.run(command, cwd=folder, check=True)",
        ("stages.runtime.header", "_inflate"): "def _inflate(text): return zlib.decompress(text)",
        ("stages.runtime.header", "_json"): "def _json(text): return json.loads(text)",
        ("stages.runtime.header", "_check_together"): "def _check_together(*_): pass",
        ("stages.runtime.header", "_section"): "def _section(values):\n    how, filters, tensors, size, sha256 = values\n"
                                               "    return Section(how, filters, [Entry(*entry) for entry in tensors], size, sha256)",
    },
    CHECKED: {
        ("stages.runtime.codecs", "MissingProgram.__init__"): "def __init__(self, name, **_): super().__init__(name)",
        ("stages.runtime.model.backends", "choose"): """
def choose(name, *, generation, dtype, head_width, packed, installed):
    def runs(backend):
        return backend not in RUNS_ON or (generation in RUNS_ON[backend] and dtype in (torch.bfloat16, torch.float16)
                                          and head_width % 8 == 0 and head_width <= 256 and backend in installed)
    if name == 'auto':
        wanted = (backend for backend, best in AUTO.items() if generation in best and (packed or backend != 'varlen'))
        return next((backend for backend in wanted if runs(backend)), 'sdpa')
    return name
""",
        ("stages.runtime.features", "_build"): "def _build(name, config): return plugin.load('features', name).Feature(config, "
                                               "**config.features[name])",
        ("stages.lib.quant.quantized", "Quantized.__post_init__"): "def _checked(self): pass",
        ("stages.lib.data.loaders.base", "Loader._too_short"): "def _too_short(self, needed, leaf): return ValueError()",
    },
}
STATEMENTS = {
    RESUMING: {
        ("stages.train.__main__", "main"): (r"if \(saved", r"folder = ", r"folder\.(drop|remove)", r"if world\.is_main:\n    folder\.drop"),
        ("stages.train.loop", "train"): (r"saved =", r"if not last and"),
    },
    SHOWING: {
        ("stages.train.__main__", "main"): (r"_write_curve", r"stage\.write_json\(metrics", r"chosen =",
                                            r"with torch\.device\('meta'\)", r"text, holdout ="),
        ("stages.train.loop", "train"): (r"started, pace", r"per_token =", r"run\.flops", r"run\.times", r"if last or run\.step", r"pace\.",
                                         r"speed =", r"recurrence =", r"if recurrence"),
        ("stages.train.loop", "_prepare"): (r"before =", r"if run\.step"),
        ("stages.ema.__main__", "main"): (r"reference, _", r"distance", r"norm", r"stage\.write", r"_write\("),
        ("stages.calibrate.__main__", "main"): (r"stage\.write_json\(metrics",),
        ("stages.allocate.__main__", "main"): (r"stage\.write_json\(metrics",),
        ("stages.prequant_ttt.__main__", "main"): (r"stage\.write_json\(metrics",),
        ("stages.quantize.__main__", "main"): (r"found =", r"with stage\.atomic\(rows", r"summary =", r"stage\.write_json\(metrics",
                                               r"if settings\.entropy\.target_bytes"),
    },
}
SHORTER = {  # statements of which a part stays
    "started, pace": "started = time.perf_counter()",
    "folder = ": "folder = checkpoints.Folder(scratch)",
    "text, holdout =": "text, holdout = tokens.read(train_tokens, 'train'), None",
}


def sources(tree: dict, groups: set[str]) -> dict[str, str]:
    """The changed modules, by name; `tree` is params.yaml, parsed, `groups` those of the quantizer's groups that have a matrix."""
    run = settled.Settled()
    for part in (settled.model, settled.training, settled.averaging, settled_artifact.text, settled_artifact.blob, settled_artifact.score):
        part(tree, run)
    for part in (settled_artifact.calibration, settled_artifact.quantizer):
        part(tree, groups, run)
    functions = {where: source for part in FUNCTIONS.values() for where, source in part.items()} | run.functions
    statements: dict[tuple[str, str], list[str]] = {}
    for part in (*STATEMENTS.values(), run.statements):
        for where, patterns in part.items():
            statements.setdefault(where, []).extend(patterns)
    parsed = {}
    for module, name in dict.fromkeys((*statements, *functions)):  # statements first: their function may lie in a class
        if module not in parsed:
            parsed[module] = ast.parse(_path(module).read_text(encoding="utf-8"))
        found, number, owner = _find(parsed[module], name.split("."))
        if (module, name) in functions:
            owner.body[number] = ast.parse(functions[module, name]).body[0]
        else:
            _Without(statements[module, name], SHORTER | run.shorter).visit(found)
    return {module: ast.unparse(ast.fix_missing_locations(content)) for module, content in parsed.items()}


class _Without(ast.NodeTransformer):
    """Drops statements whose source begins with one of the patterns."""

    def __init__(self, patterns: list[str], shorter: dict[str, str]):
        self.pattern, self.shorter = re.compile("|".join(patterns)), shorter

    def visit(self, node: ast.AST) -> ast.AST | None:
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef) and self.pattern.match(ast.unparse(node)):
            source = ast.unparse(node)
            return next((ast.parse(new).body[0] for begin, new in self.shorter.items() if source.startswith(begin)), None)
        node = self.generic_visit(node)
        if isinstance(getattr(node, "body", None), list) and not node.body:
            node.body = [ast.Pass()]
        return node


def _find(tree: ast.AST, path: list[str]) -> tuple[ast.stmt, int, ast.AST]:
    """A function, class or constant of a module, its place, and what it stands in."""
    for number, node in enumerate(tree.body):
        name = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else ast.unparse(node.targets[0]) if isinstance(
            node, ast.Assign) else ""
        if name == path[0]:
            return (node, number, tree) if len(path) == 1 else _find(node, path[1:])
    raise AssertionError(f"nothing is called {path[0]}; correct stages/lib/one_script/cuts.py")


def _path(module: str) -> Path:
    base = closure.ROOT.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
