"""No folder costs a traceback, a hang, the memory of the machine, or another folder's audit; nothing of it reaches a terminal as it is."""

import base64
import io
import json
import os
import resource
import subprocess
import sys
import time
import zipfile
import zlib

import pytest

from stages.audit.code import unpack
from stages.audit.submission import __main__ as command
from stages.audit.submission import contents, document, fence, output
from stages.audit.submission.folder import audit
from stages.audit.submission.logs import log as logs
from tests.submission_folders import log, write


def b64(data):
    return base64.b64encode(data).decode()


def named_badly():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("packagé/inner.py", "x = 1\n" * 50)
    return buffer.getvalue().replace("packagé".encode(), b"packag\xff\xfe").replace("packagé".encode("cp437"), b"packag\xff")


SCRIPTS = {
    "alternative characters": 'import base64\nexec(base64.b64decode("' + "A" * 88 + '", "abc"))\n',
    "window bits": f"import zlib\nexec(zlib.decompress(b'{'x' * 99}', 1{'0' * 30}))\n",
    "window bits of a number": f"import zlib\nexec(zlib.decompress(b'{'x' * 99}', 99))\n",
    "digits in JSON": f'import base64\nexec(base64.b64decode("{b64(json.dumps({"a": 1}).replace("1", "9" * 5000).encode())}"))\n',
    "nested JSON": f'import base64\nexec(base64.b64decode("{b64(b"{" + b"[" * 90_000)}"))\n',
    "list of lists": "import zlib\n"
    + "\n".join(f"a{i}=[{','.join([f'a{i + 1}'] * 100)}]" for i in range(6))
    + "\na6=1\nexec(zlib.decompress(a0))\n",
    "slow codec": 'x="' + "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))) + '".encode("punycode")\nexec(x)\n',
    "many loops": "def f(val_tokens):\n" + "  for i in x:\n    loss_sum += 1\n    l.backward()\n" * 4_000,
    "dense source": "a\n" * 300_000,
    "name that is no text in an archive": f'import base64\nexec(base64.b64decode("{b64(named_badly())}"))\n',
    "bomb": f'import zlib, base64\nexec(zlib.decompress(base64.b64decode("{b64(zlib.compress(bytes(60_000_000), 9))}")))\n',
    "functions that call each other twice": "".join(
        f"def f{i}(val_tokens, a):\n    f{i + 1}(val_tokens, a)\n    f{i + 1}(a, val_tokens)\n" for i in range(60)
    )
    + "f0(1, 2)\n",
    "functions of each other": "def f(val_tokens):\n    g(val_tokens)\ndef g(val_tokens):\n    f(val_tokens)\n    f(g)\nf(1)\n",
    "deep nesting": "x = " + "[" * 5_000 + "]" * 5_000 + "\ndef f(val_tokens):\n    y = " + "not " * 3_000 + "x\n",
    "long chain": "x = " + "a.b(c)" + ".d(e)" * 5_000 + "\ny = " + "1 + " * 5_000 + "1\n",
    "no text": bytes(range(256)).decode("latin-1") * 40,
    "one long line": "x = '" + "y" * 2_000_000 + "'\n",
    "closed brackets": "}" * 100_000,
    "quotes": "'\"" * 50_000,
}
LOGS = {
    "blanks": ("a" + " " * 2_000 + "\n") * 50,
    "digits": "val_tokens: " + "9" * 4_000 + "\nval_loss:" + "1" * 900 + " val_bpb:" + "2" * 900 + "\n",
    "exponents": "x val_loss:1e9999 val_bpb:1e-9999\nx val_loss:1e400 val_bpb:1e999\n",
    "repeated words": ("calib val calib hessian gptq awq " * 30 + "\n") * 300,
    "colons": ("a:b=" * 500 + "\n") * 300,
    "scores": "x val_loss:2.0 val_bpb:1.0 eval_time:1ms\n" * 20_000,
    "returns": "\r".join(f"{i}%| bpb: 1.{i}" for i in range(30_000)) + "\n",
    "no text": bytes(range(256)).decode("latin-1") * 2_000,
    "wide text": "\ufeff" + "val_bpb:1.0\x00" * 3_000,
    "numbers": ("1" * 900 + ":" + "9" * 90 + " ") * 300,
}
JSONS = {
    "huge number": '{"val_bpb": 1.08, "bytes_total": ' + "9" * 400 + "}",
    "digits": '{"val_bpb": 1.08, "bytes_total": ' + "9" * 5_000 + "}",
    "nesting": "[" * 100_000,
    "no text": "\udcff".encode("utf-8", "surrogateescape").decode("latin-1") + "{",
    "strange kinds": (
        '{"val_bpb": [], "seeds": {"a": 1}, "seed_results": {"1": null, "2": [1], "3": NaN, "4": '
        'Infinity}, "hardware": {}, "track": 5, "pr": {}}'
    ),
    "negative": '{"val_bpb": -1, "val_loss": -2, "seed_results": {"42": -0.0}}',
}


