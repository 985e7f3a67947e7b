"""Several parts of a file at once: the rows are those of the evaluators, none knows its own step, and every file comes back."""

import json
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from stages.lib.blob import bundle
from stages.runtime import entry
from stages.runtime.base import plugin
from stages.runtime.scoring.streaming import Stream
from stages.runtime.text import text_file
from stages.runtime.text.tokenizer import BOS, PURE_BYTE, Tokenizer
from tests.conftest import ROOT
from tests.test_evaluators import MEMORY
from tests.test_model import model

STREAMING = {"window": 8, "block": 1}
OPTIONS = {"streaming": STREAMING, "memory": MEMORY | STREAMING | {"network": "streaming", "every": 1}}


def evaluator(name, **changes):
    return plugin.load("evaluators", name).Evaluator(model(trained=True, changes=changes), **OPTIONS[name])


def lanes(name, number, **changes):
    return plugin.load("lanes", name).Lanes(evaluator(name, **changes), number, BOS)


def tokens(*shape, seed=0):
    """Tokens that repeat each other, without a BOS, as in a file."""
    return np.random.default_rng(seed).integers(2, 9, shape)


@pytest.mark.parametrize("name", OPTIONS)
def test_one_lane_has_the_rows_of_the_evaluator(name):
    text = tokens(40)
    one, alone = lanes(name, 1), Stream(evaluator(name), len(text), BOS)
    for token in text:
        assert one.rows()[0] == pytest.approx(np.exp(alone.dist()), abs=2e-6)
        one.push(np.array([token]))
        alone.push([int(token)])


def test_network_of_each_lane_reads_its_own_tokens_only():
    text_TL = tokens(40, 3)
    all_lanes, each = lanes("streaming", 3), [lanes("streaming", 1) for _ in range(3)]
    for now in text_TL:
        assert all_lanes.rows() == pytest.approx(np.concatenate([lane.rows() for lane in each]), abs=2e-6)
        all_lanes.push(now)
        for lane, token in zip(each, now, strict=True):
            lane.push(np.array([token]))


def test_rows_are_distributions_that_know_nothing_of_their_own_step_and_learn_from_all_lanes():
    text_TL = tokens(30, 4)
    first, second, other = (lanes("memory", 4) for _ in range(3))
    for step, now in enumerate(text_TL):
        p_LV = first.rows()
        assert p_LV.sum(1) == pytest.approx(np.ones(4), abs=1e-9) and p_LV.min() > 0
        assert np.array_equal(p_LV, second.rows())  # to the bit: so a decoder finds what the encoder wrote
        if step < 20:  # the other one gets other targets in lane 1 at step 19, and has the same rows until then
            assert np.array_equal(p_LV, other.rows())
            other.push(np.where((np.arange(4) == 1) & (step == 19), 12, now))
        first.push(now)
        second.push(now.copy())
    assert not np.array_equal(other.rows()[[0, 2, 3]], first.rows()[[0, 2, 3]])


def test_lanes_share_what_they_learn():
    """If lane 0 reads 5 7 again and again, 7 becomes likelier after the first 5 in lane 1."""
    taught, untaught = lanes("memory", 2), lanes("memory", 2)
    for state, phrase in ((taught, (5, 7)), (untaught, (3, 8))):
        for step in range(21):
            state.rows()
            state.push(np.array([phrase[step % 2], 5 if step == 20 else 4]))
    assert taught.rows()[1, 7] > 2 * untaught.rows()[1, 7]


@pytest.mark.parametrize("number, width", [(0, 1), (1, 1), (3, 3), (7, 3), (9, 3), (11, 4)])
def test_lanes_are_contiguous_and_nearly_equal(number, width):
    order = text_file.order(number, width)
    assert sorted(order) == list(range(number))
    expected = np.array_split(np.arange(number), width)
    assert [order[lane::width].tolist() for lane in range(width)] == [part.tolist() for part in expected]


@pytest.fixture(scope="module")
def pure_byte():
    return Tokenizer(json.dumps(PURE_BYTE).encode())


