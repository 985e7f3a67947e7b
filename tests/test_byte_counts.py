"""The ways in which the field counted bytes wrongly, each tried on purpose, each caught and named."""

import json

import numpy as np
import pytest
import sentencepiece

from stages.lib.text import accounting, corpus, published
from stages.lib.text.encoder import Encoder
from stages.prepare import __main__ as prepare
from stages.prepare import fineweb
from stages.runtime.text.tokenizer import PURE_BYTE, Tokenizer
from stages.runtime.tokens import shards
from stages.vocabulary import sentencepiece_training
from tests.conftest import run_node, tiny_params
from tests.test_tokenizers import KINDS, TEXTS

DOCUMENTS = [f"Document {n}: the NASA iPhone of McDonald costs ☃ {n} € in the shop. The end of it, again and again." for n in range(12)]


@pytest.fixture(scope="module")
def models() -> dict[tuple, bytes]:
    trained = {
        kind: sentencepiece_training.train(TEXTS + DOCUMENTS, size=420, character_coverage=0.99, sample_bytes=None, **options)
        for kind, options in KINDS.items()
    }
    return trained | {("bytes",): json.dumps(PURE_BYTE).encode()}


ALL = [*KINDS, ("bytes",)]


@pytest.fixture
def export(tmp_path, models):
    """Write an export of the field: export(kind, sidecar=..., val=..., train=...) -> its folder."""

    def write(kind, *, sidecar=None, val=DOCUMENTS, train=DOCUMENTS, per_shard=150):
        folder = tmp_path / "datasets" / "fineweb10B_x"
        folder.mkdir(parents=True)
        encoder = Encoder(models[kind])
        (folder / "fineweb_420_bpe.model").write_bytes(models[kind])
        for split, texts in (("val", val), ("train", train)):
            encoded = encoder.encode(texts)
            tokens, counts = encoded.ids, encoded.byte_counts
            if split == "val" and sidecar:
                counts = sidecar(encoder.tokenizer, tokens, counts)
            for i, start in enumerate(range(0, len(tokens), per_shard)):
                shards.write(folder / f"fineweb_{split}_{i:06d}.bin", tokens[start : start + per_shard])
                if split == "val" and (sidecar or (kind[0] == "nmt_nfkc" and kind[-1] is True)):
                    shards.write(folder / f"fineweb_val_bytes_{i:06d}.bin", counts[start : start + per_shard])
        return folder

    return write


def take(folder, out, **changes):
    found = published.find(folder)
    return published.take(found, out, **({"val_documents": 12, "holdout_documents": 3, "progress": lambda count: None} | changes))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("with_sidecar", [False, True])
def test_an_honest_export_is_taken_over_token_for_token(tmp_path, export, models, kind, with_sidecar):
    folder = export(kind, sidecar=(lambda tokenizer, tokens, counts: counts) if with_sidecar else None)
    facts = take(folder, tmp_path / "out")
    tokenizer = Tokenizer(models[kind])
    assert shards.read_split(tmp_path / "out/val", "val").tolist() == shards.read_split(folder, "val").tolist()
    kept = np.concatenate([shards.read_split(tmp_path / "out" / split, split) for split in ("train", "holdout")])
    assert kept.tolist() == shards.read_split(folder, "train").tolist()
    assert facts["holdout"]["documents"] == 3 and facts["train"]["documents"] == 9 and facts["val"]["documents"] == 12
    if tokenizer.is_lossless:
        raw = sum(len(text.encode()) for text in DOCUMENTS)
        assert facts["val"]["bytes"] == raw == facts["train"]["bytes"] + facts["holdout"]["bytes"]


def is_lead(tokenizer, tokens):
    return np.array([not tokenizer.processor.IsControl(int(i)) and tokenizer.processor.IdToPiece(int(i)).startswith("▁") for i in tokens])


def is_byte(tokenizer, tokens):
    return np.array([tokenizer.processor.IsByte(int(i)) for i in tokens])


ATTACKS = {
    "blank added twice": (lambda t, ids, n: n + is_lead(t, ids), r"leading blank is added twice \(#1698\)"),
    "byte pieces as U+FFFD": (lambda t, ids, n: np.where(is_byte(t, ids), 3, n), r"3-byte replacement character \(#1143, #1184\)"),
    "byte pieces by their name": (lambda t, ids, n: np.where(is_byte(t, ids), 6, n), r"6 letters of their name \(#1143, #1184\)"),
    "bytes of BOS": (lambda t, ids, n: n + (ids == 1), "bytes of BOS are counted"),
    "one byte more somewhere": (lambda t, ids, n: n + (np.arange(len(n)) == 7), r"document 1: .*they part at token 7 \(id \d+: \d+ bytes"),
}


