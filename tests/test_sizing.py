"""A recipe that is sized by text, machine, bytes and hours: its rules, its one width of context, and the file that it writes."""

import argparse
import dataclasses
import json
import math

import numpy as np
import pytest

from stages.lib.node import params
from stages.lib.training import flops
from stages.recipes import __main__ as command
from stages.recipes import catalog, describe
from stages.recipes.dial import context, hardware, pilot, plan, reasons, rules, size, text
from tests.conftest import ROOT

TREE = params.read(ROOT / "params.yaml")
TRIED = pilot.Trained(2.45, 1.95, 400_000, 500_000, 1_320_000, 90_000, 2_000_000)
LAPTOP = hardware.Hardware("processor", 0, 2, 100e9, 100e9, 16e9, is_measured=True)
ASKED = plan.Asked(16_000_000, 0.5)


def of(size_bytes: float, documents: int = 5_000) -> text.Text:
    return text.Text(round(size_bytes), documents, 3, 1_000, "English", "LATIN", is_whole=True)


def made(machine=LAPTOP, asked=ASKED, found=None) -> plan.Plan:
    return plan.make(found or of(16e6), {"prepare.source": "builtin"}, machine, TRIED, asked)


def test_sizes_of_the_plan_are_those_of_the_network_that_it_builds():
    """Formulas of parameters and FLOPs against the network; all values are those of paths that exist, with types that sections take."""
    chosen = made()
    applied = catalog.applied(chosen.values, TREE)
    net = describe.network(applied)
    assert sum(weight.numel() for weight in net.parameters()) == pytest.approx(rules.parameters(chosen.sizes), rel=0.01)
    assert flops.forward(net, length=chosen.sizes.context) == pytest.approx(rules.forward_flops(chosen.sizes), rel=0.01)
    assert flops.training(net, length=chosen.sizes.context) * chosen.sizes.tokens == pytest.approx(
        rules.training_flops(chosen.sizes), rel=0.01
    )
    budget = 3600 * ASKED.hours * LAPTOP.rate * rules.read().share(chosen.sizes.width)
    assert 0.9 * budget < rules.training_flops(chosen.sizes) <= budget


def test_more_hours_more_bytes_and_more_text_never_predict_a_worse_network():
    scores = [made(asked=plan.Asked(16_000_000, hours)).network_score for hours in (0.02, 0.1, 0.5, 2.0)]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    assert made(found=of(1e6)).network_score >= made(found=of(16e6)).network_score
    small = made(asked=plan.Asked(300_000, 0.5))
    assert small.facts.parameters < made().facts.parameters and small.network_score >= made().network_score
    assert small.facts.parameters * small.facts.bits / 8 + plan.SCRIPT_BYTES + small.values["memory.bytes"] <= 300_000
    assert small.values["memory.bytes"] == 0 and small.values["package.evaluator"] == "sliding", "no text is left for it to count"
    assert small.score == small.network_score and not any("@memory" in node for node in small.seconds)
    assert rules.effective(3e6, 1e6, 8.0) < 3e6 and rules.effective(1e6, 2e6, 8.0) == 1e6


def test_a_part_of_a_long_text_is_drawn_from_the_whole_of_it_with_enough_val():
    found, source = of(5e9, 1_000_000), {"prepare.source": "local", "prepare.path": "data/mine", "prepare.split": "hash"}
    chosen = plan.make(found, source, LAPTOP, TRIED, ASKED)
    values, used = chosen.values, chosen.facts.used_bytes
    assert values["prepare.max_bytes"] is None and values["prepare.fraction"] * found.bytes == pytest.approx(used)
    assert 1.25 < used * (1 - 2 * values["prepare.val_fraction"]) / chosen.sizes.tokens / chosen.facts.bytes_of_token < 1.35
    assert plan.VAL_BYTES * 0.99 < values["prepare.val_fraction"] * used < plan.VAL_BYTES * 1.01
    assert any("drawn from the whole text" in " ".join(row) for row in reasons._of_splits(chosen, found))
    assert made().values["prepare.fraction"] == 1.0


