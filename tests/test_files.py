"""Files that lie: each forgery is caught by the check that is there for it, and its honest neighbour is not.

A forgery changes files of a finished pipeline. `commit` then makes dvc.lock fit them, as `dvc commit` would: it is caught all the same.
"""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages.audit.__main__ import judged
from stages.audit.checks import byte_count, lineage
from stages.audit.checks import files as files_check
from stages.audit.evidence import Evidence
from stages.lib.node import files
from stages.lib.text import accounting, corpus
from stages.lib.tokens import splits
from stages.runtime.text import memory
from stages.runtime.tokens import shards
from tests.conftest import run_node, write_lock

CHECKS = {"files": files_check, "lineage": lineage, "byte_count": byte_count}
PREPARE, TOKENIZE = Path("artifacts/prepare"), Path("artifacts/tokenize")


def evidence(run: str = "sliding") -> Evidence:
    """What stages.audit gives its checks, as far as these three read it."""
    ledger = Path(f"artifacts/evaluate/{run}/ledger.npy")
    return Evidence(
        submission=Path("artifacts/package/submission.pyz"),
        documents=PREPARE / "val",
        text=splits.read(TOKENIZE / "val", "val", sidecar=True),
        nats=np.load(ledger),
        metrics=files.read_json(ledger.with_name("metrics.json")),
        evaluator=run,
        options={},
        lock=Path("dvc.lock"),
        settings=None,
        script=None,
        drawn=(1,),
        package=None,
        train=TOKENIZE / "train",
        holdout=TOKENIZE / "holdout",
        making={},
    )


def found(check: str):
    return judged(CHECKS[check], evidence())


def edit_lock(change: Callable[[dict], None]) -> None:
    tree = yaml.safe_load(Path("dvc.lock").read_text())
    change(tree["stages"])
    Path("dvc.lock").write_text(yaml.safe_dump(tree, sort_keys=False))


def edit_facts(path: Path, **facts) -> None:
    files.write_json(path, files.read_json(path) | facts)


def rewrite(folder: Path, split: str, ids: np.ndarray, counts: np.ndarray | None) -> None:
    """Replace the only shard of a tokenized split, its sidecar and its facts."""
    ids, counts = np.array(ids), None if counts is None else np.array(counts)  # what is read is a map of the file that is written
    shards.write(folder / f"fineweb_{split}_000000.bin", ids)
    edit_facts(folder / "meta.json", tokens=len(ids))
    if counts is not None:
        shards.write(folder / f"fineweb_{split}_bytes_000000.bin", counts)
        edit_facts(folder / "meta.json", bytes=int(counts.sum()))


def shorten(name: str) -> None:
    """Remove half of the documents of a split, and say so wherever it is counted, but for what other files remember."""
    path = PREPARE / name / corpus.DOCUMENTS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))


# --- the forgeries ---------------------------------------------------------------------------------------------------


def removed_documents():
    shorten("val")


def removed_documents_with_their_facts():
    """Everything that prepare and tokenize write is made anew, but dvc.lock and the artifact's lineage keep the old text."""
    shorten("val")
    texts = [json.loads(line)["text"] for line in (PREPARE / "val" / corpus.DOCUMENTS).read_text().splitlines()]
    sha256 = files.sha256(PREPARE / "val" / corpus.DOCUMENTS)
    edit_facts(PREPARE / "val/meta.json", sha256=sha256, documents=len(texts), bytes=sum(len(text.encode()) for text in texts))
    run_node("tokenize", "val")


def swapped_splits():
    """holdout is scored in the place of val."""
    (TOKENIZE / "val").rename(TOKENIZE / "other")
    (TOKENIZE / "holdout").rename(TOKENIZE / "val")
    (TOKENIZE / "other").rename(TOKENIZE / "holdout")
    for name, other in (("val", "holdout"), ("holdout", "val")):
        for path in list((TOKENIZE / name).glob("*.bin")):
            path.rename(path.with_name(path.name.replace(other, name)))
        edit_facts(TOKENIZE / name / "meta.json", split=name)


def holdout_is_val():
    """prequant_ttt then trains on val and declares holdout."""
    val = splits.read(TOKENIZE / "val", "val", sidecar=True)
    rewrite(TOKENIZE / "holdout", "holdout", np.asarray(val.tokens), val.byte_counts)


def val_behind_train():
    train, val = (splits.read(TOKENIZE / name, name).tokens for name in ("train", "val"))
    rewrite(TOKENIZE / "train", "train", np.concatenate((np.asarray(train), np.asarray(val))), None)


def larger_sidecar():
    """More bytes to divide by."""
    val = splits.read(TOKENIZE / "val", "val", sidecar=True)
    rewrite(TOKENIZE / "val", "val", np.asarray(val.tokens), val.byte_counts + (val.byte_counts > 0))


def edited_record():
    """A stage opened val, and its record says that it did not."""
    path = Path("artifacts/train/opened.json")
    path.write_text(json.dumps(json.loads(path.read_text())[:1]))


def another_tokenizer():
    """The tokenizer of the pipeline is not the one in the artifact."""
    Path("artifacts/vocabulary/tokenizer.model").write_bytes(b"\x0a")


