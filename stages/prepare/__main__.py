"""Split documents into train, holdout and val, one JSON line per document, and count the bytes that scores are divided by.

Source `builtin` is the documentation of installed packages; a list names their versions and splits (distributions.csv). `local` is a file
or folder of JSON lines, parquet or plain text, or a folder of token shards that were published by others. `fineweb` downloads either kind
from the hub. The output depends only on the settings and the documents, not on the number of processes (CADDIE_WORKERS, default: all
cores). If the command is killed at any moment, the same command continues where it stopped.

    python -m stages.prepare --part 1 --of 8        one part of the work, for a scheduler; the stage puts the parts together
"""

import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow
from tqdm import tqdm

from stages.lib.node import closure, command, files
from stages.lib.node.scratch import Folder, key
from stages.lib.node.stage import Input, Metrics, Output, Untracked
from stages.lib.text import accounting, corpus, parts, published
from stages.prepare import blocks, builtin, fineweb, local, split
from stages.prepare.settings import PrepareSettings, check


def main(
    settings: PrepareSettings,
    *,
    documents: Input = "${prepare.path}",
    train: Output = "artifacts/prepare/train",
    holdout: Output = "artifacts/prepare/holdout",
    val: Output = "artifacts/prepare/val",
    metrics: Metrics = "artifacts/prepare/metrics.json",
    scratch: Untracked = "scratch/prepare",
) -> None:
    check(settings)
    outputs = {"train": train, "holdout": holdout, "val": val}
    fetched = fineweb.fetch(settings.fineweb) if settings.source == "fineweb" else None
    shards = _shards(settings, documents, fetched)
    place = _place(scratch, settings, documents, fetched)
    made = parts.finished(parts.beside(place))
    folder = Folder(place.with_name(f"{place.name}-{len(made)}") if made else place)
    facts: dict = {"source": settings.source}
    if fetched is not None:
        facts["fineweb"] = {"repository": settings.fineweb.repository, "revision": fetched.revision}
    with folder.locked():
        done = folder.path / "done.json"
        if settings.source == "builtin":  # made again in seconds, and the installed packages may have changed
            for name in ("done.json", "state.json"):
                (folder.path / name).unlink(missing_ok=True)
        if not done.is_file():
            if shards:
                by_split, notes = _take(settings, shards, folder.path, fetched), {}
            else:
                by_split, notes = _split(settings, documents, fetched, folder.path, made)
            for name, found in by_split.items():
                files.write_json(folder.path / name / corpus.META, found)
            files.write_json(done, {"by_split": by_split, "notes": notes})
        finished = files.read_json(done, required=("by_split", "notes"))
        by_split, notes = finished["by_split"], finished["notes"]
        for name, output in outputs.items():
            files.link(folder.path / name, output)
        folder.remove()
        parts.remove(parts.beside(place))
    val_facts = by_split["val"]
    facts |= notes | {"val_is_the_fields": accounting.is_fields_val(val_facts["documents"], val_facts["bytes"])}
    if val_facts["documents"] == accounting.VAL_DOCUMENTS and not facts["val_is_the_fields"]:
        print(
            f"val has {accounting.VAL_DOCUMENTS:,} documents, but {val_facts['bytes']:,} bytes where the field's val split has "
            f"{accounting.VAL_BYTES:,}: scores cannot be compared with the field's"
        )
    for name in split.SPLITS:
        print(f"{name:8}{by_split[name]['documents']:>12,} documents {by_split[name]['bytes']:>16,} bytes")
    for fact in ("documents", "bytes", "sha256"):
        facts[fact] = {name: by_split[name][fact] for name in split.SPLITS}
    files.write_json(metrics, facts)


def part(share: parts.Share, settings: PrepareSettings, *, documents: Path, scratch: Path, **outputs: Path) -> None:
    """Read one part of the documents. Nothing but its folder in scratch/ is written."""
    check(settings)
    if settings.source == "builtin":
        raise ValueError("the built-in text is read in seconds and has no parts; run: dvc repro prepare")
    fetched = fineweb.fetch(settings.fineweb) if settings.source == "fineweb" else None
    if _shards(settings, documents, fetched):
        raise ValueError("published token shards are used as they are, so there is nothing to divide; run: dvc repro prepare")
    found = _files(documents, fetched)
    with parts.written(parts.beside(_place(scratch, settings, documents, fetched)), share) as place:
        blocks.write(place, blocks.of(found, blocks.rule(settings), span=share.span(local.length(found))))


