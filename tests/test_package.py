"""What ships: it runs alone, has exactly the bytes it says, and holds only the code that scoring needs."""

import argparse
import ast
import csv
import json
import lzma
import math
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from stages.lib.blob import bundle, byte_table, quantized_model
from stages.runtime import entry
from stages.runtime.blob import header
from stages.runtime.tokens import shards
from tests.conftest import ROOT, run_node

PYZ = "artifacts/package/submission.pyz"


def score(root, folder, *argv):
    shutil.copy(root / PYZ, folder)
    return subprocess.run(
        [sys.executable, "-I", "submission.pyz", *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"], "OMP_WAIT_POLICY": "passive"},
        check=False,
    )


def test_artifact_scores_alone_in_an_empty_folder_and_agrees_with_the_pipeline(finished, tmp_path):
    shutil.copy(finished / "artifacts/tokenize/val/fineweb_val_000000.bin", tmp_path / "tokens.bin")
    done = score(finished, tmp_path, "score", "tokens.bin")
    line, metrics = json.loads(done.stdout), json.loads((finished / "artifacts/evaluate/sliding/metrics.json").read_text())
    assert (line["bits_per_byte"], line["tokens"], line["bytes"]) == (metrics["bits_per_byte"], metrics["tokens"], metrics["bytes"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["submission.pyz", "tokens.bin"]


def test_fixed_names_of_the_metrics(finished):
    package = json.loads((finished / "artifacts/package/metrics.json").read_text())
    assert {"artifact_bytes", "code_bytes", "model_bytes", "cap_bytes", "over_cap_bytes", "pyz_bytes", "sha256"} <= set(package)
    script, blob = (finished / "artifacts" / path for path in ("script/train_gpt.py", "compress/brotli_11/model.blob"))
    assert (package["code_bytes"], package["model_bytes"]) == (script.stat().st_size, blob.stat().st_size)
    memory = finished / "artifacts/memory/memory.bin"
    assert 0 < package["memory_bytes"] == memory.stat().st_size <= 2000
    assert package["artifact_bytes"] == package["code_bytes"] + package["model_bytes"] + package["memory_bytes"]
    assert package["pyz_bytes"] == (finished / PYZ).stat().st_size
    compress = json.loads((finished / "artifacts/compress/brotli_11/metrics.json").read_text())
    assert {"codec", "blob_bytes", "raw_bytes", "bits_per_weight", "entropy_bits_per_weight", "encode_seconds", "decode_seconds"} <= set(
        compress
    )
    assert compress["blob_bytes"] == (finished / "artifacts/compress/brotli_11/model.blob").stat().st_size
    evaluate = json.loads((finished / "artifacts/evaluate/slot/metrics.json").read_text())
    assert {"evaluator", "bits_per_byte", "loss_nats", "tokens", "bytes", "seconds"} <= set(evaluate)


def test_every_metrics_file_carries_the_hash_of_its_text(finished):
    prepared = json.loads((finished / "artifacts/prepare/metrics.json").read_text())["sha256"]
    for path in (finished / "artifacts").rglob("*.json"):
        if path.name in ("metrics.json", "certificate.json") and path.parent.name not in ("prepare", "report", "script"):
            assert json.loads(path.read_text())["text_sha256"] in prepared.values(), path
    report = json.loads((finished / "artifacts/report/metrics.json").read_text())
    assert set(prepared.values()) <= set(report.values())


def test_score_is_the_ledgers_sum_over_the_raw_bytes(finished):
    metrics = json.loads((finished / "artifacts/evaluate/causal_slot/metrics.json").read_text())
    nats = np.load(finished / "artifacts/evaluate/causal_slot/ledger.npy", allow_pickle=False)
    documents = (finished / "artifacts/prepare/val/documents.jsonl").open(encoding="utf-8")
    raw = sum(len(json.loads(line)["text"].encode()) for line in documents)
    assert metrics["bits_per_byte"] == pytest.approx(nats.sum() / math.log(2) / raw, rel=1e-12) and metrics["bytes"] == raw


def test_only_what_scoring_needs_is_packed(finished):
    with zipfile.ZipFile(finished / PYZ) as archive:
        names = set(archive.namelist())
    assert {
        "__main__.py",
        "caddie/entry.py",
        "caddie/blob/codecs/brotli.py",
        "caddie/scoring/evaluators/sliding.py",
        "caddie/data/model.blob",
    } <= names
    assert (
        not {
            "caddie/blob/codecs/lrzip.py",
            "caddie/blob/codecs/zlib.py",
            "caddie/blob/filters/byte_shuffle.py",
            "caddie/blob/external.py",
            "caddie/blob/coders/ans.py",
            "caddie/blob/packing.py",
        }
        & names
    )
    assert all(name == "__main__.py" or name.startswith("caddie/") for name in names)


def test_packed_code_is_the_program_without_what_only_people_read(finished, tmp_path):
    with zipfile.ZipFile(finished / PYZ) as archive:
        packed = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    assert (packed.pop("__main__.py"), packed.pop("caddie/__init__.py")) == (bundle.START, "")
    for name, text in packed.items():
        source = (ROOT / name.replace("caddie", "stages/runtime", 1)).read_text(encoding="utf-8")
        assert len(text) < 0.9 * len(source) and all(
            ast.get_docstring(node) is None
            for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        ), name
    assert "python -I submission.pyz compress FILE" in score(finished, tmp_path, "--help").stdout


def test_table_of_bytes_adds_up_to_the_file_and_names_every_tensor_and_module(finished):
    with open(finished / "artifacts/package/bytes.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    package = json.loads((finished / "artifacts/package/metrics.json").read_text())
    by_part = {part: sum(int(row["bytes"]) for row in table if row["part"] == part) for part in ("model", "code")}
    assert sum(by_part.values()) == package["artifact_bytes"]
    parts = (finished / "artifacts/compress/brotli_11/model.blob", finished / "artifacts/memory/memory.bin")
    assert by_part["model"] == sum(path.stat().st_size for path in parts)
    model, _ = quantized_model.read(finished / "artifacts/quantize/model.safetensors")
    assert {row["name"] for row in table if row["part"] == "model"} == {*model.tensors, "header", "memory.bin"}
    source = finished / "artifacts/script/source"
    modules = {str(path.relative_to(source)) for path in source.rglob("*.py")} | {"run.json"}
    assert {row["name"] for row in table if row["part"] == "code"} == modules
    groups = {row["name"]: row["group"] for row in table}
    assert groups["blocks.0.mlp.up.weight.codes"] == "up" and groups["blocks.0.mlp.up.weight.scales"] == "scales"
    assert groups["stages/runtime/network/gpt.py"] == "network" and groups["stages/train/loop.py"] == "train"
    assert any(row["group"] == "control tensors" for row in table)


def test_rows_of_a_section_are_its_size_whatever_the_weights():
    assert byte_table.share(10, [1, 1, 1]) == [4, 3, 3] and byte_table.share(7, [0, 0]) == [4, 3] and byte_table.share(0, [2, 1]) == [0, 0]
    assert byte_table.share(100, [1e-9, 1.0, 3.0]) == [0, 25, 75]


def test_table_of_a_blob_has_its_sections_and_the_orders_of_rows(finished):
    from stages.lib.blob.grouping import Run
    from stages.runtime.blob import container

    model, _ = quantized_model.read(finished / "artifacts/quantize/model.safetensors")
    brotli = {"codec": "brotli", "options": {"quality": 5, "window_bits": 20}}
    groups = {"embedding": brotli | {"filters": ["sort_rows"]}, "rest": brotli | {"filters": []}}
    run = Run.from_params({"filters": [], "groups": groups}, "compress.runs.mine")
    blob = container.pack(model, list(run.codings(model).values()))
    table = byte_table.of_blob(blob, model)
    assert sum(size for *_, size in table) == len(blob)
    assert ("model", "side information", "embedding.weight.codes.order") in {row[:3] for row in table}
    section = header.read(blob).sections[0]
    assert sum(row[3] for row in table if row[1] == "embedding") == section.size


def test_packing_twice_gives_the_same_bytes(project):
    before = (project / PYZ).read_bytes()
    run_node("package")
    assert (project / PYZ).read_bytes() == before


def test_evaluator_left_out_of_the_package_is_not_in_it_and_saves_bytes(project, tree):
    before = (project / PYZ).stat().st_size
    tree({"package.evaluators": ["sliding"]})
    run_node("package")
    with zipfile.ZipFile(project / PYZ) as archive:
        assert "caddie/scoring/evaluators/slot.py" not in archive.namelist()
    assert (project / PYZ).stat().st_size < before


def test_cap_is_exact_to_the_byte_and_what_is_over_it_is_packed_all_the_same(project, tree, capsys):
    size = json.loads((project / "artifacts/package/metrics.json").read_text())["artifact_bytes"]
    before = (project / PYZ).read_bytes()
    for cap, over in ((size, 0), (size - 1, 1)):
        tree({"package.cap_bytes": cap})
        run_node("package")
        metrics = json.loads((project / "artifacts/package/metrics.json").read_text())
        assert (metrics["over_cap_bytes"], "over the cap" in metrics["size"]) == (over, bool(over))
        assert ("OVER THE CAP" in capsys.readouterr().out) == bool(over)
    assert (project / PYZ).read_bytes() == before
    assert f"1 over the cap of {size - 1:,}; to fit, the model may take" in metrics["size"]


@pytest.mark.slow
def test_run_that_is_over_the_cap_ends_with_an_artifact_a_score_and_a_verdict(project, tree, capsys):
    """Also when the quantizer cannot come near the cap, and when the cap leaves no room for the script."""
    groups = dict.fromkeys(("embedding", "attention", "mlp", "projection", "table"), "entropy")
    tree({f"quantize.groups.{group}.method": method for group, method in groups.items()})
    for cap in (70_000, 1):
        tree({"quantize.entropy.target_bytes": "auto", "package.blob": "compress/brotli_11", "package.cap_bytes": cap})
        for node in (("script",), ("fill_cap",), ("quantize",), *(("compress", run) for run in ("brotli_11", "zlib_9")), ("package",)):
            run_node(*node)
        assert "no artifact of at most" in capsys.readouterr().out
        for node in (*(("evaluate", run) for run in ("sliding", "slot", "causal_slot")), ("audit", "sliding")):
            run_node(*node)
        certificate = json.loads((project / "artifacts/audit/sliding/certificate.json").read_text())
        found = certificate["checks"]["self_contained"]
        assert certificate["verdict"] == "not legal" and found["verdict"] == "fail" and 0 < certificate["bits_per_byte"] < 20
        assert "over the cap of" in found["evidence"]["reason"] and found["evidence"]["over_cap_bytes"] > 0


def test_blob_of_another_model_is_refused(project, tree, capsys):
    tree({"quantize.groups.mlp.bits": 4})
    run_node("quantize")
    with pytest.raises(SystemExit):
        run_node("package")
    assert "is not a blob of the current quantized model" in capsys.readouterr().err


def test_codec_without_its_program_is_shown_as_unavailable_and_cannot_ship(project, tree, capsys, monkeypatch):
    runs = tree({})["compress"]["runs"] | {"lrzip": {"codec": "lrzip", "filters": [], "options": {"level": 9}}}
    tree({"compress.runs": runs})
    monkeypatch.setenv("PATH", "/nonexistent")
    run_node("compress", "lrzip")
    metrics = json.loads((project / "artifacts/compress/lrzip/metrics.json").read_text())
    assert metrics["available"] is False and metrics["blob_bytes"] is None and "apt-get install lrzip" in metrics["reason"]
    assert "IS UNAVAILABLE" in capsys.readouterr().err
    run_node("report")
    assert "apt-get install lrzip" in (project / "artifacts/report/index.html").read_text()
    tree({"package.blob": "compress/lrzip"})
    with pytest.raises(SystemExit):
        run_node("package")
    assert "not available here" in capsys.readouterr().err
    tree({"package.blob": "smallest"})
    run_node("package")
    assert json.loads((project / "artifacts/package/metrics.json").read_text())["compress_run"] == "brotli_11"


def test_smallest_blob_ships_with_what_decodes_it_and_nothing_else(project, tree, tmp_path):
    """A coder with scales in a group of their own; the artifact scores alone, in an empty folder, as the one with brotli does."""
    groups = {
        "codes": {"coder": "ans", "filters": [], "options": {}},
        "scales": {"codec": "zlib", "filters": [{"byte_shuffle": {"stride": 2}}], "options": {"level": 9}},
        "rest": {"codec": "brotli", "filters": [], "options": {"quality": 11, "window_bits": 24}},
    }
    runs = {"zlib_9": tree({})["compress"]["runs"]["zlib_9"], "mine": {"filters": [], "groups": groups}}
    tree({"compress.runs": runs, "package.blob": "smallest"})
    for node in (("compress", "mine"), ("package",)):
        run_node(*node)
    made = json.loads((project / "artifacts/compress/mine/metrics.json").read_text())
    assert made["groups"].keys() == {"codes", "scales", "rest"}
    assert made["blob_bytes"] == made["header_bytes"] + sum(group["coded_bytes"] for group in made["groups"].values())
    assert json.loads((project / "artifacts/package/metrics.json").read_text())["compress_run"] == "mine"
    with zipfile.ZipFile(project / PYZ) as archive:
        names = set(archive.namelist())
    assert {
        "caddie/blob/coders/ans.py",
        "caddie/blob/packing.py",
        "caddie/blob/codecs/zlib.py",
        "caddie/blob/filters/byte_shuffle.py",
    } <= names
    assert not {"caddie/blob/coders/gaussian.py", "caddie/blob/codecs/lrzip.py"} & names
    (tmp_path / "alone").mkdir()
    shutil.copy(project / "artifacts/tokenize/val/fineweb_val_000000.bin", tmp_path / "alone/tokens.bin")
    line = json.loads(score(project, tmp_path / "alone", "score", "tokens.bin").stdout)
    assert line["bits_per_byte"] == json.loads((project / "artifacts/evaluate/sliding/metrics.json").read_text())["bits_per_byte"]


def test_codec_that_became_available_is_found_stale(project, tree, monkeypatch):
    from stages.compress.stale import stale

    runs = tree({})["compress"]["runs"] | {"lrzip": {"codec": "lrzip", "filters": [], "options": {"level": 9}}}
    values = tree({"compress.runs": runs})
    metrics = project / "artifacts/compress/lrzip/metrics.json"
    metrics.parent.mkdir()
    metrics.write_text(json.dumps({"available": False}))
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    assert stale(values, project / "artifacts/compress") == ["compress@lrzip"]
    metrics.write_text(json.dumps({"available": True}))
    assert stale(values, project / "artifacts/compress") == []


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["score", "cut.bin"], "truncated or damaged"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (["score", "missing.bin"], "missing.bin"),
                (["score", "short.bin"], "at least 2 tokens"),
                (["score", "large.bin"], "below the vocabulary size"),
                (["score", "."], "Is a directory"),
                (["score", "good.bin", "--threads", "0"], "--threads takes 1 or more"),
                (["score", "good.bin", "--evaluator", "slto"], "did you mean 'slot'"),
                (["score", "good.bin", "--options", '{"windo": 1}'], "does not take these options"),
            )
        ),
    ],
)
def test_artifact_answers_bad_input_with_one_sentence(finished, tmp_path, argv, sentence):
    shards.write(tmp_path / "short.bin", np.array([1]))
    shards.write(tmp_path / "large.bin", np.array([1, 60000]))
    shards.write(tmp_path / "good.bin", np.array([1, 5, 6]))
    shards.write(tmp_path / "cut.bin", np.array([1, 5, 6]))
    (tmp_path / "cut.bin").write_bytes((tmp_path / "cut.bin").read_bytes()[:-1])
    done = score(finished, tmp_path, *argv)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and sentence in done.stderr and not done.stdout


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["score", "good.bin", "--options", '{"windo": 1}'], "does not take these options"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (["score", "good.bin", "--evaluator", "slto"], "did you mean 'slot'"),
                (["score", "good.bin", "--options", "[1]"], "--options takes a JSON object"),
                (
                    ["score", "good.bin", "--options", '{"window": 8, "stride": 8, "batch": 1, "precision": "bf16"}', "--device", "cpu"],
                    "set it to float32",
                ),
                (["score", "missing.bin"], "missing.bin"),
                (["compress", "good.bin", "--output", "old"], "exists already"),
                (["decompress", "good.bin"], "does not end in .caddie"),
                (["score", "good.bin"], "not a Caddie blob"),
            )
        ),
    ],
)
def test_wrong_command_line_is_refused_before_the_weights_are_decoded(finished, tmp_path, argv, sentence):
    """The weights here cannot be decoded, so a sentence about anything else came before that."""
    shards.write(tmp_path / "good.bin", np.array([1, 5, 6]))
    (tmp_path / "old").write_bytes(b"old")
    with zipfile.ZipFile(finished / PYZ) as whole, zipfile.ZipFile(tmp_path / "submission.pyz", "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, b"no weights" if name.endswith("model.blob") else whole.read(name))
    command = [sys.executable, "-I", "submission.pyz", *argv]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and sentence in done.stderr, done.stderr


@pytest.mark.slow
def test_show_prints_the_manifest(finished, tmp_path):
    manifest = json.loads(score(finished, tmp_path, "show").stdout)
    assert manifest["evaluator"] == "sliding" and manifest["plugins"] == ["codecs/brotli"] and manifest["model"]["num_layers"] == 2


CONTENT = ("def f(x):\n    return x + 1  # größer\n" * 4).encode() + b"\xff\x00"


@pytest.mark.parametrize(
    "name, data",
    [
        ("any.bytes", CONTENT[-40:]),
        pytest.param("text.py", CONTENT[:-2], marks=pytest.mark.slow),
        pytest.param("empty", b"", marks=pytest.mark.slow),
    ],
    ids=["any bytes", "text", "empty"],
)
def test_artifact_compresses_a_file_and_gives_it_back(finished, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    done = score(finished, tmp_path, "compress", name, "--threads", "1")
    line = json.loads(done.stdout)
    assert line["compressed_bytes"] == (tmp_path / f"{name}.caddie").stat().st_size and line["bytes"] == len(data)
    assert 8 * (line["compressed_bytes"] - 51) <= line["code_length_bits"] * 1.001 + 64
    (tmp_path / name).unlink()
    assert score(finished, tmp_path, "decompress", f"{name}.caddie", "--threads", "1").returncode == 0
    assert (tmp_path / name).read_bytes() == data


@pytest.mark.slow
def test_other_evaluators_bring_their_options_and_a_damaged_file_is_refused_without_the_model(finished, tmp_path):
    (tmp_path / "text.py").write_bytes(CONTENT[:-2])
    named = ("--evaluator", "causal_slot", "--threads", "1")
    line = json.loads(score(finished, tmp_path, "compress", "text.py", *named).stdout)
    assert line["compressed_bytes"] <= len(lzma.compress(CONTENT[:-2], preset=9)) and line["by"] in ("causal_slot", "lzma", "bzip2")
    packed = tmp_path / "text.py.caddie"
    packed.write_bytes(packed.read_bytes()[:-1])
    assert "the file is damaged" in score(finished, tmp_path, "decompress", packed.name, "--output", "again", *named).stderr


@pytest.mark.slow
def test_artifact_continues_a_text_and_another_seed_another_way(finished, tmp_path):
    asked = ("generate", "import os", "--tokens", "12", "--threads", "1")
    first, again, other = (score(finished, tmp_path, *asked, *more).stdout for more in ((), (), ("--seed", "1")))
    assert first.startswith("import os") and len(first) > 15 and first == again != other
    refused = score(finished, tmp_path, *asked, "--evaluator", "slot")
    assert refused.returncode == 1 and "cannot generate" in refused.stderr


def test_progress_is_a_line_every_ten_seconds_where_stderr_is_no_terminal(capsys, monkeypatch):
    clock = iter([0.0, 4.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr(entry.time, "perf_counter", lambda: next(clock))
    told = entry._progress(argparse.Namespace(progress=False), 100)
    for done in (10, 50, 60, 100):
        told(done)
    assert [line.strip() for line in capsys.readouterr().err.splitlines()] == [
        "50% of 100 tokens, 11 s left",
        "100% of 100 tokens, 0 s left",
    ]


@pytest.mark.slow
def test_compressing_with_what_a_decoder_cannot_do_is_a_sentence(finished, tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    done = score(
        finished,
        tmp_path,
        "compress",
        "a",
        "--evaluator",
        "slot",
        "--options",
        json.dumps({"window": 64, "stride": 32, "batch": 4, "learning_rate": 0.01, "steps": 2}),
    )
    assert done.returncode == 1 and "needs what a decoder does not know yet" in done.stderr and not (tmp_path / "a.caddie").exists()
    (tmp_path / "a.caddie").write_bytes(b"old")
    assert "exists already" in score(finished, tmp_path, "compress", "a").stderr and (tmp_path / "a.caddie").read_bytes() == b"old"


def test_text_is_scored_over_its_own_bytes(finished, tmp_path):
    (tmp_path / "text.md").write_text("The quick brown fox.\n" * 5)
    line = json.loads(score(finished, tmp_path, "score", "text.md").stdout)
    assert line["bytes"] == 105 and line["bits_per_byte"] == pytest.approx(line["loss_nats"] * line["tokens"] / math.log(2) / 105)
