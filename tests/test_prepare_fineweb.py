"""`prepare` on the field's data, fetched by the real client from a hub of our own: the split is the field's, or nothing is written."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from stages.lib.node import files
from stages.lib.text import accounting, corpus
from stages.prepare import __main__ as prepare
from stages.runtime.text.tokenizer import PURE_BYTE, Tokenizer
from stages.runtime.tokens import shards
from tests.hub import FOLDER, manifest
from tests.test_fineweb import serve  # noqa: F401 (a fixture)
from tests.test_prepare import HUB, LOCAL, lines

TEXTS = [f"Text {n} of the list." for n in range(40)]
VAL = TEXTS[:10]
PATH = "tokenizers/fineweb_pure_byte_260.json"


@pytest.fixture
def small_field(monkeypatch):
    """The field in small: 10 val documents."""
    monkeypatch.setattr(accounting, "VAL_DOCUMENTS", 10)
    monkeypatch.setattr(accounting, "VAL_BYTES", len("".join(VAL).encode()))
    monkeypatch.setattr(accounting, "VAL_TOKENS", {"sp1024": len("".join(VAL).encode()) + 10})


def shard(texts: list[str]) -> bytes:
    tokens = [token for text in texts for token in (1, *(4 + byte for byte in text.encode()))]
    return shards.header(len(tokens)) + np.array(tokens, "<u2").tobytes()


def published(val: list[str] = VAL) -> dict[str, bytes]:
    return {
        "datasets/manifest.json": manifest(train=3, tokenizer=PATH),
        f"datasets/{PATH}": json.dumps(PURE_BYTE).encode(),
        f"{FOLDER}/fineweb_val_000000.bin": shard(val),
        **{f"{FOLDER}/fineweb_train_{i:06d}.bin": shard(TEXTS[10 * (i + 1) : 10 * (i + 2)]) for i in range(3)},
    }


def listed(texts: list[str] = TEXTS) -> dict[str, bytes]:
    import hashlib

    content = lines(*texts)
    described = {"num_docs": len(texts), "docs_val": 10, "docs_bytes": len(content), "docs_sha256": hashlib.sha256(content).hexdigest()}
    return {"datasets/docs_selected.jsonl": content, "datasets/docs_selected.source_manifest.json": json.dumps(described).encode()}


def run(folder, hub: dict, **changes):
    chosen = replace(
        LOCAL,
        **{
            "source": "fineweb",
            "max_bytes": None,
            "split": "first",
            "val_documents": 10,
            "holdout_documents": 4,
            "fineweb": replace(HUB, **hub),
        }
        | changes,
    )
    out = {name: folder / name for name in ("train", "holdout", "val")}
    prepare.main(chosen, documents=folder, metrics=folder / "metrics.json", scratch=folder / "scratch", **out)
    return files.read_json(folder / "metrics.json")


def test_published_shards_are_taken_over_as_a_prefix(tmp_path, serve, small_field):  # noqa: F811
    serve(published())
    facts = run(tmp_path, {"contents": "tokens", "train_shards": 2})
    assert list(corpus.texts(tmp_path / "val")) == VAL
    assert list(corpus.texts(tmp_path / "train")) + list(corpus.texts(tmp_path / "holdout")) == TEXTS[10:30]
    assert facts["documents"] == {"train": 16, "holdout": 4, "val": 10} and len(facts["fineweb"]["revision"]) == 40
    assert Tokenizer((tmp_path / "val/tokenizer.model").read_bytes()).vocabulary_size == 260


def test_the_frozen_list_is_split_by_position(tmp_path, serve, small_field):  # noqa: F811
    serve(listed())
    run(tmp_path, {"contents": "documents"})
    assert [list(corpus.texts(tmp_path / name)) for name in ("val", "train", "holdout")] == [VAL, TEXTS[10:36], TEXTS[36:]]


def test_parquet_becomes_documents_by_either_split(tmp_path, serve):  # noqa: F811
    files = {}
    for i in range(2):
        sink = io.BytesIO()
        table = pyarrow.table({"url": ["x"] * 20, "text": TEXTS[20 * i : 20 * (i + 1)]})
        pyarrow.parquet.write_table(table, sink, row_group_size=7)
        files[f"sample/10BT/00{i}_00000.parquet"] = sink.getvalue()
    serve(files)
    run(tmp_path, {"contents": "parquet", "root": "", "files": ["sample/10BT/*.parquet"]})
    assert [list(corpus.texts(tmp_path / name)) for name in ("val", "train", "holdout")] == [VAL, TEXTS[10:36], TEXTS[36:]]


@pytest.mark.parametrize(
    "files, hub, changes, sentence",
    [
        (published(VAL[:9]), {"contents": "tokens"}, {}, "has 9 val documents, prepare.val_documents says 10"),
        (published([*VAL[:9], VAL[9] + "!"]), {"contents": "tokens"}, {}, "scores on these other documents cannot be compared"),
        (listed(["another" * 40, *TEXTS[1:]]), {"contents": "documents"}, {}, "scores on these other documents cannot be compared"),
        (listed(), {"contents": "documents"}, {"val_documents": 5}, r"needs prepare.split first and prepare.val_documents 10.*#2127"),
        (listed(), {"contents": "documents"}, {"split": "hash"}, "needs prepare.split first"),
        (listed(), {"contents": "documents"}, {"max_bytes": 150}, "raise prepare.max_bytes"),
        (published(), {"contents": "tokens", "train_shards": 4}, {}, "ask for at most that many"),
    ],
)
def test_a_wrong_split_is_refused_and_nothing_is_written(tmp_path, serve, small_field, files, hub, changes, sentence):  # noqa: F811
    serve(files)
    with pytest.raises(ValueError, match=sentence):
        run(tmp_path, hub, **changes)
    assert not (tmp_path / "val").exists() and not (tmp_path / "metrics.json").exists()
