"""The one script of a run: which modules it contains, and how they are packed into few bytes.

The modules are the pipeline's own, each minified separately. Only the stages, features, loader, quantizer methods, codec and evaluator that
the settings name are packed. Nothing is rewritten, so the script runs the same code as the pipeline.
"""

import ast
import base64
import json
import lzma
import re
import zlib
from collections import Counter

import brotli

from stages.lib.blob import bundle, counted
from stages.lib.blob.grouping import Run
from stages.lib.node import closure, params
from stages.runtime.base import plugin

LOADERS = "stages.lib.tokens.loaders"
METHODS = "stages.lib.quant.methods"
TECHNIQUES = "stages.train.techniques"
STAGES = ("train", "ema", "prequant_ttt", "calibrate", "sensitivity", "memory", "fill_cap", "quantize")
READS_ARGUMENTS = re.compile(r"__main__\.py$|/features/")  # modules whose argument annotations are read at run time
# imported only when a stage is started as a command or writes metrics, neither of which happens in the script
NOT_PACKED = (
    "stages/lib/node/command.py",
    "stages/lib/node/room.py",
    "stages/quantize/reporting.py",
    "stages/train/reporting.py",
    "stages/train/adoption.py",
    "stages/train/live.py",
    "stages/train/published.py",
)
SWITCHED = {  # imported only if this leaf of quantize is not 0 or empty
    "stages/lib/quant/rotation.py": ("rotation", "groups"),
    "stages/lib/quant/prune.py": ("prune", "codes"),
    "stages/lib/quant/low_rank.py": ("low_rank", "matrices"),
    "stages/lib/quant/tuning.py": ("tuning", "steps"),
}
START = """import base64,json,os,pathlib,sys,time
import {codec}
F=pathlib.Path(f"run-{{os.getppid()if'TORCHELASTIC_RUN_ID'in os.environ else os.getpid()}}").absolute()
if'0'==os.environ.get('RANK','0'):
	for n,s in json.loads({codec}.decompress(base64.b85decode({data!r}))).items():
		p=F/'code'/n;p.parent.mkdir(parents=1,exist_ok=1);p.write_text(s,'utf-8')
	(F/'unpacked').touch()
while not(F/'unpacked').exists():time.sleep(.01)
sys.path.insert(0,str(F/'code'))
from stages.script.driver import main
main(F,pathlib.Path(__file__))
"""


def contents(tree: dict) -> dict[str, str]:
    """What the script unpacks, by path: the modules, and run.json. ValueError for an unsuitable `tree` (params.yaml, parsed)."""
    sources = {path: (closure.ROOT / path).read_text(encoding="utf-8") for path in modules(tree)}
    used_in = Counter(word for source in sources.values() for word in words(source))
    shared = frozenset(word for word, count in used_in.items() if count > 1)
    packed = {"run.json": json.dumps(plan(tree))}
    for path, source in sources.items():
        packed[path] = bundle.shortened(source, shared=shared, arguments=not READS_ARGUMENTS.search(path))
    return packed


def words(source: str) -> set[str]:
    """Every word of a program, but not of its comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return set(re.findall(r"\w+", ast.unparse(tree)))


def wrapped(packed: dict[str, str]) -> str:
    """A script that unpacks the modules and starts the driver. Compressed by brotli or LZMA, whichever is shorter."""
    data = json.dumps(packed, ensure_ascii=False, separators=(",", ":")).encode()
    coded = {"brotli": brotli.compress(data, quality=11, lgwin=24), "lzma": lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)}
    codec = min(coded, key=lambda name: len(coded[name]))
    return START.format(codec=codec, data=base64.b85encode(coded[codec]).decode())


def most_bytes(tree: dict) -> int:
    """A quick upper limit of the script's bytes: its modules as they are, with their comments, under a weaker compression."""
    sources = "".join((closure.ROOT / path).read_text(encoding="utf-8") for path in modules(tree)) + json.dumps(plan(tree))
    return len(base64.b85encode(zlib.compress(sources.encode(), 9))) + len(START)


def modules(tree: dict) -> list[str]:
    """Paths of the modules in the script: what the stages, their plug-ins and the driver import."""
    names = ["stages.script.driver", *(f"stages.{node}.__main__" for node in dict(stages(tree))), *plugins(tree)]
    left_out = [*NOT_PACKED, *(path for path, (part, leaf) in SWITCHED.items() if not tree["quantize"][part][leaf])]
    return [path for path in (str(path.relative_to(closure.ROOT)) for path in closure.paths(*names)) if path not in left_out]


def plan(tree: dict) -> dict:
    """What the driver runs: stages, their parameters (without candidates for comparison), and the outputs of stages that are off."""
    run, off = stages(tree), {}
    if ("memory", None) not in run:
        off["artifacts/memory/metrics.json"] = {"memory_bytes": 0}
    if ("fill_cap", None) not in run:
        off["artifacts/fill_cap/target.json"] = {"target_bytes": None}
    if ("sensitivity", None) not in run:
        off["artifacts/sensitivity/multipliers.json"] = {"multipliers": {}}
    sections = {name: section for name, section in tree.items() if name in dict(run) or name == "model"}
    sections["train"] = tree["train"] | {"adopt": dict.fromkeys(tree["train"]["adopt"])}  # the script trains
    sections["compress"] = {"runs": {name: tree["compress"]["runs"][name] for node, name in run if node == "compress"}}
    if ("fill_cap", None) in run:
        sections["package"] = tree["package"]
    sections["ema"] = tree["ema"] | ({} if tree["ema"]["average"] == "best" else {"candidates": []})
    return {
        "stages": run,
        "params": sections,
        "files": off,
        "evaluator": tree["package"]["evaluator"],
        "options": tree["package"]["options"],
    }


def stages(tree: dict) -> list[tuple[str, str | None]]:
    """The stages in order, each with its variant, without those that are off."""
    runs = counted.shipped(tree["package"]["blob"], tree["compress"]["runs"])
    on = {
        "fill_cap": tree["quantize"]["entropy"]["target_bytes"] == "auto",
        "memory": tree["memory"]["bytes"] > 0,
        "sensitivity": tree["sensitivity"]["enabled"] or tree["sensitivity"]["start"] != "ones",
    }
    run = [node for node in STAGES if on.get(node, tree.get(node, {}).get("enabled", True))]
    return [*((node, None) for node in run), *(("compress", name) for name in runs)]


def plugins(tree: dict) -> list[str]:
    """The modules that are loaded by name."""
    methods = {part["method"] for part in (*tree["quantize"]["groups"].values(), *tree["quantize"]["overrides"]) if "method" in part}
    named = [f"features/{name}" for name in tree["model"]["features"]] + [f"evaluators/{tree['package']['evaluator']}"]
    for chosen in (params.section(tree, Run, variant=name) for node, name in stages(tree) if node == "compress"):
        named += [*chosen.plugins(), *(f"filters/{filter}" for group in chosen.groups.values() for filter, _ in group.filters)]
    own = [f"{LOADERS}.{tree['train']['loader']}", *(f"{TECHNIQUES}.{name}" for name in sorted(tree["train"]["techniques"]))]
    own += [*(f"{METHODS}.{name}" for name in sorted(methods - {"none"}))]
    shipped = [f"{plugin.package(kind)}.{name}" for kind, name in (how.split("/") for how in named)]
    return [*own, *shipped, *map(plugin.package, ("codecs", "coders", "filters"))]