def val_in_the_memory():
    """The text that ships for the evaluator memory is val, and the artifact is what dvc.lock then says."""
    pyz, out = Path("artifacts/package/submission.pyz"), io.BytesIO()
    with zipfile.ZipFile(pyz) as packed, zipfile.ZipFile(out, "w") as forged:
        for entry in packed.infolist():
            is_memory = entry.filename == "caddie/data/memory.bin"
            val = memory.pack(np.asarray(splits.read(TOKENIZE / "val", "val").tokens))
            forged.writestr(entry, val if is_memory else packed.read(entry))
    pyz.write_bytes(out.getvalue())


def missing_node():
    edit_lock(lambda stages: stages.pop("train"))


def only_one_node():
    edit_lock(lambda stages: [stages.pop(name) for name in list(stages) if name != "package"])


def no_root():
    edit_lock(lambda stages: stages.pop("prepare"))


def forgotten_dependencies():
    edit_lock(lambda stages: stages["train"].update(deps=[]))


def text_that_nobody_made():
    edit_lock(lambda stages: stages["train"]["deps"].append({"path": "data/answers.txt", "md5": "0"}))


# --- and their honest neighbours -------------------------------------------------------------------------------------


def again(*node: str):
    return lambda: (run_node(*node), write_lock(Path()))


def without(*names: str):
    return lambda: edit_lock(lambda stages: [stages.pop(name, None) for name in names])


def added(name: str, path: str):
    return lambda: edit_lock(lambda stages: stages[name]["deps"].append({"path": path, "md5": "0"}))


def without_intermediate_files():
    """What no longer lies on the machine is listed."""
    shutil.rmtree("artifacts/train/averages")


@dataclass(frozen=True)
class Forgery:
    forge: Callable[[], None]
    caught_by: str
    honest: Callable[[], object]
    commit: tuple[bool, ...] = (False, True)  # with dvc.lock as it was, and as `dvc commit` would make it


FORGERIES = [
    Forgery(removed_documents, "files", again("prepare")),
    Forgery(removed_documents_with_their_facts, "files", again("tokenize", "val"), commit=(False,)),
    Forgery(swapped_splits, "files", again("tokenize", "holdout")),
    Forgery(holdout_is_val, "files", again("prequant_ttt")),
    Forgery(val_behind_train, "files", again("tokenize", "train")),
    Forgery(larger_sidecar, "files", again("tokenize", "val")),
    Forgery(larger_sidecar, "byte_count", again("tokenize", "val")),
    Forgery(edited_record, "files", again("ema"), commit=(False,)),
    Forgery(another_tokenizer, "files", without_intermediate_files),
    Forgery(val_in_the_memory, "files", again("package")),
    Forgery(missing_node, "lineage", without("report", "plain_score@train", "compress@zlib_9"), commit=(False,)),
    Forgery(only_one_node, "lineage", without("text_compressors"), commit=(False,)),
    Forgery(only_one_node, "files", without("text_compressors"), commit=(False,)),
    Forgery(no_root, "lineage", without("audit@slot"), commit=(False,)),
    Forgery(forgotten_dependencies, "lineage", added("train", "stages/train"), commit=(False,)),
    Forgery(text_that_nobody_made, "lineage", added("vocabulary", "data/my.model"), commit=(False,)),
]
CASES = [(forgery, commit) for forgery in FORGERIES for commit in forgery.commit]


def named(value) -> str:
    return {True: "committed", False: ""}[value] if isinstance(value, bool) else f"{value.forge.__name__} by {value.caught_by}"


@pytest.mark.parametrize("forgery, commit", CASES, ids=named)
def test_forged_files_are_caught_by_the_check_that_is_there_for_them(project, forgery, commit):
    forgery.forge()
    if commit:
        write_lock(project)
    verdict = found(forgery.caught_by)
    assert verdict.verdict == "fail", verdict.evidence


@pytest.mark.parametrize("forgery", FORGERIES, ids=named)
def test_the_honest_neighbour_of_a_forgery_is_not_accused(project, forgery):
    forgery.honest()
    verdict = found(forgery.caught_by)
    assert verdict.verdict == "pass", verdict.evidence


def test_what_is_hashed_and_what_is_not_here_is_said(project):
    facts = found("files").evidence
    assert facts["files_hashed"] > 30 and facts["not_on_this_machine"] == [] and facts["val_documents_in_holdout"] == 0
    assert {name: split["sha256"] for name, split in facts["text"].items()} == files.read_json(PREPARE / "metrics.json")["sha256"]
    assert all(split["bytes_encoded_again"] > 1000 for split in facts["text"].values())
    without_intermediate_files()
    assert found("files").evidence["not_on_this_machine"] == ["artifacts/train/averages"]


@pytest.mark.parametrize("check", ["files", "lineage"])
def test_without_a_lock_nothing_is_ruled(project, check):
    (project / "dvc.lock").unlink()
    assert found(check).verdict == "not_applicable" and "is missing" in found(check).evidence["reason"]


def test_text_that_is_another_than_the_built_in_one_that_was_asked_for_is_not_ruled(project):
    def ask(**prepare):
        edit_lock(lambda stages: stages["prepare"].update(params={"params.yaml": {"prepare": prepare}}))
        return found("files")

    assert ask(source="builtin", max_bytes=None).verdict == "not_applicable"
    assert ask(source="builtin", max_bytes=accounting.BUILTIN_BYTES).verdict == "not_applicable"
    assert ask(source="builtin", max_bytes=1000).verdict == ask(source="local", max_bytes=None).verdict == "pass"
