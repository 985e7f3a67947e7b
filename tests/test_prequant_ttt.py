"""Adaptation before quantization: the published procedures against the counts of their logs and loops written out again."""

import copy
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.lib.node import launch, tensors
from stages.lib.tokens.stream import Stream
from stages.prequant_ttt import procedures
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT
from tests.conftest import ROOT, run_node
from tests.test_features import config
from tests.test_stacks import STACKS, random_model

ALONE = launch.World(0, 1, torch.device("cpu"))
NOTHING = procedures.Freeze(blocks=0, form="applied", outside="none")
T = 8


def settings(**changes):
    return SimpleNamespace(
        **{
            "split": "holdout",
            "procedure": "synchronous",
            "ranks": 3,
            "epochs": 2,
            "learning_rate": 0.01,
            "learning_rate_floor": 0.1,
            "adamw": SimpleNamespace(beta1=0.9, beta2=0.999, epsilon=1e-8),
            "gradient_clip": 1.0,
            "sequence_length": T,
            "batch_tokens": 2 * T,
            "freeze": NOTHING,
        }
        | changes
    )


def text(num_tokens=18 * T + 5, seed=0):
    return Stream([np.random.default_rng(seed).integers(0, 40, num_tokens).astype(np.uint16)], name="text", vocabulary_size=40)


def adapted(net, chosen, stream):
    learner, seen = procedures.Learner(net, stream, chosen, ALONE), []
    losses = procedures.run(learner, procedures.visits(len(stream), chosen), lambda epoch, nats: seen.append((epoch, nats)))
    return losses, seen


# which sequences, and how often

FIELD = {"sequence_length": 2048, "ranks": 8}