def _place(scratch: Path, settings: PrepareSettings, documents: Path, fetched: fineweb.Fetched | None) -> Path:
    """The folder of unfinished work, by everything that the work depends on."""
    code = closure.paths("stages.prepare.__main__")
    return Path(scratch) / key(asdict(settings), _inputs(settings, documents, fetched), local.TASK_BYTES, pyarrow.__version__, *code)


def _files(documents: Path, fetched: fineweb.Fetched | None) -> list[Path]:
    return list(fetched.documents) if fetched is not None else local.files(documents)


def _shards(settings: PrepareSettings, documents: Path, fetched: fineweb.Fetched | None) -> published.Shards | None:
    if fetched is not None:
        return published.Shards(fetched.train, fetched.val, fetched.sidecars, fetched.tokenizer) if fetched.contents == "tokens" else None
    found = published.find(documents) if settings.source == "local" else None
    if found:
        local.note_what_is_ignored(documents)
    return found


def _inputs(settings: PrepareSettings, documents: Path, fetched: fineweb.Fetched | None) -> list:
    """What tells one corpus from another without reading it: for finding the work of a killed run again, not for results."""
    if fetched is not None:
        return [fetched.revision, sorted(fetched.files)]
    if settings.source == "builtin":
        return []
    found = [documents] if documents.is_file() else sorted(path for path in corpus.walk(documents) if path.is_file())
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in found]


def _take(settings: PrepareSettings, shards: published.Shards, folder: Path, fetched: fineweb.Fetched | None) -> dict[str, dict]:
    size = sum(path.stat().st_size for path in (*shards.train, *shards.val))
    with tqdm(total=size, desc="checking shards", unit="B", unit_scale=True, disable=None) as bar:
        facts = published.take(
            shards, folder, val_documents=settings.val_documents, holdout_documents=settings.holdout_documents, progress=bar.update
        )
    if fetched is not None:
        val = facts["val"]
        accounting.check_val_fingerprint(
            documents=val["documents"],
            num_bytes=val["bytes"],
            tokens=val["tokens"],
            variant=settings.fineweb.variant,
            where=settings.fineweb.repository,
        )
    return facts


def _split(
    settings: PrepareSettings, documents: Path, fetched: fineweb.Fetched | None, folder: Path, made: list[Path]
) -> tuple[dict[str, dict], dict]:
    rule, packages, there = blocks.rule(settings), {}, 0
    writer = split.Writer(folder, rule, max_bytes=settings.max_bytes)
    try:
        if settings.source == "builtin":
            found, packages = read_builtin(), {line.name: line.version for line in builtin.listed()}
            coming: Iterator[split.Block] = iter([block := split.block(found, rule)])
            there = sum(block.sizes)
        elif made:
            coming = itertools.islice((new for place in made for new in blocks.read(place)), writer.blocks, None)
        else:
            coming = blocks.of(_files(documents, fetched), rule, skip=writer.blocks)
        while not writer.is_cut and (new := next(coming, None)):
            writer.add(new)
        written = writer.finish()
    finally:
        writer.close()
    if written.empty_documents:
        print(f"skipped {written.empty_documents:,} empty documents")
    if written.is_cut:
        amount = (there, False) if there else local.amount(_files(documents, fetched))
        print(split.left_out(written, *amount, settings.max_bytes), file=sys.stderr)
    if settings.fraction < 1:
        print(f"prepare.fraction: {settings.fraction:.1%} of the documents are drawn by their hashes, and the others are left out")
    if fetched is not None and fetched.contents == "documents":
        accounting.check_val_fingerprint(
            documents=written.documents["val"], num_bytes=written.bytes["val"], where=settings.fineweb.repository
        )
    for name in split.SPLITS:
        (folder / name).mkdir(exist_ok=True)
        os.replace(writer.path(name), folder / name / corpus.DOCUMENTS)
    return {
        name: {
            "contents": "documents",
            "split": name,
            "documents": written.documents[name],
            "bytes": written.bytes[name],
            "sha256": written.sha256[name],
        }
        for name in split.SPLITS
    }, {"packages": packages} if packages else {}


def read_builtin() -> list[split.Document]:
    """The built-in documents, shuffled. ValueError if what is installed differs from the list."""
    return builtin.read(progress=lambda found: tqdm(found, "reading", unit=" files", disable=None))


if __name__ == "__main__":
    if parts.is_asked_for(sys.argv[1:]):
        parts.run(main, part, sys.argv[1:])
    else:
        command.run(main)
