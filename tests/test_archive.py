"""A submission.pyz of a stranger: whatever is wrong with it is one sentence that names the file, and nothing unpacks without a bound."""

import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages.audit.checks import data_in_code, static_reading
from stages.lib.node import command, files
from stages.lib.referee import archive, artifact, programs
from tests.conftest import run_node

MANIFEST = "caddie/data/manifest.json"
GOOD = {"protocol": artifact.PROTOCOL, "evaluators": ["one"], "options": {}}


def packed(folder: Path, manifest: bytes, **more: bytes) -> Path:
    path = folder / "submission.pyz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in {MANIFEST: manifest, **more}.items():
            made.writestr(name, text)
    return path


def changed(path: Path, *, flag: int | None = None, method: int | None = None, size: int | None = None) -> Path:
    """The same file, where its manifest says something else of itself, both times that it says it."""
    whole = bytearray(path.read_bytes())
    entry = zipfile.ZipFile(io.BytesIO(whole)).getinfo(MANIFEST)
    for place, after in ((entry.header_offset, 0), (whole.rfind(b"PK\1\2", 0, whole.rfind(MANIFEST.encode())), 2)):
        if flag is not None:
            whole[place + 6 + after] |= flag
        if method is not None:
            whole[place + 8 + after] = method
        if size is not None:
            whole[place + 22 + after : place + 26 + after] = size.to_bytes(4, "little")
    path.write_bytes(whole)
    return path


def sentence(capsys, look) -> str:
    """What the command says, which must be one line and no traceback."""
    with pytest.raises(SystemExit) as ended, command.sentences("audit"):
        look()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.count("\n") == 1 and len(said) < 1000
    return said


@pytest.mark.parametrize(
    "manifest, why",
    [
        (b"[]", "its manifest is no JSON object"),
        (b"null", "its manifest is no JSON object"),
        (b"NaN", "NaN is no number of JSON"),
        (b'{"protocol": 1e999}', "1e999 is no number of JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested too deeply"),
        (b"{", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b'{"protocol":' + b"9" * 5000 + b"}", "not valid JSON"),
        (json.dumps(GOOD | {"protocol": "2"}).encode(), 'speaks protocol "2", this referee speaks 2'),
        (json.dumps(GOOD | {"protocol": 2.0}).encode(), "speaks protocol 2.0, this referee speaks 2"),
        (json.dumps(GOOD | {"protocol": None}).encode(), "speaks protocol null, this referee speaks 2"),
        (json.dumps({"protocol": 2}).encode(), "does not say by a list of names which evaluators it packs"),
        (json.dumps(GOOD | {"evaluators": 5}).encode(), "does not say by a list of names which evaluators it packs"),
        (json.dumps(GOOD | {"evaluators": None}).encode(), "does not say by a list of names which evaluators it packs"),
        (json.dumps(GOOD | {"evaluators": [["one"]]}).encode(), "does not say by a list of names which evaluators it packs"),
        (b" " * (archive.MOST_MANIFEST + 1), "its manifest has 4,194,305 bytes, and at most 4,194,304 are read"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_manifest_that_says_nothing_a_referee_can_use_is_one_sentence(tmp_path, capsys, manifest, why):
    path = packed(tmp_path, manifest)
    said = sentence(capsys, lambda: artifact.packed(path, "one"))
    assert f"{path} " in said and why in said and "dvc repro package" in said


@pytest.mark.parametrize(
    "change, why",
    [
        ({"flag": 1}, "encrypted or packed by a method that Python does not import"),
        ({"method": 99}, "encrypted or packed by a method that Python does not import"),
        ({"method": zipfile.ZIP_BZIP2}, "encrypted or packed by a method that Python does not import"),
        ({"method": zipfile.ZIP_LZMA}, "encrypted or packed by a method that Python does not import"),
        ({"size": 20}, "CRC"),
        ({"size": 4000}, "manifest.json' is cut short"),
        ({"size": 1 << 31}, "it unpacks to 2,147,483,"),
    ],
    ids=str,
)
def test_entry_that_cannot_be_read_is_one_sentence(tmp_path, capsys, change, why):
    path = changed(packed(tmp_path, json.dumps(GOOD).encode()), **change)
    said = sentence(capsys, lambda: artifact.packed(path, "one"))
    assert f"{path} is not a readable submission" in said and why in said


def test_missing_blob_is_one_sentence(tmp_path, capsys):
    path = packed(tmp_path, json.dumps(GOOD).encode())
    assert "(it has no caddie/data/model.blob); run: dvc repro package" in sentence(capsys, lambda: artifact.read(path, "model.blob"))
    assert artifact.read(path, "memory.bin") == b"" and artifact.manifest(path) == GOOD


def looks(path: Path) -> list:
    evidence = SimpleNamespace(submission=path, options={}, metrics={"bytes": 1}, evaluator="one")
    return [lambda: artifact.packed(path, "one"), lambda: data_in_code.check(evidence)]


def test_entries_that_unpack_without_a_bound_are_not_unpacked(tmp_path, capsys):
    """Blanks behind the manifest, in another entry, or in many entries that lie in each other; what an entry says of its size binds it."""
    blanks = bytes(archive.MOST_MORE)  # before memory is looked at
    path = packed(tmp_path, json.dumps(GOOD).encode(), **{"caddie/data/notes": blanks, "caddie/notes.py": blanks})
    tracemalloc.start()
    for look in looks(path):
        assert "it unpacks to 134,217," in sentence(capsys, look)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    path = changed(packed(tmp_path, json.dumps(GOOD).encode() + blanks[: 1 << 25]), size=len(json.dumps(GOOD)))
    tracemalloc.reset_peak()
    with pytest.raises(ValueError, match="CRC"):
        artifact.packed(path, "one")
    with zipfile.ZipFile(path) as file:
        assert data_in_code.unexplained(file, path.stat().st_size) == file.getinfo(MANIFEST).compress_size
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()
    path = packed(tmp_path, json.dumps(GOOD).encode(), **{"caddie/data/notes": bytes(range(256)) * 99})
    with zipfile.ZipFile(path, "a") as made:
        made.filelist += [made.getinfo("caddie/data/notes")] * 9
        made._didModify = True
    assert "its entries lie in each other" in sentence(capsys, looks(path)[1])


def test_program_from_elsewhere_that_is_a_damaged_zip_gets_a_hint_and_no_traceback(tmp_path):
    path = changed(packed(tmp_path, b"{}", **{"a.py": b"x = 1\n"}), method=99)
    program = programs.Program(path, ("/usr/bin/python3", programs.PLACE))
    found = static_reading.check(SimpleNamespace(submission=program, evaluator="one"))
    assert "not all of its code was read" in found.evidence["hints"][0]


def test_audit_of_a_file_with_such_a_manifest_is_one_sentence(project, capsys):
    pyz, metrics = project / "artifacts/package/submission.pyz", project / "artifacts/evaluate/sliding/metrics.json"
    with zipfile.ZipFile(pyz, "a") as made, pytest.warns(UserWarning, match="Duplicate"):
        made.writestr(MANIFEST, "[" * 200_000)
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"artifact_sha256": files.sha256(pyz)}))
    with pytest.raises(SystemExit):
        run_node("audit", "sliding")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("caddie ")]
    assert len(said) == 1 and "submission.pyz is not a readable submission (its manifest is not valid JSON: it is nested" in said[0]