@pytest.mark.parametrize(
    "num_tokens, changes, steps",
    [
        (62_021_846, {"procedure": "synchronous", "batch_tokens": 65_536}, {119}),  # sp1024, #1306
        (40_541_164, {"procedure": "synchronous", "batch_tokens": 65_536}, {78}),  # sp8192
        (44_800_000, {"procedure": "single_pass", "batch_tokens": 32_768, "ranks": 1}, {1368}),  # sp4096, #1399
        (40_541_164, {"procedure": "federated", "batch_tokens": 32_768}, {154, 155}),  # 1,238 chunks, #1735
        (47_850_000, {"procedure": "federated", "batch_tokens": 32_768}, {182, 183}),
    ],
)  # 1,461 chunks, #1958
def test_an_epoch_has_the_steps_of_the_published_logs(num_tokens, changes, steps):
    found = procedures.visits(num_tokens, settings(**(FIELD | changes)))
    assert {len(of_rank) for of_rank in found} == steps
    assert sorted(number for of_rank in found for step in of_rank for number in step) == list(range((num_tokens - 1) // 2048))


def test_ranks_have_ranges_of_their_own_or_take_turns():
    assert procedures.visits(18 * T + 5, settings(ranks=4)) == [
        [range(0, 2), range(2, 4)],
        [range(4, 6), range(6, 8), range(8, 9)],
        [range(9, 11), range(11, 13)],
        [range(13, 15), range(15, 17), range(17, 18)],
    ]
    assert procedures.visits(7 * T + 1, settings(procedure="federated")) == [[range(0, 2), range(6, 7)], [range(2, 4)], [range(4, 6)]]
    assert procedures.visits(7 * T, settings(procedure="federated")) == [[range(0, 2)], [range(2, 4)], [range(4, 6)]]  # one target too few


@pytest.mark.parametrize("changes", [{}, {"procedure": "federated"}, {"procedure": "single_pass", "ranks": 1}])
def test_text_that_leaves_a_rank_without_a_step_is_a_sentence_with_the_number_needed(changes):
    chosen = settings(**changes)
    needed = {"synchronous": 3 * T + 1, "federated": 5 * T + 1, "single_pass": T + 1}[chosen.procedure]
    assert len(procedures.visits(needed, chosen)) == chosen.ranks
    with pytest.raises(ValueError, match=f"has {needed - 1} tokens, too few: {needed} give each of {chosen.ranks} ranks"):
        procedures.visits(needed - 1, chosen)


def test_rates_fall_by_epoch_as_published():
    rates = procedures.rates(settings(learning_rate=5e-4, epochs=21))
    assert rates[0] == 5e-4 and f"{rates[-1]:.1e}" == "5.3e-05" and len(rates) == 21  # #1735
    assert procedures.rates(settings(learning_rate=5e-4, learning_rate_floor=1.0, epochs=1)) == [5e-4]


# what stays


@pytest.mark.parametrize(
    "stack, blocks, form, outside, number",
    [
        ("1306", 2, "published", "none", 4_112),
        ("1306", 1, "published", "none", 2_056),  # as logged, also by #1364 and #1416
        ("1493", 2, "applied", "none", 5_771_280),
        ("1493", 1, "applied", "none", 2_885_640),  # #1485, #1487
        ("1399", 9, "applied", "all", 34_401_371 - 5_771_280),
        ("1958", 2, "published", "embedding", 2 * (2_056 + 96) + 8192 * 512),
    ],
)  # its gates lie in the blocks too
def test_as_many_parameters_stay_as_in_the_published_run(stack, blocks, form, outside, number):
    with torch.device("meta"):
        net = GPT(ModelConfig(**STACKS[stack][1]))
    weights = dict(net.named_parameters())
    parts = procedures.frozen(net, procedures.Freeze(blocks=blocks, form=form, outside=outside))
    assert sum(weights[name][part].numel() for name, part in parts.items()) == number


@pytest.mark.parametrize("case", ["xsa_gated", "two_lane_mixed", "untied_full", "unet_gated", "value_blend"])
@pytest.mark.parametrize("form", ["applied", "published"])
@pytest.mark.parametrize("outside", ["none", "embedding", "all"])
@pytest.mark.parametrize("procedure", ["synchronous", "federated"])
def test_what_is_frozen_stays_bit_for_bit_and_all_the_rest_moves(case, form, outside, procedure):
    net, freeze = random_model(config(case)), procedures.Freeze(blocks=2, form=form, outside=outside)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    adapted(net, settings(freeze=freeze, procedure=procedure, epochs=1), text())
    parts = procedures.frozen(net, freeze)
    for name, weight in net.named_parameters():
        stays = torch.zeros(len(weight), dtype=torch.bool)
        stays[parts.get(name, slice(0))] = True
        assert torch.equal(weight[stays], before[name][stays]), name
        used = not name.startswith(("two_lane", "untied_mlp")) and name != "value_residual.weight"  # parts of them act nowhere
        assert not used or stays.all() or not torch.equal(weight[~stays], before[name][~stays]), name
    linear = {name for name in parts if name.startswith("blocks.") and before[name].dim() == 2}
    assert bool(linear) == (form == "applied")


def test_unknown_block_and_a_freeze_of_everything_are_sentences():
    for freeze, sentence in (
        (procedures.Freeze(blocks=5, form="applied", outside="none"), "freeze.blocks is 5; it takes 0 to"),
        (procedures.Freeze(blocks=4, form="applied", outside="all"), "leaves nothing to learn"),
    ):
        with pytest.raises(ValueError, match=sentence):
            procedures.Learner(random_model(config("xsa")), text(), settings(freeze=freeze), ALONE)


# the procedures, written out again


def gradient_of(net, stream, numbers):
    rows = torch.stack([torch.from_numpy(stream[n * T : n * T + T + 1].astype(np.int64)) for n in numbers])
    loss = F.cross_entropy(net(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    return torch.autograd.grad(loss, list(net.parameters())), loss.item()


def adamw_step(net, gradients, state, rate):
    """With a clip at norm 1, without weight decay."""
    norm = torch.sqrt(sum(g.square().sum() for g in gradients))
    state["step"] = state.get("step", 0) + 1
    for i, (weight, g) in enumerate(zip(net.parameters(), gradients, strict=True)):
        g = g * min(1.0, 1.0 / (norm.item() + 1e-6))
        m, v = state.get(i, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        state[i] = m, v
        t = state["step"]
        weight.data -= rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def synchronous(net, stream, rates):
    state, losses = {}, []
    for rate in rates:
        for batches in (
            (range(0, 2), range(6, 8), range(12, 14)),
            (range(2, 4), range(8, 10), range(14, 16)),
            (range(4, 6), range(10, 12), range(16, 18)),
        ):
            found = [gradient_of(net, stream, batch) for batch in batches]
            losses.append(sum(loss for _, loss in found) / 3)
            adamw_step(net, [sum(parts) / 3 for parts in zip(*(g for g, _ in found), strict=True)], state, rate)
    return losses


def federated(net, stream, rates):
    states, losses = [{}, {}, {}], []
    for rate in rates:
        finished = []
        for rank, state in enumerate(states):
            own = copy.deepcopy(net)
            for first in range(2 * rank, 18, 6):
                gradients, loss = gradient_of(own, stream, range(first, first + 2))
                adamw_step(own, gradients, state, rate)
                losses.append(loss)
            finished.append(own)
        for weight, *of_ranks in zip(net.parameters(), *(own.parameters() for own in finished), strict=True):
            weight.data = sum(w.detach() for w in of_ranks) / 3
    return losses


@pytest.mark.parametrize("procedure", ["synchronous", "federated"])
def test_procedure_is_the_published_loop(procedure):
    net, stream, chosen = random_model(config("value_embedding")), text(), settings(procedure=procedure)
    reference = copy.deepcopy(net)
    rates = [0.01 * (0.1 + 0.9 * (1 + math.cos(math.pi * epoch / 2)) / 2) for epoch in range(2)]
    expected = {"synchronous": synchronous, "federated": federated}[procedure](reference, stream, rates)
    losses, seen = adapted(net, chosen, stream)
    assert [nats for _, nats in seen] == pytest.approx(expected, abs=1e-4)
    half = len(expected) // 2
    assert losses == pytest.approx([np.mean(expected[:half]), np.mean(expected[half:])], abs=1e-4) and losses[1] < losses[0]
    for (name, ours), theirs in zip(net.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-4), name


def test_single_pass_takes_a_step_for_every_batch_of_the_text_in_its_order():
    net, stream = random_model(config("xsa")), text()
    chosen = settings(procedure="single_pass", ranks=1, epochs=1, learning_rate_floor=1.0, gradient_clip=0.0)
    _, seen = adapted(net, chosen, stream)
    fresh = random_model(config("xsa"))
    optimizer = torch.optim.AdamW(fresh.parameters(), lr=0.01, weight_decay=0.0)
    for first, (_, nats) in zip(range(0, 18, 2), seen, strict=True):
        gradients, loss = gradient_of(fresh, stream, range(first, first + 2))
        for weight, gradient in zip(fresh.parameters(), gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        assert nats == pytest.approx(loss, abs=1e-4)


def test_a_batch_longer_than_one_pass_is_taken_in_parts(monkeypatch):
    whole, parts = (random_model(config("xsa")) for _ in range(2))
    adapted(whole, settings(batch_tokens=6 * T), text())
    monkeypatch.setattr(procedures, "PASS_TOKENS", T)
    adapted(parts, settings(batch_tokens=6 * T), text())
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_recurrence_is_on_while_adapting(monkeypatch):
    net, seen = random_model(config("depth_recurrence")), []
    net.blocks[1].mlp.register_forward_hook(lambda *_: seen.append(1))
    adapted(net, settings(epochs=1), text())
    assert len(seen) == 9 * 3  # batches, passes


# the stage


def test_off_is_the_identity(finished):
    adapted_, before = (finished / f"artifacts/{stage}/model.safetensors" for stage in ("prequant_ttt", "ema"))
    assert adapted_.read_bytes() == before.read_bytes()


@pytest.mark.parametrize("split", [pytest.param("holdout", marks=pytest.mark.slow), "val"])
def test_adaptation_lowers_the_loss_on_its_split_and_says_when_that_is_val(project, tree, split, capsys):
    tree(
        {
            "prequant_ttt.enabled": True,
            "prequant_ttt.split": split,
            "prequant_ttt.epochs": 3,
            "prequant_ttt.batch_tokens": 128,
            "prequant_ttt.threads": 1,
        }
    )
    run_node("prequant_ttt")
    metrics = json.loads((project / "artifacts/prequant_ttt/metrics.json").read_text())
    losses = metrics["epoch_loss_nats"]
    assert len(losses) == 3 and losses[2] < losses[1] < losses[0] and metrics["steps"] > 3
    assert metrics["frozen_parameters"] == 0 and metrics["learning_parameters"] > 0
    assert ("ADAPTS TO THE VALIDATION SPLIT" in capsys.readouterr().err) == (split == "val")
    before, after = (tensors.load(project / f"artifacts/{stage}/model.safetensors") for stage in ("ema", "prequant_ttt"))
    assert before[1] == after[1] and set(before[0]) == set(after[0])


@pytest.mark.slow
@pytest.mark.parametrize("procedure", ["synchronous", "federated"])
def test_two_processes_adapt_as_one_does_and_twice_gives_the_same_bytes(project, tree, procedure):
    path = project / "artifacts/prequant_ttt/model.safetensors"
    tree(
        {
            "prequant_ttt.enabled": True,
            "prequant_ttt.procedure": procedure,
            "prequant_ttt.epochs": 2,
            "prequant_ttt.ranks": 3,
            "prequant_ttt.batch_tokens": 128,
            "prequant_ttt.threads": 1,
        }
    )
    run_node("prequant_ttt")
    first, alone = path.read_bytes(), tensors.load(path)[0]
    run_node("prequant_ttt")
    assert first == path.read_bytes()
    tree({"prequant_ttt.processes": 2})
    done = subprocess.run(
        [sys.executable, "-m", "stages.prequant_ttt"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((project / "artifacts/prequant_ttt/metrics.json").read_text())["processes"] == 2
    two = tensors.load(path)[0]
    assert all(torch.allclose(two[name], alone[name], atol=1e-5) for name in alone)


@pytest.mark.parametrize(
    "leaves, sentence",
    [
        ({"prequant_ttt.ranks": 10**4}, "too few"),
        ({"prequant_ttt.processes": 9}, "it takes 1 to prequant_ttt.ranks 8"),
        ({"prequant_ttt.batch_tokens": 100}, "multiple of sequence_length"),
        ({"prequant_ttt.procedure": "single_pass"}, "set ranks 1, epochs 1"),
        ({"prequant_ttt.freeze.blocks": 3}, "it takes 0 to model.num_layers 2"),
        ({"prequant_ttt.learning_rate_floor": 1.5}, "learning_rate_floor is 1.5; it takes 0 to 1"),
        ({"prequant_ttt.adamw.beta2": 1.0}, "below 1"),
        ({"prequant_ttt.threads": 0}, "prequant_ttt.threads is 0"),
    ],
)
def test_adaptation_that_cannot_be_is_a_sentence(project, tree, capsys, leaves, sentence):
    tree({"prequant_ttt.enabled": True} | leaves)
    with pytest.raises(SystemExit):
        run_node("prequant_ttt")
    assert sentence in capsys.readouterr().err
