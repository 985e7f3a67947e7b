"""Experiments: one table that fits a terminal, a params.yaml that DVC's writer leaves alone, and what a queue does with own text."""

import difflib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from stages.lib.node import params
from stages.recipes import catalog
from stages.report import experiments
from tests.conftest import ROOT
from tests.repository import run


def revision(name: str, params: dict, metrics: dict | None, *, state: str = "success") -> dict:
    """An experiment as `dvc exp show --json` lists it."""
    summary = {"error": {"type": "FileNotFoundError"}} if metrics is None else {"data": metrics}
    data = {"params": {"params.yaml": {"data": params}}, "metrics": {"artifacts/report/metrics.json": summary}}
    return {"revs": [{"rev": "f" * 40, "name": name, "data": data}], "executor": {"state": state}, "name": name}


def listed(experiments_of_head: list[dict], params: dict, metrics: dict | None = None) -> list[dict]:
    head = revision("main", params, metrics)["revs"][0]
    return [head | {"rev": "workspace", "name": None, "experiments": None}, head | {"experiments": experiments_of_head}]


METRICS = {"score.bits_per_byte": 1.44501, "score.evaluator": "memory", "score.is_valid": True}
METRICS |= {"package.artifact_bytes": 2_619_395, "package.bytes_left": 13_380_605}
PARAMS = {"train": {"seed": 1, "steps": 640}, "quantize": {"entropy": {"bits_per_weight": 4.5}}, "runs": {"a": {"x": 1}, "b": {"x": 1}}}


def changed(seed: int, bits: float, **sections: dict) -> dict:
    return PARAMS | {"train": {"seed": seed, "steps": 640}, "quantize": {"entropy": {"bits_per_weight": bits}}} | sections


def test_table_has_name_what_differs_seed_score_bytes_and_verdict_in_120_columns(tmp_path):
    short = {"runs": {"a": {"x": 1}}, **{f"section_{i}": {"value": i} for i in range(12)}}
    found = experiments.table(
        listed(
            [
                revision("sweep-1", changed(1, 3.5, **short), METRICS),
                revision("sweep-2", changed(2, 2.5, **short), METRICS | {"package.bytes_left": -5}),
                revision("a-name-that-is-longer-than-most-names-are", changed(1, 4.5), METRICS | {"score.is_valid": False}),
                revision("lost", changed(1, 1.5), None, state="failed"),
            ],
            PARAMS,
            METRICS,
        )
    )
    text = experiments.write(found, tmp_path / "table", width=120)
    lines = text.splitlines()
    assert lines[0].split() == ["name", "differs", "seed", "score", "bytes", "verdict"]
    assert max(map(len, lines[:-1])) <= 120 and len(lines) == 1 + 6 + 1
    assert lines[3].split() == ["sweep-1", "quantize.entropy.bits_per_weight=3.5;", "runs=a;", *lines[3].split()[3:]]
    assert "; +" in lines[3] and lines[3].endswith("1.4450  2,619,395  legal, memory")
    assert "over the cap" in lines[4] and " 2  " in lines[4] and "seed=" not in text
    assert "not legal" in lines[5] and lines[6].split()[-4:] == ["1", "-", "-", "failed"]
    table = (tmp_path / "table/table.csv").read_text()
    assert "section_11={}" not in table and "section_11=" in table and "<svg" in (tmp_path / "table/scores.svg").read_text()


def test_experiments_of_no_report_and_of_no_experiment_are_a_table_too(tmp_path):
    text = experiments.write(experiments.table(listed([], PARAMS)), tmp_path / "table", width=120)
    assert text.splitlines()[0].startswith("name") and "no report" in text and not (tmp_path / "table/scores.svg").exists()


def changed_by_dvc(path: Path, change: str) -> list[str]:
    """The lines of params.yaml that are others after DVC has set a parameter, as `-S` does it."""
    before = path.read_text(encoding="utf-8")
    apply_overrides(path, [change])
    return [line for line in difflib.ndiff(before.splitlines(), path.read_text(encoding="utf-8").splitlines()) if line[0] in "+-"]


def test_experiment_of_one_number_changes_one_line_of_params_also_after_a_recipe_was_applied(tmp_path):
    path = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    found = changed_by_dvc(path, "quantize.entropy.bits_per_weight=3.5")
    assert [line.split("#")[0].split() for line in found] == [["-", "bits_per_weight:", "4.5"], ["+", "bits_per_weight:", "3.5"]]
    catalog.apply(catalog.values("pr1855", yaml.safe_load(path.read_text(encoding="utf-8"))), path)
    assert len(changed_by_dvc(path, "train.seed=5")) == 2


@pytest.mark.dvc
@pytest.mark.slow
def test_applying_an_experiment_of_one_number_changes_one_line_of_params(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    body = {"cmd": "echo '{}' > metrics.json", "params": ["quantize"], "metrics": [{"metrics.json": {"cache": False}}]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"stage": body}}))
    run(tmp_path, "git", "init", "-q", "-b", "main")
    run(tmp_path, "dvc", "init", "-q")
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "commit", "-qm", "start")
    run(tmp_path, "dvc", "exp", "run", "--temp", "-n", "bits", "-S", "quantize.entropy.bits_per_weight=3.5")
    assert run(tmp_path, "git", "diff", "params.yaml") == "", "--temp touches nothing here"
    run(tmp_path, "dvc", "exp", "apply", "bits")
    assert run(tmp_path, "git", "diff", "--numstat", "params.yaml").split() == ["1", "1", "params.yaml"]


@pytest.mark.slow
def test_notebook_lines_of_the_readme_run_a_stage_and_give_its_tables(project):
    (lines,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    before = (project / "artifacts/quantize/model.safetensors").stat().st_mtime_ns
    names: dict = {}
    exec(lines, names)
    assert (project / "scratch/mine/model.safetensors").is_file() and (project / "scratch/mine/tensors.csv").is_file()
    assert (project / "artifacts/quantize/model.safetensors").stat().st_mtime_ns == before
    assert {"bits_per_byte", "codecs", "evaluators"} <= set(names["tables"]) and len(names["tables"]["evaluators"]) == 3


@pytest.mark.parametrize(
    "change", ["ema.candidates=[]", "text_compressors.after_train=[]", "package.evaluators=[]", "quantize.overrides=[1]"]
)
def test_list_that_becomes_empty_or_full_leaves_params_readable(tmp_path, change):
    path = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    changed_by_dvc(path, change)
    key, value = change.split("=")
    assert params.lookup(params.read(path), key) == json.loads(value)