@pytest.mark.parametrize("number", [0, 1, 3, 7, 8, 9, 11, 12, 30])
def test_files_about_the_borders_of_lanes_come_back(number, pure_byte, monkeypatch):
    monkeypatch.setattr(text_file, "LANE_TOKENS", 4)
    monkeypatch.setattr(text_file, "MOST_LANES", 5)
    monkeypatch.setattr(text_file, "GENERAL", {})
    content = (b"abcab\xff" * 9)[:number]
    work = {"key": b"k", "progress": iter, "lanes": plugin.load("lanes", "memory").Lanes}
    packed, bits = text_file.compress(content, pure_byte, evaluator("memory", vocabulary_size=260), **work)
    form, follows = text_file.checked(packed)
    assert struct.unpack_from("<IH", follows) == (number, min(max(number // 4, 1), 5))
    assert 8 * (len(follows) - text_file.CODED.size) <= bits * 1.001 + 64

    def opened():
        return evaluator("memory", vocabulary_size=260)

    assert text_file.decompress(form, follows, pure_byte, opened, **work) == content
    with pytest.raises(ValueError, match="compressed in lanes, which this artifact cannot read"):
        text_file.decompress(form, follows, pure_byte, opened, **work | {"lanes": None})


def test_machine_that_computes_in_another_way_is_told_at_the_first_step(pure_byte, monkeypatch):
    monkeypatch.setattr(text_file, "GENERAL", {})
    kind = plugin.load("lanes", "memory").Lanes

    class Elsewhere(kind):
        """The last bits of a logarithm differ, as with other vector instructions."""

        def rows(self):
            return super().rows() ** (1 + 1e-7)

    content, steps = b"abcab" * 9, []
    packed, _ = text_file.compress(content, pure_byte, evaluator("memory", vocabulary_size=260), key=b"k", progress=iter, lanes=kind)

    def progress(numbers):
        for number in numbers:
            steps.append(number)
            yield number

    with pytest.raises(ValueError, match="computes in another way"):
        work = {"key": b"k", "progress": progress, "lanes": Elsewhere}
        text_file.decompress(*text_file.checked(packed), pure_byte, lambda: evaluator("memory", vocabulary_size=260), **work)
    assert steps == [0]


def test_lanes_ship_with_the_evaluators_that_have_them_and_are_used_where_they_suit():
    path = "caddie/scoring/lanes/memory.py"
    assert path in bundle.code(plugins=[], evaluators=("memory",), features=())
    assert path not in bundle.code(plugins=[], evaluators=("sliding",), features=())
    assert entry.lanes("memory", OPTIONS["memory"]) and entry.lanes("streaming", STREAMING)
    for change in ({"network": "sliding"}, {"reset_at": 5}, {"contexts": 100}, {"precision": "bf16"}):
        assert entry.lanes("memory", OPTIONS["memory"] | change) is None
    assert entry.lanes("sliding", {}) is None


@pytest.mark.slow
def test_artifact_with_a_memory_compresses_in_lanes_and_gives_the_file_back(finished, tmp_path):
    """The whole way: packed code, a text that ships, 1,200 tokens of source in 2 lanes, and a new process that decodes them."""
    with zipfile.ZipFile(finished / "artifacts/package/submission.pyz") as whole:
        manifest, *data = (whole.read(f"caddie/data/{name}") for name in ("manifest.json", "model.blob", "memory.bin", "tokenizer.model"))
    manifest = json.loads(manifest) | {
        "evaluator": "memory",
        "evaluators": ["memory"],
        "options": OPTIONS["memory"] | {"network": "streaming", "window": 32, "primed": 2},
    }
    sources = bundle.code(plugins=manifest["plugins"], evaluators=("memory",), features=tuple(manifest["model"]["features"]))
    blob, memory, tokenizer = data
    (tmp_path / "submission.pyz").write_bytes(bundle.build(sources, manifest=manifest, blob=blob, memory=memory, tokenizer=tokenizer))
    content = (ROOT / "stages/runtime/text/text_file.py").read_bytes()[:4000]
    (tmp_path / "text").write_bytes(content)

    def run(*argv):
        command = [sys.executable, "-I", "submission.pyz", *argv, "--threads", "1"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    done = run("compress", "text")
    assert json.loads(done.stdout)["compressed_bytes"] == (tmp_path / "text.caddie").stat().st_size, done.stderr
    form, follows = text_file.checked((tmp_path / "text.caddie").read_bytes())
    tokens, width = struct.unpack_from("<IH", follows)
    assert form == text_file.TEXT and width == text_file.lanes_for(tokens) >= 2
    done = run("decompress", "text.caddie", "--output", "again")
    assert done.returncode == 0 and (tmp_path / "again").read_bytes() == content, done.stderr
