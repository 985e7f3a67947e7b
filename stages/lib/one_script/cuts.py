"""What a run without the pipeline around it does not do, or does in a shorter way: by module and function, each with the reason.

Functions get another body; statements of functions go. What is cut away shows something, or guards against what cannot be here; the test
that the script makes the pipeline's blob to the bit is what holds this list to that.
"""

import ast
import re
from pathlib import Path

from stages.lib import closure

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
    "stage.write_json(metrics, _metrics": "stage.write_json(metrics, {'steps': run.step, 'train_seconds': run.seconds})",
}


def sources(tree: dict) -> dict[str, str]:
    """The changed modules, by name; `tree` is params.yaml, parsed."""
    functions = {where: source for part in FUNCTIONS.values() for where, source in part.items()}
    functions |= _of_this_run(tree)
    statements: dict[tuple[str, str], list[str]] = {}
    for part in STATEMENTS.values():
        for where, patterns in part.items():
            statements.setdefault(where, []).extend(patterns)
    if tree["ema"]["average"] != "best":
        statements["stages.ema.__main__", "main"] += [r"rows, split", r"with launch\.world", r"if name == 'best'"]
    if not tree["train"]["averages"]["power"]:
        statements["stages.train.__main__", "main"].append(r"with stage\.atomic\(snapshots")
    parsed = {}
    for module, name in (*functions, *statements):
        if module not in parsed:
            parsed[module] = ast.parse(_path(module).read_text(encoding="utf-8"))
        found, number, owner = _find(parsed[module], name.split("."))
        if (module, name) in functions:
            owner.body[number] = ast.parse(functions[module, name]).body[0]
        else:
            _Without(statements[module, name]).visit(found)
    return {module: ast.unparse(ast.fix_missing_locations(content)) for module, content in parsed.items()}


def _of_this_run(tree: dict) -> dict[tuple[str, str], str]:
    """What is short because the settings leave most of it off."""
    found = {}
    train, average = tree["train"], tree["ema"]["average"]
    if train["qat"]["form"] == "none":
        found["stages.train.qat", "Rounding"] = (
            "class Rounding:\n    started_at = None\n    layers = ()\n    def __init__(self, *_): pass\n"
            "    def progress(self, *_): pass\n    def active(self): return contextlib.nullcontext()")
    if average != "best" and not average.startswith("posthoc_"):
        found["stages.ema.__main__", "Choice.weights"] = "def weights(self, name): return tensors.load(self.tracked[name])[0], 0.0"
    if not (train["averages"]["swa_every"] or train["averages"]["lawa_every"] or train["averages"]["power"]):
        found["stages.lib.averages", "Averages.finished"] = "def finished(self): return self.tensors"
        found["stages.lib.averages", "Averages.facts"] = "def facts(self): pass"
        found["stages.lib.averages", "Averages.restore"] = (
            "@torch.no_grad()\ndef restore(self, saved, facts):\n    for average, weights in self.tensors.items():\n"
            "        for key, tensor in weights.items():\n            tensor.copy_(saved[f'{average}/{key}'])")
        found["stages.lib.averages", "Averages.state"] = (
            "def state(self): return {f'{average}/{key}': tensor for average, weights in self.tensors.items() "
            "for key, tensor in weights.items()}")
        found["stages.lib.averages", "Averages.update"] = (
            "@torch.no_grad()\ndef update(self, step, scale):\n"
            "    weights = [weight.detach().float() for weight in self.parameters.values()]\n"
            "    for average, decay in self.decays.items():\n"
            "        torch._foreach_lerp_(list(self.tensors[average].values()), weights, 1 - decay)")
    if tree["package"]["blob"] != "smallest":  # which compares what the metrics say
        found["stages.compress.__main__", "main"] = (
            "def main(run: Variant, settings: Run, *, model: Input = 'artifacts/quantize/model.safetensors', "
            "blob: Output = 'artifacts/compress/{variant}/model.blob'):\n    quantized = settings.reordered(payload.read(model)[0])\n"
            "    with stage.atomic(blob) as partial:\n"
            "        partial.write_bytes(container.pack(quantized, list(settings.codings(quantized).values())))")
    if tree["calibrate"]["source"] != "self":
        found["stages.calibrate.own_text", "write"] = "def write(*_, **__): pass"
    return found


class _Without(ast.NodeTransformer):
    """Drops statements whose source begins with one of the patterns."""

    def __init__(self, patterns: list[str]):
        self.pattern = re.compile("|".join(patterns))

    def visit(self, node: ast.AST) -> ast.AST | None:
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef) and self.pattern.match(ast.unparse(node)):
            source = ast.unparse(node)
            return next((ast.parse(new).body[0] for begin, new in SHORTER.items() if source.startswith(begin)), None)
        node = self.generic_visit(node)
        if isinstance(getattr(node, "body", None), list) and not node.body:
            node.body = [ast.Pass()]
        return node


def _find(tree: ast.AST, path: list[str]) -> tuple[ast.stmt, int, ast.AST]:
    """A function or class of a module, its place, and what it stands in."""
    for number, node in enumerate(tree.body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == path[0]:
            return (node, number, tree) if len(path) == 1 else _find(node, path[1:])
    raise AssertionError(f"nothing is called {path[0]}; correct stages/lib/one_script/cuts.py")


def _path(module: str) -> Path:
    base = closure.ROOT.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
