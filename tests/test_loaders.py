"""Loaders: which tokens are in which batch, exactly; where a training was killed makes no difference."""

import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch

from stages.lib.node import params, tensors
from stages.lib.tokens import loader as loader_base
from stages.lib.tokens import splits
from stages.lib.tokens.loaders import coprime, packed
from stages.lib.tokens.stream import Stream
from stages.runtime.base import plugin
from stages.runtime.text.tokenizer import BOS
from stages.runtime.tokens import shards
from stages.train import __main__ as train
from stages.train import checkpoints
from tests.conftest import ROOT

T, BATCH = 16, 256
KINDS = pytest.mark.parametrize("kind", plugin.names_in(train.LOADERS))


def stream(*lengths, bos_every=37, vocabulary_size=300):
    """Shards of the given lengths; each token is its own offset, folded into 2..299, and BOS at multiples of `bos_every`."""
    offsets = np.arange(sum(lengths))
    ids = np.where(offsets % bos_every == 0, BOS, 2 + offsets % 298).astype(np.uint16)
    return Stream(np.split(ids, np.cumsum(lengths)[:-1]), name="folder", vocabulary_size=vocabulary_size)


def loader(kind, source=None, **changes):
    options = {"sequence_length": T, "batch_tokens": BATCH, "seed": 1, "section": "train"} | changes
    return plugin.load_from(train.LOADERS, kind).Loader(source or stream(5000, 3001, 700), **options)


def same(one, two):
    return (
        all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("inputs", "targets"))
        and (one.cu_seqlens is two.cu_seqlens is None or torch.equal(one.cu_seqlens, two.cu_seqlens))
        and one.max_seqlen == two.max_seqlen
    )


# ---- every loader


def test_every_file_of_the_folder_can_be_chosen():
    files = {path.stem for path in (ROOT / "stages/lib/tokens/loaders").glob("*.py")} - {"__init__"}
    assert files == set(plugin.names_in(train.LOADERS)) and "shuffled" in files
    assert all(issubclass(plugin.load_from(train.LOADERS, name).Loader, loader_base.Loader) for name in files)
    with pytest.raises(ValueError, match=r"no file shufled\.py under lib/tokens/loaders; did you mean 'shuffled'"):
        plugin.load_from(train.LOADERS, "shufled")


@KINDS
def test_every_number_of_processes_reads_the_same_global_batch(kind):
    for step in (0, 3, 40):
        whole = loader(kind).batch(step)
        for world_size in (1, 2, 4, 8):
            parts = [loader(kind).batch(step, rank=rank, world_size=world_size) for rank in range(world_size)]
            assert all(torch.equal(part.inputs, whole.inputs[rank::world_size]) for rank, part in enumerate(parts))
            assert sum(part.targets.numel() for part in parts) == BATCH == loader(kind).batch_tokens


@KINDS
def test_targets_are_the_tokens_after_the_inputs(kind):
    offsets = np.arange(8701)
    ids = np.where(offsets % 37 == 0, BOS, 2 + offsets).astype(np.uint16)  # a token is its own place in the text
    batches = loader(kind, Stream(np.split(ids, [5000, 8001]), name="x", vocabulary_size=65_536))
    for step in range(40):
        batch = batches.batch(step)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        places, known = (batch.inputs - 1) % 8701, batch.inputs != BOS  # of the target; behind a BOS only the BOS's place is known
        assert known.sum() > 200 and torch.equal(batch.targets[known], torch.from_numpy(ids.astype(np.int64))[places[known]])


@KINDS
def test_a_batch_does_not_depend_on_what_was_read_before(kind):
    used = loader(kind)
    for step in (0, 1, 7, 7, 3, 60, 59):
        assert same(used.batch(step), loader(kind).batch(step)), step


@KINDS
def test_a_restored_loader_goes_on_bit_for_bit(kind):
    used = loader(kind)
    for step in range(25):
        used.batch(step)
    state = json.loads(json.dumps(used.position()))  # a checkpoint holds it as JSON
    for step in (24, 25, 26, 40, 3):
        restored = loader(kind)
        restored.go_to(state)
        assert same(restored.batch(step), loader(kind).batch(step)) and same(restored.batch(step + 1), used.batch(step + 1))


