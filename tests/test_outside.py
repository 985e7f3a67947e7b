"""Programs that were built elsewhere: what can be proved of them is proved, the rest is not ruled, and the jail holds."""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stages.audit.checks import self_contained
from stages.audit.outside import __main__ as command
from stages.audit.outside import claim, kit, text
from stages.lib.node import files
from stages.lib.referee import artifact, jail, programs
from stages.runtime.text.tokenizer import BOS
from stages.runtime.tokens import shards
from tests.conftest import ROOT
from tests.test_jail import KEEP, REACH, READ, SECRET, SEND, SERVE, host, in_form, needs, untouched  # noqa: F401 (host is a fixture)
from tests.test_readme import commands

PAGE = (ROOT / "docs/outside.md").read_text(encoding="utf-8")
NEVER_RULED = {"lineage", "files", "budgets", "data_in_code"}
DOCUMENTS = 3  # of val


def started(path: Path, **more) -> programs.Program:
    return programs.given(f"python {path}", python=jail.interpreter(), **more)


@pytest.fixture
def liar(tmp_path):
    """A folder with a program that does its deeds when a session begins."""
    (tmp_path / "liar").mkdir()
    (tmp_path / "liar/__main__.py").write_text(SERVE)
    (tmp_path / "liar/helper.py").write_text("here = 'beside it'\n")
    return started(tmp_path / "liar")


def found(program: programs.Program, deeds: dict[str, str], **about) -> dict[str, str]:
    with artifact.Session(program, evaluator="one", options=about | {"deeds": deeds}, num_targets=3, first=1) as session:
        return session.facts["found"]


@needs("bubblewrap")
def test_program_from_elsewhere_sees_itself_and_nothing_of_this_machine(liar, host):  # noqa: F811
    own = {
        "itself": "result = sorted(os.listdir('/artifact/program'))",
        "import": "import helper, numpy; result = helper.here",
        "place": "result = os.getcwd()",
        "note beside it": "open('/artifact/program/note', 'w'); result = 'kept'",
        "attribute of its file": "os.setxattr('/artifact/program/helper.py', 'user.caddie', b'x'); result = 'kept'",
    }
    deeds = READ | REACH | SEND | {name: KEEP[name] for name in ("in the library", "in /tmp", "in the time of its file")}
    said = found(liar, deeds | own, **host)
    assert not [name for name, result in said.items() if SECRET in result], said
    assert untouched({name: said[name] for name in (*REACH, "note beside it", "attribute of its file", "in /tmp", "in the library")}), said
    assert said["itself"] == "['__main__.py', 'helper.py']" and said["import"] == "beside it" and said["place"] == "/home"
    leave = "[open(f'{place}/note', 'w').write('x') for place in ('/home', '/dev/shm')]; result = 1"
    look = "result = os.listdir('/home') + os.listdir('/dev/shm')"
    assert found(liar, {"leave": leave})["leave"] == "1" and found(liar, {"look": look})["look"] == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("form", [pytest.param(form, marks=needs(form)) for form in jail.FORMS[1:]])
def test_program_from_elsewhere_runs_in_the_weaker_forms(liar, monkeypatch, form):
    in_form(monkeypatch, form)
    assert found(liar, {"import": "import helper, numpy; result = helper.here"}) == {"import": "beside it"}