def test_eight_gpus_that_are_not_here_are_named_as_an_assumption(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    machine = hardware.found(8)
    chosen = made(machine, plan.Asked(16_000_000, 1 / 6), of(2e10, 10_000_000))
    said = reasons.told(chosen, of(2e10), machine, TRIED, plan.Asked(16_000_000, 1 / 6))
    assert "8 H100" in said and "ASSUMED" in said and "beyond what was measured" in said and "expected score" in said
    assert chosen.values["train.processes"] == 8 and chosen.values["train.seconds"] == pytest.approx(600)
    assert "memory" not in chosen.values["evaluate.runs"] and chosen.sizes.layers >= 6 and chosen.error >= plan.BEYOND
    assert chosen.values["train.batch_tokens"] % (8 * chosen.values["train.sequence_length"]) == 0
    assert hardware.found(1, "T4").rate == hardware.CARDS["T4"][0]
    with pytest.raises(ValueError, match="there are H200"):
        hardware.found(1, "H300")


def test_everything_follows_the_context_and_a_contradiction_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    chosen = made(asked=dataclasses.replace(ASKED, context=256))
    size.write(tmp_path / "mine.yaml", chosen, "why\nso", argparse.Namespace(cap="16MB", hours=0.5))
    found = catalog.values("mine", TREE)
    assert found == chosen.values and catalog.is_sized("mine") and catalog.stacks() == []
    numbers = [value for _, value, _ in context._wide(found)]
    assert len(numbers) == 6 + 2 * 4 and set(numbers) == {256, 128, 192}
    text_of = (tmp_path / "mine.yaml").read_text()
    for old, new in (("plain_score.window: 256", "plain_score.window: 128"), ("ema.window: 256\n", ""), ("block: 256", "block: 128")):
        assert old in text_of
        (tmp_path / "mine.yaml").write_text(text_of.replace(old, new, 1))
        with pytest.raises(ValueError, match="makes the context 256 tokens wide"):
            catalog.values("mine", TREE)


def test_sweep_of_the_short_recipe_scores_in_windows_of_the_training():
    tree = catalog.applied({"train.sequence_length": 64}, TREE)
    assert catalog.values("short", tree)["package.options"] == {"window": 64, "stride": 32, "batch": 32}
    assert catalog.values("short", TREE)["evaluate.runs"]["sliding"] == TREE["evaluate"]["runs"]["sliding"]


def test_documents_of_a_text_that_is_read_in_part_are_those_of_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "LOOKED_AT", 1000)
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"text": f"{n:04} words and more"}) + "\n" for n in range(500)))
    found = text.look(tmp_path / "mine.jsonl")
    assert not found.is_whole and found.bytes / found.documents == pytest.approx(19, rel=0.01)