@KINDS
def test_the_seed_decides_where_there_is_a_choice_and_the_folder_does_not(kind):
    one, other = loader(kind).batch(5), loader(kind, seed=2).batch(5)
    assert same(one, other) == (kind in ("sequential", "packed", "progressive"))
    renamed = stream(5000, 3001, 700)
    renamed.name = "elsewhere"
    assert same(one, loader(kind, renamed).batch(5))


@KINDS
@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"batch_tokens": 100}, "100 tokens per batch must be a positive multiple of sequence_length 16"),
        ({"batch_tokens": 0}, "positive multiple of"),
        ({"sequence_length": 0}, "positive multiple of"),
        ({"sequence_length": 16_384, "batch_tokens": 131_072}, r"too few: .* set a smaller train\.(sequence_length|batch_tokens)"),
    ],
)
def test_geometry_that_cannot_be_is_a_sentence(kind, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        loader(kind, **changes)


@pytest.mark.parametrize("kind, tokens_per_batch, advice", [("sequential", 320, "multiple of 128"), ("packed", 12, "multiple of 8")])
def test_batch_that_is_not_eight_spans_says_what_would_be(kind, tokens_per_batch, advice):
    with pytest.raises(ValueError, match=rf"train\.batch_tokens is {tokens_per_batch}; set it to a {advice}"):
        loader(kind, batch_tokens=tokens_per_batch, sequence_length=4 if kind == "packed" else T)


@KINDS
def test_processes_that_do_not_divide_the_rows_are_a_sentence(kind):
    with pytest.raises(ValueError, match=r"rows per batch do not divide over 3 processes; set train\.processes to a divisor"):
        loader(kind).batch(0, rank=0, world_size=3)


@KINDS
def test_token_outside_the_vocabulary_is_named_when_its_batch_is_read(kind):
    with pytest.raises(ValueError, match=r"folder holds token 29\d, its vocabulary has 290; .*run: dvc repro tokenize"):
        for step in range(40):
            loader(kind, stream(5000, 3001, 700, vocabulary_size=290)).batch(step)
    assert loader(kind, stream(5000, 3001, 700, vocabulary_size=300)).batch(0)


# ---- sequential


def test_sequential_is_eight_spans_of_the_text_and_wraps():
    source = stream(1000, 500)
    text, n = np.asarray(source, np.int64), BATCH // 8
    endless = np.tile(text, 4)
    batches, cursor = loader("sequential", source), 0
    for step in range(3 * len(text) // BATCH):
        spans = [endless[cursor + k * (n + 1) : cursor + (k + 1) * (n + 1)] for k in range(8)]
        cursor += 8 * (n + 1)
        batch = batches.batch(step)
        assert batch.inputs.tolist() == np.concatenate([span[:-1].reshape(-1, T) for span in spans]).tolist()
        assert batch.targets.tolist() == np.concatenate([span[1:].reshape(-1, T) for span in spans]).tolist()


# ---- coprime


def published_windows(generator, shard_tokens, cursors, num_windows, batches):
    """One draw of #1060's loader at eight processes, in its order of draws: (shard, offset in it) of each window."""
    usable = [shard for shard, n in enumerate(shard_tokens) if n > T]
    progress = min(batches / 1800, 1)
    left = [max(cursors[s][1] - cursors[s][4], 1) if s in cursors else (shard_tokens[s] - 1) // T for s in usable]
    weights = np.array(left, float) ** (0.9 - 0.4 * progress)
    weights /= weights.sum()
    low, high = min(8, len(usable), num_windows), min(64, len(usable), num_windows)
    chosen = generator.choice(len(usable), size=round(low + progress * (high - low)), replace=False, p=weights)
    counts = np.ones(len(chosen), int)
    if num_windows - len(chosen) > 0:
        counts += generator.multinomial(num_windows - len(chosen), weights[chosen] / weights[chosen].sum())
    buckets = []
    for i in generator.permutation(len(chosen)):
        shard, bucket = usable[chosen[i]], []
        for _ in range(counts[i]):
            if shard not in cursors or cursors[shard][4] == cursors[shard][1]:
                most = min(T - 1, shard_tokens[shard] - T - 1)
                phase = int(generator.integers(0, most + 1)) if most else 0
                c = (shard_tokens[shard] - 1 - phase) // T
                start, stride = (int(generator.integers(0, c)), 0) if c > 1 else (0, 1)
                while c > 1 and math.gcd(stride, c) != 1:
                    stride = int(generator.integers(1, c))
                cursors[shard] = [phase, c, start, stride, 0]
            phase, c, start, stride, j = cursors[shard]
            bucket.append((shard, phase + (start + j * stride) % c * T))
            cursors[shard][4] += 1
        buckets.append([bucket[k] for k in generator.permutation(len(bucket))] if len(bucket) > 1 else bucket)
    windows = []
    while buckets:
        following = []
        for i in generator.permutation(len(buckets)):
            windows.append(buckets[i].pop())
            if buckets[i]:
                following.append(buckets[i])
        buckets = following
    return windows


@pytest.mark.parametrize(
    "lengths, num_windows, steps",
    [((400,), 16, 60), ((700, 300, 17, 5, 33, 260), 16, 60), ((90,) * 70, 80, 1900)],
    ids=["one shard", "six shards", "the whole ramp"],
)
def test_coprime_makes_the_published_draws_in_their_order(lengths, num_windows, steps):
    source, cursors, generator = stream(*lengths), {}, np.random.Generator(np.random.PCG64(1))
    batches = loader("coprime", source, batch_tokens=num_windows * T)
    for step in range(steps):
        expected = published_windows(generator, lengths, cursors, num_windows, step)
        assert batches._starts(step).tolist() == [source.offsets[shard] + offset for shard, offset in expected]


def test_coprime_visits_every_window_of_a_shard_before_one_again_and_then_with_another_phase():
    batches, entered = loader("coprime", stream(1601), batch_tokens=T), []
    while len(entered) < 3:
        step, starts = batches.batches, [int(batches._starts(batches.batches)[0])]
        count = batches.cursors[0]["windows"]
        starts += [int(batches._starts(step + 1 + i)[0]) for i in range(count - 1)]
        assert len(set(starts)) == count == (1600 - min(starts)) // T and len({start % T for start in starts}) == 1
        entered.append(min(starts))
    assert len(set(entered)) == 3


# ---- shuffled


def test_an_epoch_of_shuffled_visits_every_window_once_and_shards_in_proportion():
    source = stream(3200, 1000, 10)
    batches = loader("shuffled", source, batch_tokens=T)
    assert batches.windows_per_epoch == 199 + 61  # floor((N - T) / T); the third shard has no room
    for epoch in (0, 1):
        starts = [int(batches._starts(epoch * 260 + row)[0]) for row in range(260)]
        assert len(set(starts)) == 260
        for first, end, count in ((0, 3200, 199), (3200, 4200, 61)):
            inside = sorted(start for start in starts if first <= start < end)
            assert len(inside) == count and set(np.diff(inside)) == {T} and inside[-1] + T < end
        assert 20 < sum(start < 3200 for start in starts[:52]) < 50  # 40 are expected of the first fifth
    assert starts != [int(batches._starts(row)[0]) for row in range(260)]


def test_a_batch_larger_than_an_epoch_goes_through_several():
    batches = loader("shuffled", stream(120), batch_tokens=20 * T)
    starts = batches._starts(0).tolist()
    assert batches.windows_per_epoch == 6
    assert [len(set(starts[i : i + 6])) for i in range(0, 18, 6)] == [6, 6, 6]
    assert batches._starts(1).tolist()[:4] == [s for s in batches._order(3).tolist() if s not in starts[18:]]


# ---- packed


def test_bos_of_the_packed_loader_is_that_of_the_tokenizer():
    assert packed.BOS == BOS


def test_packed_reads_shards_from_their_first_document_and_drops_their_rest():
    n = BATCH // 8
    source = stream(10, 1000, 600, 300, bos_every=21)
    text, whole, expected = np.asarray(source, np.int64), 8 * (n + 1), []
    for first, end in ((0, 10), (10, 1010), (1010, 1610), (1610, 1910)):
        cursor = next(t for t in range(first, end) if t % 21 == 0)
        while end - cursor >= whole:
            expected.append([text[cursor + k * (n + 1) : cursor + (k + 1) * (n + 1)] for k in range(8)])
            cursor += whole
    assert len(expected) == 3 + 2 + 1
    batches = loader("packed", source)
    for step in range(14):
        batch, spans = batches.batch(step), expected[step % 6]
        assert batch.inputs.shape == (8, n) and batch.inputs.tolist() == [span[:-1].tolist() for span in spans]
        assert batch.targets.tolist() == [span[1:].tolist() for span in spans]


def test_text_without_a_document_in_it_cannot_be_packed():
    with pytest.raises(ValueError, match="too few: 264 are needed"):
        loader("packed", Stream([np.full(5000, 7, np.uint16)], name="x", vocabulary_size=9))


@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_cu_seqlens_count_over_the_rows_of_their_own_process(world_size):
    for rank in range(world_size):
        batch = loader("packed").batch(3, rank=rank, world_size=world_size)
        flat, bounds = batch.inputs.flatten().tolist(), batch.cu_seqlens.tolist()
        assert bounds[0] == 0 and bounds[-1] == len(flat) and len(bounds) % 64 == 0
        inner = [b for b in bounds if b < len(flat)]
        assert {i for i, token in enumerate(flat) if token == BOS} | set(range(0, len(flat), BATCH // 8)) <= set(inner)
        assert max(b - a for a, b in itertools.pairwise(bounds)) <= batch.max_seqlen == T


# ---- training with each


@pytest.fixture
def text(tmp_path):
    """A train and a holdout split of a few documents, as `tokenize` writes them; train has three shards."""
    for split, lengths in (("train", (3000, 2500, 1200)), ("holdout", (400,))):
        folder = tmp_path / split
        folder.mkdir()
        for number, shard in enumerate(stream(*lengths).shards):
            shards.write(folder / f"fineweb_{split}_{number:06d}.bin", shard)
            shards.write(folder / f"fineweb_{split}_bytes_{number:06d}.bin", (shard != BOS) * 3)
        (folder / "meta.json").write_text(
            json.dumps(
                {
                    "tokens": sum(lengths),
                    "bytes": 3 * int((np.asarray(stream(*lengths)) != BOS).sum()),
                    "vocabulary_size": 300,
                    "text_sha256": split,
                    "tokenizer_sha256": "t",
                }
            )
        )
    return tmp_path


def run_training(folder, name, kind, **changes):
    """Six steps of `train` with one loader, into folder/name; the file of the weights."""
    tree = params.read(ROOT / "params.yaml")
    tree["train"] |= {
        "steps": 6,
        "sequence_length": 16,
        "batch_tokens": 256,
        "loader": kind,
        "checkpoint_seconds": 0.0,
        "threads": 1,
        "techniques": {},
        "holdout_every": 6,
        "device": "cpu",
        "context": [[5, 0.4], [16, 1.0]] if kind == "progressive" else [],
    } | changes
    tree["model"] |= {"num_layers": 1, "width": 16, "num_heads": 2, "num_kv_heads": 1, "mlp_width": 16, "rope_dims": 4}
    out = folder / name
    train.main(
        params.section(tree, train.TrainSettings),
        params.section(tree, train.Model),
        train_tokens=folder / "train",
        holdout_tokens=folder / "holdout",
        weights=out / "model.safetensors",
        averages=out / "averages",
        snapshots=out / "snapshots",
        curve=out / "loss.csv",
        metrics=out / "metrics.json",
        scratch=folder / "scratch",
    )
    return out / "model.safetensors"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if n == 0 else pytest.mark.slow) for n, kind in enumerate(plugin.names_in(train.LOADERS))]
)
def test_training_killed_after_three_of_six_steps_ends_with_the_same_bytes(text, kind, monkeypatch, capsys):
    class Killed(Exception):
        pass

    def save_then_die(self, step, *state):
        save(self, step, *state)
        if step == 3:
            raise Killed

    expected, save = run_training(text, "whole", kind).read_bytes(), checkpoints.Folder.save
    monkeypatch.setattr(checkpoints.Folder, "save", save_then_die)
    with pytest.raises(Killed):
        run_training(text, "killed", kind)
    monkeypatch.setattr(checkpoints.Folder, "save", save)
    capsys.readouterr()
    draw, drawn = coprime.Loader._draw, []
    monkeypatch.setattr(coprime.Loader, "_draw", lambda self: drawn.append(self.batches) or draw(self))
    assert run_training(text, "killed", kind).read_bytes() == expected
    assert "from step 3" in capsys.readouterr().err
    assert drawn == ([3, 4, 5] if kind == "coprime" else [])  # its position came from the checkpoint


@KINDS
def test_progress_bar_and_metrics_count_the_tokens_of_all_rows(text, kind, capsys):
    run_training(text, "out", kind)
    metrics = json.loads((text / "out/metrics.json").read_text())
    shown = re.findall(r"tokens_per_second=(\d+)", capsys.readouterr().err)
    assert int(shown[-1]) == metrics["tokens_per_second"]


def test_packed_training_keeps_attention_inside_documents(text, monkeypatch):
    inside, batch = run_training(text, "inside", "packed").read_bytes(), packed.Loader.batch
    monkeypatch.setattr(packed.Loader, "batch", lambda *a, **k: dataclasses.replace(batch(*a, **k), cu_seqlens=None))
    assert run_training(text, "across", "packed").read_bytes() != inside


@pytest.mark.slow
def test_each_loader_trains_to_weights_of_its_own_and_learns(text):
    kinds = plugin.names_in(train.LOADERS)
    weights = {kind: tensors.load(run_training(text, kind, kind, steps=12))[0]["embedding.weight"] for kind in kinds}
    assert all(not torch.equal(weights[a], weights[b]) for a in weights for b in weights if a < b)
    for kind in kinds:
        rows = (text / kind / "loss.csv").read_text().splitlines()[1:]
        losses = [float(row.split(",")[1]) for row in rows]
        assert len(losses) == 12 and losses[-1] < losses[0] - 0.1, kind


def test_a_checkpoint_holds_the_position_of_the_loader(text, monkeypatch):
    found = []
    monkeypatch.setattr(checkpoints.Folder, "save", lambda self, step, state, facts: found.append(json.loads(json.dumps(facts))))
    run_training(text, "out", "coprime")
    assert [facts["loader"]["batches"] for facts in found] == [facts["step"] for facts in found] == [1, 2, 3, 4, 5]


def test_text_that_is_trained_on_is_not_read_before_it_is_needed(text, monkeypatch):
    monkeypatch.setattr(Stream, "check", lambda self, tokens: pytest.fail("the train split was scanned"))
    split = splits.read(text / "train", "train")
    assert len(split.tokens) == 6700 and split.byte_counts is None


def test_text_that_is_scored_is_checked_as_a_whole_when_it_is_opened(text):
    meta = text / "holdout/meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"vocabulary_size": 290}))
    with pytest.raises(ValueError, match=r"holdout holds token 299, its vocabulary has 290"):
        splits.read(text / "holdout", "holdout", sidecar=True)
    assert splits.read(text / "holdout", "holdout").tokens.vocabulary_size == 290


def test_split_with_other_tokens_than_it_says_is_refused(text):
    (text / "train/fineweb_train_000002.bin").unlink()
    with pytest.raises(ValueError, match=r"holds 5500 tokens, its meta\.json says 6700; run: dvc repro tokenize"):
        splits.read(text / "train", "train")


def test_a_batch_moves_to_a_device_whole():
    moved = loader("packed").batch(0).to(torch.device("meta"))
    assert {moved.inputs.device.type, moved.targets.device.type, moved.cu_seqlens.device.type} == {"meta"}