@pytest.mark.parametrize("kind", [("identity", False), ("nmt_nfkc", False), ("identity", True)])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_sidecar_with_a_known_mistake_is_refused_by_name(tmp_path, export, kind, attack):
    cheat, name = ATTACKS[attack]
    with pytest.raises(ValueError, match=name) as caught:
        take(export(kind, sidecar=cheat), tmp_path / "out")
    assert "document 1:" in str(caught.value) and "part at token" in str(caught.value)


@pytest.mark.parametrize("kind", [("identity", True), ("nmt_nfkc", True)])
def test_caseops_tokens_counted_with_the_piece_table_are_refused(tmp_path, export, kind):
    """#2071: operators have the 3 bytes of their character."""

    def with_tables(tokenizer, tokens, counts):
        return accounting.piece_tables(tokenizer)[0][tokens] + accounting.piece_tables(tokenizer)[1][tokens]

    with pytest.raises(ValueError, match=r"counted with the piece table \(#2071\)"):
        take(export(kind, sidecar=with_tables), tmp_path / "out")


def test_published_caseops_without_its_sidecar_is_refused(tmp_path, export):
    folder = export(("nmt_nfkc", True))
    for path in folder.glob("*_bytes_*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"CaseOps tokenizer .* counted wrongly \(#2071\): get the sidecars"):
        take(folder, tmp_path / "out")


def test_val_split_of_10000_documents_is_named(tmp_path, export):
    with pytest.raises(ValueError, match=r"12 val documents, prepare\.val_documents says 50,000; the field's val split is the first"):
        take(export(("bytes",)), tmp_path / "out", val_documents=50_000)
    with pytest.raises(ValueError, match=r"10,000 val documents \(10,000 is the default of a circulated script.*#2127\)"):
        accounting.check_val_documents(10_000, 50_000, where="x")


def test_sidecar_that_was_globbed_as_tokens_is_named(tmp_path, export):
    folder = export(("identity", False), sidecar=lambda tokenizer, tokens, counts: counts)
    count = len(list(folder.glob("fineweb_val_0*.bin")))
    for i, path in enumerate(sorted(folder.glob("fineweb_val_bytes_*.bin"))):
        path.rename(folder / f"fineweb_val_{count + i:06d}.bin")
    with pytest.raises(ValueError, match=rf"fineweb_val_{count:06d}\.bin: token 0 is 0, .*looks like a byte sidecar"):
        take(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("fineweb_val_000000.bin", r"fineweb_val_000000\.bin is missing; get the whole export"),
        ("fineweb_val_000001.bin", r"fineweb_val_000001\.bin is missing; get the whole export"),
        ("fineweb_train_000001.bin", r"fineweb_train_000001\.bin is missing; get the whole export"),
        ("fineweb_420_bpe.model", "tokenizer of the shards .* is missing"),
    ],
)
def test_what_is_missing_of_an_export_is_named(tmp_path, export, name, sentence):
    folder = export(("identity", False))
    (folder / name).unlink()
    with pytest.raises(ValueError, match=sentence):
        take(folder, tmp_path / "out")


def test_export_without_train_shards_is_refused(tmp_path, export):
    folder = export(("identity", False))
    for path in folder.glob("fineweb_train_*"):
        path.unlink()
    with pytest.raises(ValueError, match="no train shards"):
        take(folder, tmp_path / "out")


def test_shards_of_another_tokenizer_of_the_same_size_are_refused(tmp_path, export, models):
    folder = export(("identity", False))
    other = sentencepiece_training.train([text[::-1] for text in TEXTS + DOCUMENTS], size=420, character_coverage=0.99, sample_bytes=None)
    assert Tokenizer(other).vocabulary_size == Tokenizer(models["identity", False]).vocabulary_size
    (folder / "fineweb_420_bpe.model").write_bytes(other)
    with pytest.raises(ValueError, match=r"fineweb_420_bpe\.model; it is not the tokenizer that made these shards|decode to UTF-8"):
        take(folder, tmp_path / "out")


def test_empty_first_shard_does_not_hide_a_stream_that_starts_in_a_document(tmp_path, export):
    folder = export(("identity", False))
    paths = sorted(folder.glob("fineweb_train_*.bin"))
    shards.write(paths[0], np.empty(0, np.uint16))
    with pytest.raises(ValueError, match=r"fineweb_train_000001\.bin starts with token \d+, not with BOS"):
        take(folder, tmp_path / "out")


@pytest.mark.parametrize("special", [dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1), dict(pad_id=0, bos_id=1, eos_id=-1, unk_id=2)])
def test_special_ids_that_are_not_the_fields_are_refused(tmp_path, special):
    """unk at 0 is SentencePiece's own default: such a model must not be taken for one with CaseOps pieces."""
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(tmp_path / "m"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        minloglevel=2,
        **special,
    )
    with pytest.raises(ValueError, match=r"pad, bos, eos and unk at \(.*\), the field's are at \(0, 1, 2, 3\)"):
        Tokenizer((tmp_path / "m.model").read_bytes())


