"""Rehearse a recipe at its published sizes on this machine: every node of the pipeline runs with hardly any work, and is measured.

    python benchmarks/rehearse.py pr1855                     prints seconds, CPU seconds, memory and bytes of each node
    python benchmarks/rehearse.py pr1855 --write             and keeps them for `python -m stages.recipes --document`
    python benchmarks/rehearse.py pr1855 --text FILE         on this text instead of the built-in one: a file or folder, as for prepare.path
    python benchmarks/rehearse.py pr1855 --tokenizer MODEL   with a published tokenizer instead of one that is trained on that text

stages/recipes/rehearsal.py says what is cut. The nodes run one after the other, each by `dvc repro --single-item`, in a copy of this
working tree under scratch/rehearse/. A rehearsal that was killed continues there with the code that it began with; --anew starts again.

The memory of a node is the largest sum over its processes that was seen, where a page that several of them share counts once; it is looked
at twenty times a second at first, then twice. CPU seconds include those of DVC, about two.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(Path(__file__).parent):  # a script: its folder's modules could hide others
    sys.path[0] = str(ROOT)

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import psutil
import yaml

from benchmarks.default_run import hardware
from benchmarks.recipes import copy_tree
from stages.lib.node import files, params

KEPT = ROOT / "docs/rehearsals.json"
SECONDS_BETWEEN = 0.5
SHORT_NODE = 10.0  # seconds: the processes of a shorter node live for a second, and all of them are to be seen
TEXT_BYTES = 10_000_000
DOCUMENT_BYTES = 3_000  # the contest's val split has 151,080,891 bytes in 50,000 documents
VARIABLES = {"DVC_NO_ANALYTICS": "1", "PYTHONUTF8": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin are slow on busy cores


@dataclass(frozen=True)
class Cost:
    """What one node took: seconds on the clock, seconds of all cores, the most memory at a time, and bytes of its outputs."""

    node: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output_bytes: int = 0


def measured(node: str, command: list[str], folder: Path) -> Cost:
    """Run `command` in `folder` and measure what it starts, and its own seconds. SystemExit with its output if it fails."""
    said = folder / "said.txt"
    started = time.monotonic()
    with open(said, "wb") as output:
        process = psutil.Popen(command, cwd=folder, env=_environment(folder), stdout=output, stderr=subprocess.STDOUT)
        peak, found = 0, (0,)
        try:
            while (found := os.wait4(process.pid, os.WNOHANG))[0] == 0:
                peak = max(peak, memory(process))
                time.sleep(SECONDS_BETWEEN if time.monotonic() - started > SHORT_NODE else SECONDS_BETWEEN / 10)
        finally:
            if not found[0]:  # interrupted: nothing goes on that nobody measures
                for child in [*process.children(recursive=True), process]:
                    child.terminate()
    seconds, used = time.monotonic() - started, found[2]
    if os.waitstatus_to_exitcode(found[1]):
        raise SystemExit(f"{node} failed in {folder}:\n{said.read_text(errors='replace')}")
    return Cost(node, round(seconds, 1), round(used.ru_utime + used.ru_stime, 1), peak)


def memory(process: psutil.Process) -> int:
    """Bytes of memory of all processes below `process`; pages that they share count once where the system tells (PSS)."""
    total = 0
    for child in process.children(recursive=True):
        try:
            found = child.memory_full_info()
            total += getattr(found, "pss", found.rss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has ended meanwhile
    return total


def _environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | VARIABLES | {"PYTHONPATH": str(folder), "PATH": path}


def nodes(folder: Path) -> list[str]:
    """All nodes of the pipeline in `folder`, in the order of dvc.yaml, which is that in which they run."""
    stages, tree = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"], params.read(folder / "params.yaml")
    out = []
    for name, body in stages.items():
        variants = body.get("foreach")
        if isinstance(variants, str):
            variants = params.lookup(tree, variants.strip("${}"))
        out += [name] if variants is None else [f"{name}@{variant}" for variant in variants]
    return out


def run(folder: Path, wanted: list[str] | None = None) -> list[Cost]:
    """Run and measure the nodes of the project in `folder`, or those of `wanted`; continues after the last that is in costs.json."""
    kept = folder / "costs.json"
    costs = [Cost(**cost) for cost in json.loads(kept.read_text())] if kept.is_file() else []
    for node in nodes(folder) if wanted is None else wanted:
        if node in {cost.node for cost in costs}:
            continue
        found = measured(node, ["dvc", "repro", "--single-item", node], folder)
        lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
        size = sum(out.get("size", 0) for out in lock[node]["outs"])
        costs.append(Cost(**asdict(found) | {"output_bytes": size}))
        with files.atomic(kept) as partial:
            partial.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))
        print(line(costs[-1]), flush=True)
    return costs


def line(cost: Cost) -> str:
    return (
        f"{cost.node:28} {cost.seconds:8.1f} s {cost.cpu_seconds:8.1f} CPU s {cost.peak_bytes / 1e6:9,.0f} MB memory "
        f"{cost.output_bytes:14,} bytes"
    )


def documents(text: Path | None) -> Iterator[str]:
    """Texts of the file or folder `text`, or of the built-in corpus."""
    from stages.prepare import __main__ as prepare
    from stages.prepare import local

    found = prepare.read_builtin() if text is None else local.documents(text)
    yield from (document.text for document in found)


def write_text(path: Path, texts: Iterator[str], *, num_bytes: int = TEXT_BYTES, document_bytes: int = DOCUMENT_BYTES) -> int:
    """Write about `num_bytes` of text as JSON lines, cut at line ends into documents of at most `document_bytes`; returns the bytes. Longer
    lines are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    used = 0
    with open(path, "w", encoding="utf-8") as handle:
        for document in (document for text in texts for document in cut(text, document_bytes)):
            if used >= num_bytes:
                break
            handle.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            used += len(document.encode())
    return used


