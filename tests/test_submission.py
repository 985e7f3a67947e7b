"""The folder that is handed in: everything in it is from the runs, the referee can read it, and what does not fit together is refused."""

import copy
import json
import re
import shutil
import statistics
from pathlib import Path

import pytest
import yaml

from stages.lib.referee import significance
from stages.submission import __main__ as command
from stages.submission import collect, write
from tests.conftest import run_node


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory):
    """Three kept runs: the finished pipeline, and two that say to be other seeds with other scores."""
    root = tmp_path_factory.mktemp("submission") / "project"
    shutil.copytree(finished, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_node("script")
        collect.keep(root / "runs/1337", "sliding", key="k", experiment="e")
    for seed, factor in ((1, 0.999), (2, 0.998)):
        other = root / f"runs/{seed}"
        shutil.copytree(root / "runs/1337", other)
        tree = yaml.safe_load((other / "params.yaml").read_text())
        tree["train"]["seed"] = seed
        (other / "params.yaml").write_text(yaml.safe_dump(tree))
        for path in (other / "evaluate/sliding/metrics.json", other / "audit/sliding/certificate.json"):
            content = json.loads(path.read_text())
            content |= {key: factor * content[key] for key in ("bits_per_byte", "loss_nats") if key in content}
            path.write_text(json.dumps(content))
    return [collect.read(root / f"runs/{seed}") for seed in (1337, 1, 2)]


def made(runs, folder, **options):
    write.folder(folder, "default", runs, command="make submission NAME=default", **({"record": [], "threshold": None} | options))
    return folder


def test_counted_bytes_are_those_of_the_files_that_are_handed_in(runs, tmp_path):
    folder = made(runs, tmp_path / "s")
    facts = json.loads((folder / "submission.json").read_text())
    code = (folder / "train_gpt.py").stat().st_size
    blob = (runs[0].folder / "compress/brotli_11/model.blob").stat().st_size
    assert (facts["bytes_code"], facts["bytes_total"]) == (code, code + blob)
    assert f"Total submission size code+model: {code + blob} bytes" in (folder / "train_seed1337.log").read_text()


def test_numbers_of_the_folder_are_those_of_the_runs(runs, tmp_path):
    folder = made(runs, tmp_path / "s")
    facts, text = json.loads((folder / "submission.json").read_text()), (folder / "README.md").read_text()
    scores = [run.score["bits_per_byte"] for run in runs]
    assert facts["val_bpb"] == pytest.approx(sum(scores) / 3) and facts["val_bpb_std"] == pytest.approx(statistics.stdev(scores))
    assert facts["seeds"] == [1337, 1, 2] and [facts["seed_results"][str(seed)]["val_bpb"] for seed in facts["seeds"]] == scores
    for run in runs:
        assert f"| {run.seed} | {run.score['bits_per_byte']:.6f} |" in text
    assert facts["compliance"]["artifact_under_16mb"] and facts["compliance"]["hardware_is_the_fields"] is False
    assert "say nothing about the field's two budgets" in text
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "requirements.txt",
        "source",
        "submission.json",
        "train_gpt.py",
        "train_seed1.log",
        "train_seed1337.log",
        "train_seed2.log",
    ]


def test_log_begins_with_the_source_and_says_where_and_with_what_it_ran(runs, tmp_path):
    text = (made(runs, tmp_path / "s") / "train_seed1337.log").read_text()
    assert text.index("# stages/train/__main__.py") < text.index('"packages"') < text.index("params: {") < text.index("seed: 1337")
    steps = re.findall(r"^step:(\d+)/(\d+) train_loss:", text, re.MULTILINE)
    assert [int(step) for step, _ in steps] == list(range(1, 13))


def test_record_is_tested_with_the_threshold_in_bits_per_byte(runs, tmp_path):
    record = runs[0].score["bits_per_byte"] + 0.1
    facts = json.loads((made(runs, tmp_path / "s", record=[record]) / "submission.json").read_text())
    scores, score = [run.score["bits_per_byte"] for run in runs], runs[0].score
    margin = 0.005 * (score["bits_per_byte"] / score["loss_nats"])
    expected = significance.one_sample(scores, record, margin)
    assert facts["p_value"] == pytest.approx(expected.p) and facts["t_statistic"] == pytest.approx(expected.t)
    text = (made(runs, tmp_path / "t", record=[record, record + 0.001], threshold=0.0) / "README.md").read_text()
    assert "* welch test against" in text and "margin of 0.000000" in text