def test_sidecar_that_nothing_vouches_for_is_not_certified(tmp_path, export, models, monkeypatch):
    """CaseOps over nmt_nfkc without raw text: the bytes do not follow from the ids, only the field's known total can vouch."""
    from stages.audit.checks import byte_count
    from stages.audit.evidence import Evidence
    from stages.lib.tokens.splits import Split

    folder = export(("nmt_nfkc", True))
    facts = take(folder, tmp_path / "out")
    for split, found in facts.items():
        (tmp_path / "out" / split / corpus.META).write_text(json.dumps(found))
    tokens, counts = shards.read_split(folder, "val"), shards.read_sidecar(folder, "val")
    nats = np.ones(len(tokens) - 1)
    metrics = {
        "bytes": int(counts.sum()),
        "tokens": len(nats),
        "loss_nats": 1.0,
        "bits_per_byte": float(nats.sum() / np.log(2) / counts.sum()),
    }
    evidence = Evidence(
        submission=None,
        documents=tmp_path / "out/val",
        text=Split(tokens, counts, {}),
        nats=nats,
        metrics=metrics,
        evaluator="",
        options={},
        lock=None,
        settings=None,
        train=None,
        holdout=None,
        making={},
        script=None,
        drawn=(1,),
        package=None,
    )
    monkeypatch.setattr(byte_count.artifact, "read", lambda path, name: models["nmt_nfkc", True])
    verdict = byte_count.check(evidence)
    assert verdict.verdict == "not_applicable" and "the total is not the field's" in verdict.evidence["reason"]
    monkeypatch.setattr(accounting, "VAL_DOCUMENTS", 12)
    monkeypatch.setattr(accounting, "VAL_BYTES", int(counts.sum()))
    assert byte_count.check(evidence).verdict == "pass"


def test_a_count_above_16_bits_goes_to_the_neighbours_with_the_same_sum(models):
    encoder = Encoder(models["nmt_nfkc", True])
    text = "a" + " " * 70_000 + "b, and the NASA"
    encoded = encoder.encode([text])
    assert int(encoded.byte_counts.sum(dtype=np.int64)) == encoded.text_bytes[0] == len(text)
    assert encoded.byte_counts[0] == 0 and encoded.ids.tolist() == [1, *encoder.tokenizer.encode(text)]


def test_the_piece_tables_do_not_come_from_what_is_decoded(models):
    """A tokenizer that decodes one piece wrongly agrees with itself; the tables, which read the names, do not agree with it."""
    found, tokenizer = Encoder(models["identity", False]).encode(DOCUMENTS[:2]), Tokenizer(models["identity", False])
    tokenizer.piece_bytes[int(found.ids[4])] += b"x"
    counts = tokenizer.byte_counts(found.ids)
    longer = np.add.reduceat(counts, found.starts)  # as if the text had these bytes as well
    assert (longer > found.text_bytes).any()
    with pytest.raises(ValueError, match=r"a \{b\}, document 1: .*the pieces to"):
        accounting.check_documents(
            tokenizer, found.ids, counts, found.starts, text_bytes=longer, written_bytes=found.written_bytes, where="a {b}"
        )


def test_token_above_the_vocabulary_is_named_with_its_place(tmp_path, export):
    folder = export(("identity", False))
    path = folder / "fineweb_train_000001.bin"
    tokens = np.array(shards.read(path))
    tokens[5] = 60_000
    shards.write(path, tokens)
    with pytest.raises(ValueError, match=r"fineweb_train_000001\.bin: token 5 is 60000, above the vocabulary"):
        take(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda data: data[:-1], "truncated or damaged"),
        (lambda data: data + b"\0\0", "truncated or damaged"),
        (lambda data: b"\1" + data[1:], "not a token shard"),
        (lambda data: data[:4] + b"\2" + data[5:], "shard version 2"),
    ],
)
def test_a_damaged_shard_ends_prepare_and_nothing_is_taken(tmp_path, export, damage, sentence):
    folder = export(("identity", False))
    path = folder / "fineweb_train_000000.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"fineweb_train_000000\.bin.*{sentence}"):
        take(folder, tmp_path / "out")


def test_two_exports_in_one_folder_are_not_mixed(tmp_path, export):
    folder = export(("identity", False))
    (tmp_path / "datasets/other").mkdir()
    shards.write(tmp_path / "datasets/other/fineweb_val_000000.bin", np.array([1, 5]))
    with pytest.raises(ValueError, match="several exports"):
        published.find(tmp_path / "datasets")
    assert published.find(folder).tokenizer.name == "fineweb_420_bpe.model"


