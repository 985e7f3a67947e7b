"""The short form of the siege (tests/siege): what it found in the jail, between sessions, in holdout and in the file, each in seconds."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.audit import evidence as evidences
from stages.audit.checks import data_in_code, memorization
from stages.audit.evidence import Evidence
from stages.lib.blob import bundle
from stages.lib.referee import artifact, jail
from tests import cheats
from tests.siege import forgeries, memory, run
from tests.test_model import model

full_jail = pytest.mark.skipif(jail.form() != "bubblewrap", reason="bubblewrap is not here")
WITHIN = {"a_part_as_prose", "parts_of_val_and_holdout", "the_beginnings", "a_tiny_fit"}  # what no form shows: bounded, or statistical
PROBE = """
import ctypes, fcntl, json, os
c = ctypes.CDLL(None)
found = {"capabilities": int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")), 16)}
found["umount"] = [line.split()[1] for line in open("/proc/mounts") if c.umount2(line.split()[1].encode(), 2) == 0]
found["remount"] = c.mount(None, b"/packages/filelock", None, 32 | 4096, None)
found["writable"] = []
for place in ("/", "/packages", "/packages/torch", "/usr/lib", "/artifact", "/proc/sys", "/proc/sys/kernel/core_pattern"):
    try:
        os.close(os.open(place if os.path.isfile(place) else place + "/siege", os.O_RDWR | os.O_CREAT))
        found["writable"].append(place)
    except OSError:
        pass
found["key"] = c.syscall(250, 10, -3, b"user", b"siege", 0)
found["library"] = os.listdir("/usr/lib")
found["folder"] = os.stat("/packages/torch").st_ino
print(json.dumps(found))
"""


def test_there_are_enough_cheats_of_each_kind():
    kinds = list(run.names().values())
    assert all(kinds.count(kind) >= 5 for kind in ("sampling", "process", "memory", "files")) and kinds.count("honest") >= 3
    assert len(kinds) >= 50 and all(one.__doc__ for one in (*memory.ALL, *forgeries.ALL))


@full_jail
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the probe's numbers of system calls are those of x86-64")
def test_a_jail_leaves_no_capability_no_setting_no_key_and_no_folder_of_others(tmp_path):
    import ctypes

    ctypes.CDLL(None).syscall(250, 1, None)  # a session keyring, as a login has one
    ctypes.CDLL(None).syscall(248, b"user", b"siege", b"val", 3, -3)
    (tmp_path / "probe.py").write_text(PROBE)
    for kept in (jail._private, jail._store, jail._visible):
        kept.cache_clear()

    def probed(_) -> dict:
        with jail.Jail(tmp_path / "probe.py", [], stderr=2, extra={}, environment={}, gpu=False) as process:
            return json.loads(process.stdout.read())

    with ThreadPoolExecutor(2) as pool:  # the first two sessions of a process start together
        found, other = pool.map(probed, range(2))
    assert found == other
    wanted = {"capabilities": 0, "umount": [], "remount": -1, "writable": [], "key": -1}
    assert {name: found[name] for name in wanted} == wanted
    assert all("linux" in name for name in found["library"]) or len(jail._libraries()) == 1
    assert found["folder"] != os.stat(Path(torch.__file__).parent).st_ino


@full_jail
@pytest.mark.skipif(not hasattr(os, "preadv"), reason="asks the kernel what is in memory")
def test_what_a_jail_can_see_is_in_memory_before_it_starts(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(bytes(1 << 20))
    handle = os.open(path, os.O_RDWR)

    def absent() -> int:
        count = 0
        for start in range(0, 1 << 20, 4096):
            try:
                os.preadv(handle, [bytearray(1)], start, os.RWF_NOWAIT)
            except BlockingIOError:
                count += 1
        return count

    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    if not absent():
        pytest.skip("this file system keeps all in memory")
    jail.settle(path)
    for _ in range(100):  # the disk may be busy
        if not absent():
            return
        time.sleep(0.1)
    assert not absent()


def test_one_session_at_a_time_is_told_val_and_the_replay_is_the_first(monkeypatch):
    running, order = [], []

    def session(name):
        def told(*given, **named):
            assert not running, f"{name} runs beside {running}"
            running.append(name)
            time.sleep(0.05)
            order.append(running.pop())
            coded = SimpleNamespace(encoder=SimpleNamespace(finish=lambda: b""), largest=0.0, order=None)
            replayed = SimpleNamespace(coded=coded, refused="", targets=np.arange(1, 5))
            return np.zeros(4, np.int64) if name == "decode" else replayed

        return told

    monkeypatch.setattr(evidences, "replayed", session("replay"))
    monkeypatch.setattr(evidences, "withheld_in_whole_chunks", session("whole"))
    monkeypatch.setattr(evidences.coding, "decode", session("decode"))
    found = Evidence(
        **dict.fromkeys(Evidence.__dataclass_fields__.keys() - {"kept", "locks"})
        | {"text": cheats.Text(cheats.stream()), "drawn": (1,), "settings": SimpleNamespace(replayed=1, replay_reach=None, round_trip=4)}
        | {"options": {}, "nats": np.zeros(len(cheats.stream()) - 1)}
    )
    threads = [threading.Thread(target=getattr, args=(found, name)) for name in ("coded", "whole", "replay", "whole")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[0] == "replay" and sorted(order) == ["decode", "replay", "whole"]


def test_an_artifact_that_reads_the_targets_of_holdout_is_refused(monkeypatch, tmp_path):
    from stages.runtime.scoring.evaluators import sliding

    class Reads(sliding.Evaluator):
        def predict(self, seen, chunk):
            logits_RV = super().predict(seen, chunk).detach().clone()
            targets_R = seen[chunk[0].first : chunk[-1].last + 1]
            if self.reads:
                logits_RV[range(len(targets_R)), targets_R] += 3.0
            return logits_RV

    def verdict(reads: bool):
        make = lambda streaming=False: vars(found := Reads(model(trained=True), **cheats.GEOMETRY)).update(reads=reads) or found  # noqa: E731
        monkeypatch.setattr(artifact, "Session", type("Here", (cheats.Session,), {"make": staticmethod(make)}))
        splits = {name: cheats.stream(600, seed) for name, seed in (("train", 1), ("holdout", 2), ("val", 3))}

        def read(path, name, sidecar=False):
            return SimpleNamespace(tokens=splits[name], byte_counts=np.full(len(splits[name]), 3), vocabulary_size=cheats.VOCABULARY)

        monkeypatch.setattr(memorization.splits, "read", read)
        audited = SimpleNamespace(
            submission=tmp_path,
            train=None,
            holdout=None,
            text=read(None, "val"),
            tokens=splits["val"],
            told={"evaluator": "one", "options": {}, "vocabulary": cheats.VOCABULARY},
            nats=artifact.claim(tmp_path, splits["val"], evaluator="one", options={}).nats,
            metrics={"carries": False},
            settings=SimpleNamespace(memorization_tokens=400, replayed=60),
            generator=lambda purpose: np.random.default_rng(purpose),
        )
        with torch.no_grad():
            return memorization.check(audited)

    assert verdict(reads=False).verdict == "pass"
    found = verdict(reads=True)
    assert found.verdict == "fail" and "of holdout" in found.evidence["reason"]


@pytest.mark.parametrize(
    "make", [pytest.param(make, id=make.__name__, marks=pytest.mark.slow if n % 4 else ()) for n, make in enumerate(memory.ALL)]
)
def test_val_in_the_file_by_any_spelling_counts_as_data(make, tmp_path, monkeypatch):
    monkeypatch.setattr(data_in_code, "PROGRAM_BYTES", 18_000)  # there is no other program here
    generator = np.random.default_rng(5)
    known = memory.Val(*(generator.integers(1, 400, 20_000) for _ in range(2)))
    made, path = make(known), tmp_path / "submission.pyz"
    honest = bundle.build({"__main__.py": "print(1)\n"}, manifest={"options": {}}, blob=b"blob", memory=b"", tokenizer=b"")
    path.write_bytes(honest)
    audited = SimpleNamespace(submission=path, options={}, metrics={"bytes": 60_000}, lock=tmp_path / "dvc.lock")
    assert data_in_code.check(audited).verdict == "pass"
    packed = bundle.build(
        {"__main__.py": "print(1)\n", "caddie/liar.py": bundle.shortened(made.source)},
        manifest={"options": {}},
        blob=b"blob",
        memory=b"",
        tokenizer=b"",
    )
    path.write_bytes(made.forge(packed))
    audited.options = made.options
    found = data_in_code.check(audited)
    expected = "pass" if make.__name__ in WITHIN else "not_applicable"
    assert found.verdict == expected, found.evidence
    if make.__name__ in WITHIN:
        assert found.evidence["may_hold_bits_per_byte"] * 60_000 / 8 < 12_288 + 256 and len(known.packed()) > 12_288


def test_what_an_artifact_says_of_itself_stands_in_one_line_of_the_certificate():
    from stages.audit import certificate

    said = {
        "claims": ["causal\n\n# sliding: legal\n"],
        "verdict": "not legal",
        "run": "x",
        "checks": {},
        "referee": {"protocol": 2, "jail": "none"},
    }
    said |= dict.fromkeys(("drawn", "evaluator", "precision", "significance", "artifact_sha256", "text_sha256"), "y")
    said |= {"at_most_bits_per_byte": None, "bits_per_byte": 1.0, "confidence": 0.99}
    assert certificate.markdown(said).count("\n# ") == 0
