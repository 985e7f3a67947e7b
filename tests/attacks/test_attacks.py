"""Hostile blobs end in a sentence: a seeded part of `make test-attacks`, bombs, and proof that the harness sees what it should."""

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from stages.runtime.base.errors import ArtifactError
from stages.runtime.blob import container
from stages.runtime.blob.codecs import CodecError
from tests.attacks import bombs, mutations, run

ROOT = Path(__file__).parents[2]
PROGRAMS = all(map(shutil.which, run.SLOW))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_mutated_blobs_are_refused_or_the_same(seed):
    found = run.in_process(count=700, seed=seed, slow=False)
    assert not found["bad"] and found["blobs"] >= 12
    assert found["ended"]["refused"] > 400 and found["ended"]["same"] > 10  # some mutants are sound: the harness compares contents


@pytest.mark.skipif(not PROGRAMS, reason="lrzip and zpaq are not installed")
def test_mutated_blobs_of_programs_are_refused_or_the_same():
    assert not run.in_process(count=12, seed=3, slow=True)["bad"]


def test_every_mutation_gives_the_same_mutant_for_the_same_seed_and_changes_something():
    sound = [
        container.pack(
            container.Model({"a.codes": np.arange(12, dtype=np.int8).reshape(3, 4)}, {}, {}), [container.Coding(how, {}, (), ("a.codes",))]
        )
        for how in ("codecs/zlib", "coders/ans")
    ]
    for change in set(mutations.MUTATIONS):
        one, other = ([change(*sound, random) for _ in range(20)] for random in (np.random.default_rng(5), np.random.default_rng(5)))
        assert one == other and any(mutant != sound[0] for mutant in one)


BOMB = """
import resource, sys
from pathlib import Path
from stages.runtime.blob import container
from stages.runtime.blob.codecs import CodecError
from stages.runtime.base.errors import ArtifactError
import brotli, zstandard, lzma
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (96 << 20), resource.RLIM_INFINITY))
try:
    container.unpack(sys.stdin.buffer.read())
except (ArtifactError, CodecError) as error:
    print(error)
"""


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, marks=pytest.mark.slow if what in ("lzma", "lzma in lzma", "lzma with a dictionary of 1.5 GiB", "zlib") else ())
        for what in bombs.STREAMS
    ],
)
def test_bomb_is_refused_without_the_memory_it_asks_for(what):
    codec, stream = bombs.STREAMS[what]
    blob = bombs.blob(codec, stream(), bombs.SMALL)
    done = subprocess.run([sys.executable, "-c", BOMB], input=blob, capture_output=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0 and codec in done.stdout.decode() and "make it again" in done.stdout.decode(), done.stderr.decode()


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAMS, reason="lrzip and zpaq are not installed")
def test_bomb_of_a_program_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what other programs leave in /tmp is not looked at
    for _, codec, stream in bombs.programs():
        with pytest.raises((ArtifactError, CodecError)):
            container.unpack(bombs.blob(codec, stream, bombs.SMALL))
    assert not list(tmp_path.iterdir())


def test_codes_of_a_coder_are_bounded_before_anything_is_made_for_them():
    """A constant matrix costs no bytes: 2^30 codes of it would be 4 GiB in int32, and 2^30 rows of no columns as many steps."""
    for shape in ((1 << 15, 1 << 15), (1 << 30, 0), (0, 1 << 30), (1 << 23, 1)):
        values = {"config": {}, "schemes": {}, "sections": [["coders/ans", [], [["a.codes", "int8", list(shape)]], 0, "0" * 64]]}
        with pytest.raises(ArtifactError, match="for coders"):
            container.unpack(mutations.sealed(values, [b"x" * 20]))


def test_harness_reports_a_decoder_that_hangs_eats_memory_or_fails_without_a_sentence(monkeypatch):
    """The limits are real: without them the attacks would prove nothing."""
    import time

    def decode(blob, *, size):
        calls.append(size)
        if len(calls) > run_calls:
            what = len(calls) % 3
            if what == 0:  # works for longer than SECONDS; of a sleep a twentieth counts
                until = time.process_time() + 0.02
                while time.process_time() < until:
                    pass
            elif what == 1:
                raise IndexError("a bug")
            else:
                bytearray(1 << 40)
        return original(blob, size=size)

    from stages.runtime.blob.codecs import zlib as module

    original, calls = module.decode, []
    sound = [blob for blob in run.blobs(slow=False) if container.header.read(blob).plugins() == ["codecs/zlib"]]
    run_calls = len(sound)
    monkeypatch.setattr(run, "blobs", lambda slow: sound)
    monkeypatch.setattr(run, "SECONDS", 0.01)
    monkeypatch.setattr(module, "decode", decode)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    bad = " ".join(run.attack(count=150, seed=1, slow=False)["bad"])
    assert "IndexError" in bad and "MemoryError" in bad and " s " in bad + " "