def test_text_is_counted_with_its_duplicates_and_its_language(tmp_path):
    lines = ["The house of the king was in the north, and it was old."] * 3 + ["Das Haus der Königin steht nicht im Norden."] * 2
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in [*lines, ""]))
    found = text.look(tmp_path / "mine.jsonl")
    assert (found.documents, found.duplicates, found.language, found.script) == (5, 3, "English", "LATIN")
    assert found.bytes == sum(len(line.encode()) for line in lines)
    assert found.unique_bytes == len(lines[0].encode()) + len(lines[-1].encode())
    assert text.told("der die und das ist nicht ein Haus")[0] == "German" and text.told("и в не на что он")[1] == "CYRILLIC"
    assert "not told" in text.told("x = 1; y = 2; z = f(x)")[0]


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["--for", "16MB"], "needs the hours"),
        (["--for", "16 apples", "--hours", "1"], "is no number of bytes"),
        (["--for", "16MB", "--hours", "1", "--gpus", "3"], "give 1, 2, 4 or 8"),
        (["--for", "16MB", "--hours", "1", "--context", "96"], "power of two"),
        (["--for", "16MB", "--hours", "1", "--save", "tiny"], "there is a recipe tiny already"),
        (["--for", "16MB", "--hours", "1", "--save", "../x"], "no name of a file"),
        (["--for", "16MB", "--hours", "1", "pr1855"], "leave one of them out"),
        (["--hours", "1"], "say how many bytes"),
    ],
)
def test_what_cannot_be_sized_is_a_sentence(arguments, why, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert why in " ".join(capsys.readouterr().err.split())


def test_the_pilots_documents_come_from_the_whole_text_in_its_order(tmp_path):
    documents = [f"document {number} " + "word " * (number % 7) for number in range(2000)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    found = [int(text.split()[1]) for text in size.text.drawn(tmp_path / "mine.jsonl", 5000, 64)]
    held = sum(len(documents[number].encode()) for number in found)
    assert 5000 <= held < 5100 and found == sorted(found) and 700 < sum(found) / len(found) < 1300
    assert size.text.drawn(tmp_path / "mine.jsonl", 10**6, 64) == documents, "of a short text it is all of it"
    long = [chr(945 + number) * 30_000 for number in range(20)]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in long[:3]))
    assert size.text.drawn(tmp_path / "few.jsonl", 200_000, 512) == long[:3], "and of a short one too"
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in long))
    pieces = size.text.drawn(tmp_path / "mine.jsonl", 64_000, 16)
    assert len(pieces) == 16 and all(3990 <= len(piece.encode()) <= 4000 for piece in pieces), "of long documents it is a part"


def test_error_of_a_score_grows_with_what_its_documents_differ():
    nats, counts = np.array([1.0, 1.0, 3.0, 3.0]), np.ones(4, np.uint16)
    assert pilot._spread(nats, counts, np.array([0, 2])) == pytest.approx(8**0.5 / 8), "two documents of 2 and 6 nats, where 4 are the mean"
    assert pilot._spread(np.ones(4), counts, np.array([0, 2])) == 0
    short = plan.Asked(16_000_000, 0.02)
    tried = [dataclasses.replace(TRIED, spread=spread) for spread in (0.0, 0.05)]
    found = [plan.make(of(16e6), {"prepare.source": "builtin"}, LAPTOP, one, short).error for one in tried]
    assert found[0] < 0.05 < found[1] < plan.BEYOND


def test_nothing_fits_and_too_few_documents_are_sentences(tmp_path, capsys):
    with pytest.raises(ValueError, match="nothing fits into"):
        made(asked=plan.Asked(100_000, 0.5))
    (tmp_path / "one.txt").write_text("The whole book in a line.")
    with pytest.raises(SystemExit):
        command.main(["--for", "16MB", "--hours", "1", "--text", str(tmp_path / "one.txt"), "--save", "never-written"])
    assert "cut it into 16 or more" in " ".join(capsys.readouterr().err.split())


def test_rules_are_those_of_the_measurements_and_the_page_has_them():
    """Each number of rules.json comes out of docs/sizing.json again, and the page's tables are those of it."""
    from benchmarks import sizing

    kept = sizing.read()
    found, known = sizing.fitted(kept), json.loads(rules.NUMBERS.read_text())
    flat = [*found["score"].items(), *((name, value) for name, value in found.items() if not isinstance(value, dict))]
    for name, value in flat:
        assert math.isclose(value, (known["score"] | known)[name], rel_tol=0.02), name
    assert sizing.tables(kept) in (ROOT / "docs/sizing.md").read_text()


def test_sweep_copies_a_text_of_ones_own_that_git_does_not_track(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my texts").mkdir()
    for source, path, expected in (
        ("local", "my texts", "-C 'my texts'"),
        ("local", str(tmp_path), ""),
        ("local", "missing", ""),
        ("builtin", "my texts", ""),
    ):
        (tmp_path / "params.yaml").write_text(json.dumps({"prepare": {"source": source, "path": path}}))
        assert catalog.own_text() == expected