def test_tokenizer_is_found_in_the_fields_layout_by_its_size(tmp_path, export):
    folder = export(("identity", False))
    (tmp_path / "tokenizers").mkdir()
    model = (folder / "fineweb_420_bpe.model").rename(tmp_path / "tokenizers/fineweb_420_bpe.model")
    (tmp_path / "tokenizers/fineweb_1024_bpe.model").write_bytes(b"another")
    renamed = folder.rename(folder.with_name("fineweb10B_sp420"))
    assert published.find(renamed).tokenizer == model and published.find(tmp_path).tokenizer == model


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(documents=10_000), "#2127"),
        (dict(num_bytes=accounting.VAL_BYTES + 40_000), "other documents cannot be compared"),
        (dict(tokens=62_021_845), "another|other export"),
    ],
)
def test_the_fields_val_split_has_a_fingerprint(change, sentence):
    known = dict(documents=50_000, num_bytes=accounting.VAL_BYTES, tokens=62_021_846, variant="sp1024", where="hub")
    accounting.check_val_fingerprint(**known)
    with pytest.raises(ValueError, match=sentence):
        accounting.check_val_fingerprint(**known | change)


def test_piece_tables_charge_no_blank_after_bos_as_published(models):
    tokenizer = Tokenizer(models["identity", False])
    ids = tokenizer.encode(" the")
    assert tokenizer.piece_bytes[ids[0]].startswith(b" ")
    assert accounting.piece_counts(tokenizer, np.array([1, *ids])).sum() == 3
    assert accounting.piece_counts(tokenizer, np.array([1, *tokenizer.encode("x"), *ids])).sum() == 5


@pytest.mark.slow
def test_published_shards_run_through_the_whole_pipeline(tmp_path, export, monkeypatch):
    """From a folder of shards to a certified score: the published tokens are the ones that are scored."""
    import yaml

    from tests.conftest import NODES, set_leaf, write_lock

    folder = export(("nmt_nfkc", False), train=DOCUMENTS * 40, per_shard=4000)
    values = tiny_params()
    for path, value in {
        "prepare.path": str(folder),
        "prepare.val_documents": 12,
        "prepare.holdout_documents": 5,
        "vocabulary.path": str(folder),
        "vocabulary.source": "shards",
        "text_compressors.train_bytes": 2000,
        "train.steps": 2,
        "train.holdout_every": 2,
        "package.evaluators": ["sliding"],
        "audit.replayed": 60,
    }.items():
        set_leaf(values, path, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    for node, *variant in NODES:
        if node == "report" or (variant and variant[0] in ("slot", "causal_slot")):
            continue
        if node == "audit":
            write_lock(tmp_path)
        run_node(node, *variant)
    certificate = json.loads((tmp_path / "artifacts/audit/sliding/certificate.json").read_text())
    failed = {name for name, check in certificate["checks"].items() if check["verdict"] == "fail"}
    assert failed <= {"files"}, "the made-up export repeats documents, so some of val stand in holdout too"
    assert certificate["checks"]["byte_count"]["verdict"] == "pass"
    assert certificate["checks"]["byte_count"]["evidence"]["tokenizer"]["lossless"] is False
    meta = json.loads((tmp_path / "artifacts/tokenize/val/meta.json").read_text())
    assert meta["counts"]["text"] == meta["counts"]["sidecar"] == meta["counts"]["pieces"]
    assert shards.read_split(tmp_path / "artifacts/tokenize/val", "val").tolist() == shards.read_split(folder, "val").tolist()
    decoded = list(corpus.texts(tmp_path / "artifacts/prepare/val"))
    assert len(decoded) == 12 and decoded[0].startswith("Document 0: the NASA")


def test_shards_and_another_tokenizer_do_not_go_together(tmp_path, export, monkeypatch, capsys):
    folder = export(("identity", False), train=DOCUMENTS)
    settings = prepare.PrepareSettings(
        "local",
        str(folder),
        None,
        1.0,
        "hash",
        0,
        0.1,
        0.1,
        12,
        3,
        fineweb.Source(contents="tokens", repository="a/b", revision="main", root="", variant="x", train_shards=1, files=()),
    )
    paths = {name: tmp_path / "out" / name for name in ("train", "holdout", "val")}
    prepare.main(settings, documents=folder, metrics=tmp_path / "metrics.json", scratch=tmp_path / "scratch", **paths)
    from stages.vocabulary import __main__ as vocabulary

    chosen = vocabulary.VocabularySettings("bpe", ".", 300, "identity", "none", 0.999, None, None)
    with pytest.raises(ValueError, match=r"token shards, so the tokenizer is theirs: set vocabulary\.source to shards"):
        vocabulary.main(chosen, file=tmp_path, documents=paths["train"], model=tmp_path / "m", metrics=tmp_path / "v.json")