def test_one_seed_says_that_nothing_can_be_said(runs, tmp_path):
    text = (made(runs[:1], tmp_path / "s", record=[9.0]) / "README.md").read_text()
    assert "nothing can be said about significance" in text and "s.d." not in text


def test_runs_that_differ_in_more_than_the_seed_are_refused(runs):
    tree = copy.deepcopy(runs[1].tree)
    tree["train"]["steps"] += 1
    with pytest.raises(ValueError, match="seed 1 ran with other parameters or code than seed 1337"):
        collect.check_alike([runs[0], collect.Run(**(vars(runs[1]) | {"tree": tree}))])


def test_score_that_the_certificate_is_not_about_is_refused(runs, tmp_path):
    shutil.copytree(runs[0].folder, tmp_path / "run")
    path = tmp_path / "run/evaluate/sliding/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bits_per_byte": 1.0}))
    with pytest.raises(ValueError, match="of another score"):
        collect.read(tmp_path / "run")


def test_referee_reads_the_folder(runs, tmp_path, monkeypatch, capsys):
    from stages.audit.submission.folder import audit

    found = audit(made(runs, tmp_path / "s"))
    assert [log.seed for log in found.logs] == [1, 2, 1337] and found.scores == [run.score["bits_per_byte"] for run in (*runs[1:], runs[0])]
    assert not [finding for finding in found.findings if finding.verdict == "fail"], found.findings
    assert [log.total_bytes for log in found.logs] == [run.total_bytes for run in runs]
    assert {finding.verdict for finding in found.findings if finding.check == "bytes"} == {"doubt"}  # it is not the field's text
    assert any("unpacks" in finding.text for finding in found.findings if finding.check == "code")


def test_referee_objects_to_bytes_that_the_scores_do_not_imply(runs, tmp_path):
    from stages.audit.submission.folder import audit

    folder = made(runs, tmp_path / "s")
    facts = json.loads((folder / "submission.json").read_text())
    (folder / "submission.json").write_text(json.dumps(facts | {"val_bytes": facts["val_bytes"] + 100}))
    assert audit(folder).verdict == "not legal"


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["pr1855", "--seeds", "1,1"], "each once"),
        (["pr1855", "--seeds", "a"], "takes numbers"),
        (["pr9", "--seeds", "1"], "there is no recipe"),
    ],
)
def test_mistakes_are_a_sentence(project, argv, sentence, capsys):
    before = (project / "params.yaml").read_text()
    with pytest.raises(SystemExit):
        command.main(argv)
    assert sentence in capsys.readouterr().err and (project / "params.yaml").read_text() == before


def test_finished_seed_is_not_run_again_and_another_parameter_is(project, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        tree = yaml.safe_load((project / "params.yaml").read_text())
        tree["train"]["seed"] = 5
        (project / "params.yaml").write_text(yaml.safe_dump(tree))
        return type("Done", (), {"returncode": 0})()

    monkeypatch.setattr(command.subprocess, "run", run)
    monkeypatch.setattr(
        collect,
        "keep",
        lambda kept, run, *, key, experiment: (
            kept.mkdir(parents=True, exist_ok=True),
            (kept / collect.DONE).write_text(json.dumps({"key": key})),
        ),
    )
    kept = (project / "params.yaml").read_text()
    for _ in range(2):
        command._run("default", "full", 5)
        (project / "params.yaml").write_text(kept)
    assert len(commands) == 1 and "train.seed=5" in commands[0] and commands[0][-2:] == ["audit@sliding", "script"]
    (project / "params.yaml").write_text(kept.replace("steps: 12", "steps: 13"))
    command._run("default", "full", 5)
    assert len(commands) == 2


def test_parameters_come_back_after_an_error_and_after_a_kill(project, capsys):
    mine = Path("params.yaml").read_text() + "# mine\n"
    Path("params.yaml").write_text(mine)
    with pytest.raises(ZeroDivisionError), command._params_put_back():
        Path("params.yaml").write_text("what dvc exp run -S made of it")
        raise ZeroDivisionError
    assert Path("params.yaml").read_text() == mine and not command.KEPT.exists()
    command.KEPT.write_text(mine)  # as a killed run leaves it
    Path("params.yaml").write_text("what dvc exp run -S made of it")
    with command._params_put_back():
        assert Path("params.yaml").read_text() == mine and "a killed run left" in capsys.readouterr().out
    assert Path("params.yaml").read_text() == mine and not command.KEPT.exists()