def test_names_contents_and_nothing_else_of_a_folder_ship_and_count(tmp_path):
    (tmp_path / "made/deep").mkdir(parents=True)
    (tmp_path / "made/deep/weights").write_bytes(b"12345")
    (tmp_path / "made/__main__.py").write_bytes(b"123")
    program = started(tmp_path / "made")
    assert program.num_bytes() == 5 + len("deep/weights") + 3 + len("__main__.py")
    before = program.sha256()
    os.utime(tmp_path / "made/deep/weights", (1, 1))
    (tmp_path / "made/deep/weights").chmod(0o640)
    copy = program.copied(tmp_path / "copy")
    assert program.sha256() == before == started(copy).sha256()
    assert (copy / "deep/weights").stat().st_mode & 0o777 == 0o755 and (copy / "deep/weights").stat().st_mtime > 1
    (tmp_path / "made/deep/weights").rename(tmp_path / "made/deep/weightz")
    assert program.sha256() != before
    (tmp_path / "made/link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="is a link or no file, so what it ships cannot be counted"):
        program.num_bytes()


def test_everything_that_ships_counts_against_the_cap_and_so_do_options(tmp_path):
    (tmp_path / "made").mkdir()
    program, name = started(tmp_path / "made"), "weights"
    with open(tmp_path / "made" / name, "wb") as file:
        file.truncate(16_000_000 - len(name))
    for options, verdict in (({}, ("pass", "not_applicable")), ({"a": 1}, ("fail",))):
        metrics = {"jail": jail.form(), "artifact_sha256": program.sha256()}
        found = self_contained.check(SimpleNamespace(submission=program, options=options, metrics=metrics))
        assert found.verdict in verdict and found.evidence["artifact_bytes"] == 16_000_000 + (len('{"a": 1}') if options else 0)
    assert "8 over the cap of 16,000,000" in found.evidence["reason"]
    metrics["artifact_sha256"] = "another"
    assert self_contained.check(SimpleNamespace(submission=program, options={}, metrics=metrics)).verdict == "fail"


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("", "the command is empty"),
        ("no-such-program x", "no-such-program is no program of /usr/bin or /bin"),
        ("python", "names 0 files or folders, none"),
        ("python a.py b.py", r"names 2 files or folders, a.py, b.py; it takes one, or --ships FOLDER"),
        ("./a.py", "is a script; put its interpreter first"),
        ("python missing.py", "names 0 files or folders"),
    ],
)
def test_command_that_cannot_be_started_or_counted_is_one_sentence(tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.py"):
        Path(name).write_text("#!/usr/bin/python\n")
    with pytest.raises(ValueError, match=sentence):
        programs.given(words, python="python")
    with pytest.raises(ValueError, match=r"does not lie in .*, which is all that ships"):
        programs.given("python a.py", ships=Path(tmp_path / "b.py"), python="python")


@pytest.mark.parametrize("stated, judged", [(None, 1.23456), ("1.2346", 1.23456), ("1.23", 1.23456), ("1.2340", 1.234), ("1", 1.23456)])
def test_stated_score_is_judged_where_it_is_another_to_its_last_digit(stated, judged):
    assert claim.reported(1.23456, stated) == judged


@pytest.fixture
def export(finished, tmp_path, monkeypatch):
    """A folder as a user of the contest has it: shards, tokenizer, documents. It is the current folder."""
    (tmp_path / "data/export").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    made = finished / "artifacts"
    for split in ("holdout", "train"):
        shutil.copyfile(made / f"tokenize/{split}/fineweb_{split}_000000.bin", f"data/export/fineweb_{split}_000000.bin")
    tokens = shards.read(made / "tokenize/val/fineweb_val_000000.bin")
    shards.write(Path("data/export/fineweb_val_000000.bin"), tokens[: np.flatnonzero(tokens == BOS)[DOCUMENTS]])
    lines = (made / "prepare/val/documents.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:DOCUMENTS]
    Path("data/val.jsonl").write_text("".join(lines), encoding="utf-8")
    shutil.copyfile(made / "vocabulary/tokenizer.model", "data/export/tokenizer.model")
    shutil.copyfile(finished / "params.yaml", "params.yaml")
    Path("docs").symlink_to(ROOT / "docs")
    return tmp_path


def failed(written: dict) -> set[str]:
    return {name for name, check in written["checks"].items() if check["verdict"] == "fail"}


def certificate(folder: str) -> dict:
    return files.read_json(Path(folder) / "certificate.json")


def run(words: list[str], code: int = 0) -> str:
    """A command of the page, in the current folder."""
    words = [sys.executable if word == "python" else word for word in words]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def of_the_page(part: str) -> list[str]:
    (found,) = [line for line in commands(PAGE) if part in line]
    return shlex.split(found)


@pytest.mark.slow
def test_commands_of_the_page_certify_what_is_honest_and_refuse_the_rest(export):
    """The field's script is certified, with SLOT it is refused, and so is a score with a byte bug."""
    train = of_the_page("train_gpt.py data/export")
    run([*train, "40"])
    run(of_the_page("field/sliding.py"))
    said = run(of_the_page("sliding.certificate"))
    written = certificate("sliding.certificate")
    verdicts = {name: check["verdict"] for name, check in written["checks"].items()}
    assert {name for name, verdict in verdicts.items() if verdict == "not_applicable"} == NEVER_RULED
    assert {name for name, verdict in verdicts.items() if verdict == "reported"} == {"documents_apart", "static_reading"}
    assert set(verdicts.values()) == {"pass", "not_applicable", "reported"}
    assert written["verdict"] == "not ruled" and not written["legal"] and "NOT RULED" in said
    assert written["checks"]["lineage"]["evidence"]["reason"] == "built elsewhere: lineage not ruled"
    assert written["bits_per_byte"] < written["at_most_bits_per_byte"] < 1.3 * written["bits_per_byte"]
    assert written["checks"]["self_contained"]["evidence"]["code_bytes"] == started(Path("sliding")).num_bytes()
    assert written["artifact_sha256"] == started(Path("sliding")).sha256()
    assert "built elsewhere: lineage not ruled" in Path("sliding.certificate/certificate.html").read_text(encoding="utf-8")

    for path in Path("data/export").glob("*_holdout_*"):
        path.unlink()  # two checks, and three sessions, less
    run(of_the_page("field/slot.py"))
    run(of_the_page("slot.certificate"), code=1)
    written = certificate("slot.certificate")
    assert {"withheld", "replay"} <= failed(written) <= {"withheld", "replay", "round_trip"} and written["verdict"] == "not legal"
    assert written["checks"]["memorization"]["evidence"]["reason"] == "no holdout tokens were given"

    score = re.search(r"val_bpb:([\d.]+)", run(of_the_page("byte_bug.py data/export")))[1]
    run([word.replace("SCORE", score) for word in of_the_page("bug.certificate")], code=1)
    written = certificate("bug.certificate")
    assert failed(written) == {"byte_count"} and written["verdict"] == "not legal"
    assert f"{float(score):.6f} bits per byte are stated" in written["checks"]["byte_count"]["evidence"]["reason"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("perl", path=programs.SYSTEM) is None, reason="needs perl")
def test_command_of_the_page_certifies_a_program_in_perl(export):
    words = [word.replace("FILE 1024", "docs/examples/bigram.pl 384") for word in of_the_page("perl FILE 1024")]
    run(words)
    written = certificate("bigram.certificate")
    assert failed(written) == set() and written["verdict"] == "not ruled"
    assert {name for name, check in written["checks"].items() if check["verdict"] == "not_applicable"} == NEVER_RULED
    assert written["at_most_bits_per_byte"] is not None and written["checks"]["replay"]["evidence"]["off"] == 0


@contextlib.contextmanager
def listening():
    """A port, and whether anyone has connected to it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        server.setblocking(False)

        def reached() -> bool:
            with contextlib.suppress(BlockingIOError):
                return bool(server.accept())
            return False

        yield server.getsockname()[1], reached


CHEAT = """
import json, os, socket, struct, sys

out = os.fdopen(os.dup(1), "wb")
PLACES = ["/home/note", "/tmp/note", "/dev/shm/note", "/artifact/program/note", NOTE]

def answer(content):
    out.write(struct.pack("<I", len(content)) + content)
    out.flush()

def attempts(ids):
    for place in PLACES:
        try:
            open(place, "wb").write(ids)
        except OSError:
            pass
    try:
        socket.create_connection(("127.0.0.1", PORT), 1).sendall(ids)
    except OSError:
        pass

def remembered():
    for place in (VAL, *PLACES):
        try:
            return open(place, "rb").read()
        except OSError:
            pass
    return b""

known = 0
while kind := sys.stdin.buffer.read(1):
    (size,) = struct.unpack("<I", sys.stdin.buffer.read(4))
    content = sys.stdin.buffer.read(size)
    if kind == b"B":
        answer(json.dumps({"vocabulary": 384, "carries": False, "claims": ["causal"]}).encode())
    elif kind == b"K":
        known += len(content) // 4
    elif kind == b"R":
        row, val = [0.0] * 384, remembered()
        if val:
            row[struct.unpack_from("<I", val, 4 * known)[0]] = 100.0
        answer(struct.pack("<384d", *row))
    elif kind == b"S":
        attempts(content)
        answer(struct.pack("<I", 1) + struct.pack("<d", 0.001) * (len(content) // 4))
        answer(b"")
"""


@pytest.mark.slow
@needs("bubblewrap")
def test_program_that_looks_for_val_and_leaves_notes_is_refused(export):
    """It would be certified if it found val in a file, in a note of an earlier session or over the network."""
    val = export / "ids"
    val.write_bytes(shards.read(Path("data/export/fineweb_val_000000.bin"))[1:].astype("<u4").tobytes())
    with listening() as (port, reached):
        Path("cheat.py").write_text(f"VAL, NOTE, PORT = {str(val)!r}, {str(export / 'note')!r}, {port}\n{CHEAT}")
        told = [sys.executable, "-m", "stages.audit.outside", "python cheat.py", "--tokens", "data/export", "--out", "cheat.certificate"]
        run(told, code=1)
        assert not reached()
    written = certificate("cheat.certificate")
    assert {"replay", "withheld", "round_trip"} <= failed(written) and written["at_most_bits_per_byte"] is None
    assert written["bits_per_byte"] < 0.01 and not (export / "note").exists()


def bad(capsys, sentence: str, *argv: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(list(argv))
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert re.search(sentence, said) and said.count("\n") == 1, said


def test_bad_input_is_one_sentence_and_leaves_nothing(export, capsys):
    Path("p.py").write_text("")
    tokens, out = ("--tokens", "data/export"), ("--out", "made")
    bad(capsys, "--tokens nowhere is no folder", "python p.py", "--tokens", "nowhere", "--tokenizer", "data/export/tokenizer.model", *out)
    bad(capsys, "none.model is missing; name the tokenizer", "python p.py", *tokens, "--tokenizer", "none.model", *out)
    bad(capsys, "has no documents; give a file", "python p.py", *tokens, "--text", "nothing.jsonl", *out)
    bad(capsys, "lie in each other, and what ships is shown", "python data/export", *tokens, *out)
    bad(capsys, "takes a number such as 1.0810, not 'good'", "python p.py", *tokens, "--bits-per-byte", "good", *out)
    for score in ("9" * 400, "1" * 30, "", "."):
        bad(
            capsys,
            f"--bits-per-byte takes a number such as 1.0810, not '{score[:40]}'",
            "python p.py",
            *tokens,
            "--bits-per-byte",
            score,
            *out,
        )
    for options, why in (("[" * 200_000, "nested too deeply"), ('{"a":' * 90 + "1" + "}" * 90, "nested too deeply"), ("{", "Expecting")):
        bad(
            capsys,
            rf"--options '.{{1,40}}' is no JSON that can be told to a program \(.*{why}",
            "python p.py",
            *tokens,
            "--options",
            options,
            *out,
        )
    for options in ('{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', f'{{"a": {"9" * 5000}}}'):
        bad(capsys, r"--options '\{\\?\"a.*' is no JSON that can be told", "python p.py", *tokens, "--options", options, *out)
    bad(capsys, "--options takes a JSON object such as {}, not '5'", "python p.py", *tokens, "--options", "5", *out)
    os.mkfifo("pipe")
    bad(capsys, "pipe is neither a file nor a folder.*give the file itself", "python pipe", *tokens, *out)
    bad(capsys, "pipe is neither a file nor a folder.*give the file itself", "./pipe", *tokens, *out)
    Path("pipe").unlink()
    bad(capsys, "^caddie audit.outside: --out /proc/a/b cannot be written", "python p.py", *tokens, "--out", "/proc/a/b")
    bad(capsys, "exists and has no certificate; name another folder", "python p.py", *tokens, "--out", "data")
    Path("data/export/val").mkdir()
    shutil.copy("data/export/fineweb_val_000000.bin", "data/export/val")
    bad(capsys, "both have shards of val; leave one of them there", "python p.py", *tokens, *out)
    Path("data/export/val/fineweb_val_000000.bin").unlink()
    Path("data/export/fineweb_val_000000.bin").unlink()
    bad(capsys, r"has no shards \*_val_\*.bin", "python p.py", *tokens, *out)
    assert sorted(path.name for path in export.iterdir()) == ["data", "docs", "p.py", "params.yaml"]


def test_text_is_laid_out_as_the_pipeline_has_it_and_wrong_sidecars_are_kept_for_the_check(export, finished):
    text.lay_out(export / "a", tokens=Path("data/export"), tokenizer=Path("data/export/tokenizer.model"), text=Path("data/val.jsonl"))
    counts = shards.read_sidecar(export / "a/tokenize/val", "val")
    ours = shards.read_sidecar(finished / "artifacts/tokenize/val", "val")
    assert np.array_equal(counts, ours[: len(counts)]) and not list((export / "a/tokenize/train").glob("*_bytes_*"))
    shards.write(Path("data/export/fineweb_val_bytes_000000.bin"), counts + 1)
    text.lay_out(export / "b", tokens=Path("data/export"), tokenizer=Path("data/export/tokenizer.model"), text=None)
    assert np.array_equal(shards.read_sidecar(export / "b/tokenize/val", "val"), counts + 1)
    assert json.loads((export / "b/prepare/val/meta.json").read_text())["contents"] == "tokens"


def test_kit_ships_what_it_needs_and_refuses_what_it_would_overwrite(tmp_path, capsys):
    field = ROOT / "docs/examples/field"
    kit.put_together(field / "sliding.py", [field / "train_gpt.py"], tmp_path / "made")
    names = {name for name, _ in started(tmp_path / "made").entries()}
    assert {"__main__.py", "train_gpt.py", "caddie/kit.py", "caddie/serve.py", "caddie/scoring/harness.py"} <= names
    assert not any("blob" in name or "network" in name for name in names)
    kit.put_together(field / "slot.py", [field / "train_gpt.py"], tmp_path / "made")
    for others, out, sentence in (
        ([field / "none.py"], "other", "none.py is no file"),
        ([field / "train_gpt.py"] * 2, "other", "the same name"),
        ([], ".", "exists and has no kit"),
    ):
        with pytest.raises(ValueError, match=sentence):
            kit.put_together(field / "sliding.py", others, tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_example_of_the_page_is_the_file():
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Evaluator" in code]
    assert (ROOT / "docs/examples/field/sliding.py").read_text(encoding="utf-8").partition('"""\n\n')[2] == block