def cut(text: str, document_bytes: int) -> Iterator[str]:
    """The text at line ends in pieces of at most `document_bytes`; the last piece is left out where it is shorter than half of that."""
    piece, size = [], 0
    for line in text.splitlines(keepends=True):
        length = len(line.encode())
        if size + length > document_bytes and piece:
            yield "".join(piece)
            piece, size = [], 0
        if length <= document_bytes:
            piece.append(line)
            size += length
    if size >= document_bytes / 2:
        yield "".join(piece)


def rehearse(name: str, folder: Path, *, text: Path | None = None, tokenizer: Path | None = None) -> dict:
    """The record of a rehearsal of the recipe `name` in `folder`, as it is kept in docs/rehearsals.json."""
    from stages.recipes import catalog, rehearsal

    if not (folder / "params.yaml").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        copy_tree(folder)
        write_text(folder / rehearsal.TEXT, documents(text))
        tree = params.read(folder / "params.yaml")
        found = catalog.values(name, tree)
        found |= rehearsal.values(catalog.applied(found, tree), tokenizer=None if tokenizer is None else str(tokenizer.resolve()))
        catalog.apply(found, folder / "params.yaml")
    costs = run(folder)
    return {"hardware": hardware(), "nodes": [asdict(cost) for cost in costs], **facts(folder)}


def facts(folder: Path) -> dict:
    """What the rehearsal worked on, from the metrics of its nodes: what the projection of stages/recipes/projection.py starts from."""
    tree, found = params.read(folder / "params.yaml"), folder / "artifacts"
    val, vocabulary = (json.loads((found / path).read_text()) for path in ("tokenize/val/meta.json", "vocabulary/metrics.json"))
    if vocabulary["vocabulary_size"] != tree["vocabulary"]["size"]:
        raise SystemExit(
            f"the text gives only {vocabulary['vocabulary_size']} of {tree['vocabulary']['size']} pieces, so the sizes are not those "
            "published; give more text with --text, or a tokenizer with --tokenizer"
        )
    package = json.loads((found / "package/metrics.json").read_text())
    coded = json.loads((found / f"compress/{package['compress_run']}/metrics.json").read_text())
    return {
        "val_tokens": val["tokens"],
        "val_bytes": val["bytes"],
        "train_tokens": tree["train"]["steps"] * tree["train"]["batch_tokens"],
        "decode_seconds": coded["decode_seconds"],
        "package": {key: package[key] for key in ("artifact_bytes", "code_bytes", "model_bytes", "pyz_bytes", "cap_bytes", "size")},
        "runs": {
            run: {
                "evaluate_seconds": json.loads((found / f"evaluate/{run}/metrics.json").read_text())["seconds"],
                "verdict": (certificate := json.loads((found / f"audit/{run}/certificate.json").read_text()))["verdict"],
                "failed": [check for check, result in certificate["checks"].items() if result["verdict"] == "fail"],
            }
            for run in tree["evaluate"]["runs"]
        },
    }


def main() -> None:
    from stages.recipes import catalog

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=catalog.stacks(), metavar="NAME", help="a stack of stages/recipes")
    parser.add_argument("--text", type=Path, help="a file or folder of documents (default: the built-in text)")
    parser.add_argument("--tokenizer", type=Path, help="a .model file of the published vocabulary (default: one is trained on the text)")
    parser.add_argument("--anew", action="store_true", help="do not continue an earlier rehearsal")
    parser.add_argument("--write", action="store_true", help="keep the measurements in docs/rehearsals.json")
    chosen = parser.parse_args()
    folder = ROOT / "scratch/rehearse" / chosen.name
    if chosen.anew:
        shutil.rmtree(folder, ignore_errors=True)
    found = rehearse(chosen.name, folder, text=chosen.text, tokenizer=chosen.tokenizer)
    print(found["package"]["size"] + "; " + "; ".join(f"{run} {row['verdict']}" for run, row in found["runs"].items()))
    if chosen.write:
        kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
        files.write_json(KEPT, dict(sorted((kept | {chosen.name: found}).items())))


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/rehearse.py"):
        main()
