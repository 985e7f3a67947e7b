"""Size a recipe from a text, this machine, bytes and hours: look, measure, choose, print with reasons, and write the recipe file."""

import argparse
import json
import math
import re
import sys
import tempfile
from pathlib import Path

import yaml

from stages.lib.node import files
from stages.lib.node.params import require
from stages.recipes import catalog
from stages.recipes.dial import context, hardware, pilot, plan, reasons, rules, text

CONTEST = "fineweb"  # in place of a path: the token shards of the contest, which prepare downloads
UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}


def run(asked: argparse.Namespace, tree: dict) -> int:
    """Print the plan and write the recipe; returns the exit code. ValueError for what cannot be sized."""
    require(asked.name is None, f"--for sizes a recipe of your own, and {asked.name} is one that exists; leave one of them out")
    require(asked.hours is not None and 0 < asked.hours < math.inf, "--for needs the hours of training, such as --hours 1")
    require(asked.gpus in (None, 0, 1, 2, 4, 8), f"--gpus is {asked.gpus}; give 1, 2, 4 or 8, between which batches divide, or 0")
    require(
        asked.context is None or (asked.context >= 32 and asked.context.bit_count() == 1),
        f"--context is {asked.context}; give a power of two, 32 or more, because a batch is one and holds whole rows",
    )
    is_contests = asked.text == Path(CONTEST) and not asked.text.exists()
    wanted = plan.Asked(in_bytes(asked.cap), asked.hours, asked.context, text.FINEWEB_VOCABULARY if is_contests else None)
    name = asked.save or default_name(asked)
    place = catalog.FOLDER / f"{name}.yaml"
    require(bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*", name)), f"--save {name!r} is no name of a file; use letters, digits, _, . and -")
    require(
        not place.exists() or (asked.overwrite and catalog.is_sized(name)),
        f"there is a recipe {name} already; save this one as another with --save NAME"
        + (", or replace it with --overwrite" if catalog.is_sized(name) else ""),
    )
    source = {"prepare.source": "builtin"}
    if is_contests:
        shards = catalog.values("naive", tree)
        source = {path: value for path, value in shards.items() if path.split(".")[0] in ("prepare", "vocabulary")}
    elif asked.text is not None:
        source = {"prepare.source": "local", "prepare.path": str(asked.text), "prepare.split": "hash"}
    say("reading the text")
    found = text.FINEWEB if is_contests else text.look(asked.text)
    require(
        found.documents >= plan.FEWEST_DOCUMENTS,
        f"{asked.text} has {found.documents} documents, and whole documents are kept for val and holdout; cut it into "
        f"{plan.FEWEST_DOCUMENTS} or more, such as chapters: a line of a .jsonl file or a .txt file is one",
    )
    say("measuring the machine")
    machine = hardware.found(asked.gpus, asked.card)
    tried = pilot.Trained(**rules.read().fineweb) if is_contests else tried_on(source, tree)
    chosen = plan.make(found, source, machine, tried, wanted)
    words = reasons.told(chosen, found, machine, tried, wanted)
    print(words)
    write(place, chosen, words, asked)
    print(f"\nwritten: stages/recipes/{name}.yaml; run it with: make recipe NAME={name}")
    return 0


def tried_on(source: dict, tree: dict) -> pilot.Trained:
    """The pilot on documents that are drawn from the whole text; on all of the built-in one."""
    say(f"training a pilot on {pilot.MOST_BYTES / 1e6:g} MB of the text, two minutes at most")
    with tempfile.TemporaryDirectory(prefix="caddie-pilot-") as folder:
        documents = []
        if source["prepare.source"] == "local":
            part, documents = Path(folder) / "part.jsonl", text.drawn(Path(source["prepare.path"]), pilot.MOST_BYTES, pilot.PIECES)
            lines = (json.dumps({"text": document}) for document in documents)
            part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            source = source | {"prepare.path": str(part)}
        small = catalog.applied(source | pilot.values(len(documents) or pilot.MOST_BYTES), tree)
        return pilot.trained(Path(folder), pilot.tokenized(Path(folder), small), small, is_pilot=True)


def say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


def in_bytes(words: str) -> int:
    """16MB, 500kB or a number of bytes, in decimal units as the contest counts. ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMG]?B?)", words)
    require(
        match is not None and match[2].upper() in UNITS, f"--for {words!r} is no number of bytes; write it like 16MB, 500kB or 16000000"
    )
    return round(float(match[1]) * UNITS[match[2].upper()])


def default_name(asked: argparse.Namespace) -> str:
    """By what was asked for."""
    kind = f"{asked.gpus}gpu" if asked.gpus else "cpu" if asked.gpus == 0 else "here"
    of = "builtin" if asked.text is None else re.sub(r"[^\w-]+", "-", asked.text.name.partition(".")[0]).strip("-") or "text"
    return f"own-{of}-{asked.cap}-{asked.hours:g}h-{kind}"


def write(place: Path, chosen: plan.Plan, words: str, asked: argparse.Namespace) -> None:
    """The recipe file: what was said as its header, then its values."""
    context.check(chosen.values, place.stem)
    header = [f"{catalog.SIZED} --for {asked.cap} --hours {asked.hours:g}", *(f"#   {line}".rstrip() for line in words.splitlines())]
    body = [f"{path}: {_flat(value)}" for path, value in chosen.values.items()]
    with files.atomic(place) as partial:
        partial.write_text("\n".join([*header, "", *body]) + "\n", encoding="utf-8")


def _flat(value: object) -> str:
    """A value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()