def started_over(function):
    """CPU seconds of `function` and its children."""
    before = [sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    result = function()
    after = [sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return result, sum(after) - sum(before)


def heavy(cases, slow):
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in cases]


@pytest.mark.parametrize(
    "name", heavy(SCRIPTS, ("many loops", "dense source", "bomb", "slow codec", "deep nesting", "long chain", "one long line"))
)
def test_hostile_script_ends_soon_and_leaves_the_rest_of_the_folder(name, tmp_path):
    folder = write(tmp_path, files={"train_gpt.py": SCRIPTS[name]})
    (result, why), seconds = started_over(lambda: command.audited(folder))
    assert why == "" and seconds < 5 and len(result["runs"]) == 3 and result["proved"] == []


@pytest.mark.parametrize("name", heavy(LOGS, ("scores", "repeated words", "numbers", "colons")))
def test_hostile_log_ends_soon_and_leaves_the_other_logs(name, tmp_path):
    folder = write(tmp_path, seeds=(42, 314), files={"train_seed999.log": LOGS[name]})
    (result, why), seconds = started_over(lambda: command.audited(folder))
    assert why == "" and seconds < 5
    assert {run["seed"] for run in result["runs"]} >= {42, 314}


@pytest.mark.parametrize("name", JSONS)
def test_hostile_claims_leave_the_logs(name, tmp_path):
    result, why = command.audited(write(tmp_path, files={"submission.json": JSONS[name]}))
    assert why == "" and len(result["runs"]) == 3 and json.dumps(result)


def test_control_characters_never_reach_the_terminal_nor_a_table(tmp_path, capsys):
    folder = write(tmp_path, name="2026\n\x1b[31mlegal\u202e")
    (folder / "train_seed42.log").write_text(log(name="\x1b[2J\x1b[Hx: legal\x07"))
    (folder / "evil\x1b[2J.py").write_text("import socket\n")
    out = tmp_path / "out"
    assert (
        command.main([str(folder), "--json", f"{out}.json", "--csv", f"{out}.csv", "--html", f"{out}.html", "--markdown", f"{out}.md"]) == 0
    )
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, *((tmp_path / f"out.{kind}").read_text() for kind in ("json", "csv", "html", "md"))):
        assert not {character for character in text if character < " "} - {"\n"} and "\u202e" not in text
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2 and "\\x1b[2J" in printed.out


def test_markup_of_a_folder_is_shown_and_not_obeyed(tmp_path):
    folder = write(tmp_path, name="<script>alert(1)</script>|a|@everyone [x](http://y)")
    found = document.of(audit(folder))
    page, comment, table = output.table_html([found]), output.comment(found), output.table_markdown([found])
    assert "<script>" not in page + comment + table and "@everyone" not in comment + table and "[x](" not in comment + table
    assert len(table.splitlines()) == 3 and output.table_csv([found | {"folder": "=1+1"}]).splitlines()[1].startswith("'=1+1")


def test_one_bad_folder_never_costs_the_batch(tmp_path, capsys):
    good = write(tmp_path / "good")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert command.main([str(empty), str(tmp_path / "absent"), str(good)]) == command.NOT_READ
    printed = capsys.readouterr()
    assert "2026-04-01_Ours" in printed.out and len(printed.err.strip().splitlines()) == 2


def test_files_that_may_not_be_read_and_links_in_circles_are_left_out(tmp_path):
    folder = write(tmp_path, files={"notes.log": "x"})
    (folder / "loop").symlink_to(folder)
    (folder / "gone.log").symlink_to(tmp_path / "absent")
    os.mkfifo(folder / "pipe.log")
    os.mkdir(folder / "directory.log")
    found = audit(folder)
    assert len(found.runs) == 3


def test_fence_tells_too_much_memory_and_mistakes_of_its_own():
    result, why = fence.run(lambda: {"size": len(bytearray(fence.MEMORY * 2))})
    assert result is None and "too much memory" in why
    assert fence.run(lambda: 1 / 0)[1].startswith("a mistake of this program (ZeroDivisionError")
    assert fence.run(lambda: {"a": 1}) == ({"a": 1}, "")


@pytest.mark.slow
def test_fence_ends_an_endless_loop_and_the_folder_is_told_about_without_its_code(tmp_path, monkeypatch):
    def forever(*arguments, **more):
        while True:
            pass

    monkeypatch.setattr(command, "CPU_SECONDS", 1)
    monkeypatch.setattr(unpack, "layers", forever)
    started = time.perf_counter()
    result, why = command.audited(write(tmp_path, script="x = 1\n"))
    assert "its code was not read" in why and "CPU time" in why and len(result["runs"]) == 3 and not result["complete"]
    assert time.perf_counter() - started < 60


@pytest.mark.slow
def test_memory_of_a_hostile_folder_is_bounded(tmp_path):
    folder = write(
        tmp_path, files={name.replace(" ", "_") + ".py": text for name, text in SCRIPTS.items()} | {"many.log": LOGS["scores"] * 20}
    )
    code = (
        "import re, resource, sys\nfrom stages.audit.submission.__main__ import main\ncode = main(sys.argv[1:])\n"
        "own = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"  # without the memory of who started it
        "print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) // 1024, file=sys.stderr)\nsys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and int(done.stderr.split()[-1]) < 512


def test_time_grows_with_the_length_of_a_log_and_not_with_its_square():
    def seconds(text):
        started = time.process_time()
        logs.parse("a.log", text)
        return time.process_time() - started

    for line in ("a" + " " * 4_000 + "\n", "val_bpb " * 500 + "\n", "calib val data " * 250 + "\n"):
        short, long = (min(seconds(line * count) for _ in range(3)) for count in (20, 80))
        assert long < 8 * short + 0.05


def test_printable_keeps_text_and_shows_what_a_terminal_would_obey():
    assert contents.printable("größer × 2\tb") == "größer × 2 b"
    assert contents.printable("a\x1b[31m\r\n\u2028\u202e\x9b") == "a\\x1b[31m\\r\\n\\u2028\\u202e\\x9b"
    assert contents.printable("x" * 500, 10) == "x" * 10 + "..."
