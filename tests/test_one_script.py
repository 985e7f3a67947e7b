"""The one script gives what the pipeline gives, to the bit, alone in a folder with nothing but the data; and holds only what it needs."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from stages.lib import params
from stages.lib.one_script import program, wrap
from stages.recipes import __main__ as recipes
from stages.recipes import files
from tests.conftest import ROOT, run_node

PARAMS = params.read(ROOT / "params.yaml")
SECTIONS = ("model", "train", "ema", "prequant_ttt", "calibrate", "allocate", "quantize", "compress", "package", "evaluate")


def small(name: str) -> dict:
    """A recipe in small, for the text of the finished pipeline."""
    return files.applied(recipes.scaled(name, "tiny", PARAMS), PARAMS)


def run_script(text: str, data, folder, *, seed: int, processes: int = 1) -> dict:
    """What the script wrote and said, run in an empty folder."""
    folder.mkdir()
    (folder / "train_gpt.py").write_text(text)
    command = [sys.executable, "-I"] if processes == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*command, "train_gpt.py"], cwd=folder, capture_output=True, text=True, timeout=900, check=False,
                          env={"PATH": os.environ["PATH"], "DATA_PATH": str(data), "OMP_NUM_THREADS": "1", "SEED": str(seed)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in folder.iterdir()) == ["model.blob", "train_gpt.py"]
    score = re.search(r"val_loss:(\S+) val_bpb:(\S+) eval_time", done.stdout)
    return {"blob": (folder / "model.blob").read_bytes(), "said": done.stdout, "val_loss": float(score[1]), "val_bpb": float(score[2])}


def assert_same_as_the_pipeline(project, tree: dict, folder) -> None:
    """`tree` on the finished text: stage after stage, and the script."""
    values = yaml.safe_load((project / "params.yaml").read_text()) | {section: tree[section] for section in SECTIONS}
    _, _, run = values["package"]["blob"].partition("/")
    values["compress"]["runs"] = {run: values["compress"]["runs"][run]}
    name = next(name for name, chosen in values["evaluate"]["runs"].items() if chosen["evaluator"] == values["package"]["evaluator"]
                and chosen["options"] == values["package"]["options"])
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for node in (("train",), ("ema",), ("prequant_ttt",), ("calibrate",), ("allocate",), ("fit",), ("quantize",), ("compress", run),
                 ("package",), ("evaluate", name)):
        run_node(*node)
    text = wrap.wrapped(wrap.shortened(program.build(values).tree))
    made = run_script(text, project / "artifacts/tokenize", folder, seed=values["train"]["seed"])
    assert made["blob"] == (project / f"artifacts/{values['package']['blob']}/model.blob").read_bytes()
    scored = json.loads((project / f"artifacts/evaluate/{name}/metrics.json").read_text())
    assert (made["val_bpb"], made["val_loss"]) == (scored["bits_per_byte"], scored["loss_nats"])


def test_script_gives_the_blob_and_the_score_of_the_pipeline_to_the_bit(project, tmp_path):
    run_node("script")
    script, metrics = project / "artifacts/script/train_gpt.py", json.loads((project / "artifacts/script/metrics.json").read_text())
    made = run_script(script.read_text(), project / "artifacts/tokenize", tmp_path / "empty", seed=1337)
    blob = (project / "artifacts/compress/brotli_11/model.blob").read_bytes()
    scored = json.loads((project / "artifacts/evaluate/sliding/metrics.json").read_text())
    assert made["blob"] == blob and made["val_bpb"] == scored["bits_per_byte"]
    assert metrics["code_bytes"] == script.stat().st_size
    assert f"Total submission size: {script.stat().st_size + len(blob)} bytes" in made["said"]
    rows = (project / "artifacts/script/bytes.csv").read_text().splitlines()[1:]
    assert sum(int(row.rsplit(",", 1)[1]) for row in rows) == script.stat().st_size
    source = project / "artifacts/script/source"
    assert (source / "stages/train/loop.py").read_text() == (ROOT / "stages/train/loop.py").read_text()
    assert "bit for bit" not in (source / "one_module.py").read_text() and not (source / "stages/report").exists()


def test_script_of_a_recipe_gives_the_blob_and_the_score_of_the_pipeline_to_the_bit(project, tmp_path):
    assert_same_as_the_pipeline(project, small("pr1493"), tmp_path / "empty")


@pytest.mark.recipes
@pytest.mark.parametrize("name", files.stacks())
def test_script_of_every_recipe_is_the_pipeline_to_the_bit(project, tmp_path, name):
    assert_same_as_the_pipeline(project, small(name), tmp_path / "empty")
