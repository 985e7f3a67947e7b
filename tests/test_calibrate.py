"""What calibration gathers, against its formulas; text that the model writes itself; any number of processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.calibrate import hessians, own_text
from stages.lib.node import tensors
from stages.runtime.network import gpt
from tests.conftest import ROOT, run_node
from tests.test_features import LOOP, config
from tests.test_stacks import documents, random_model

CASES = ("unet_looped", "untied_full", "value_embedding", "trigram", "factorised")


def gathered(net, parts, *, row_gradients=False, seed=5):
    statistics, generator = hessians.Statistics(net, row_gradients=row_gradients), torch.Generator().manual_seed(seed)
    for part in parts:
        statistics.add(part, generator)
    return statistics


def seen(net, x):
    """Inputs and outputs of every linear layer, one pair for each visit, with gradients flowing."""
    found = {name: [] for name in gpt.matrices(net)}
    hooks = [
        layer.register_forward_hook(lambda _, args, out, name=name: found[name].append((args[0], out)))
        for name, layer in gpt.matrices(net).items()
    ]
    hidden = net.hidden(x)
    for hook in hooks:
        hook.remove()
    return found, hidden


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tied", [True, False])
def test_hessian_is_the_sum_of_the_inputs_outer_products_over_all_visits(case, tied):
    net, (x, _) = random_model(config(case, tied_head=tied)), documents((7, 12))
    visits, hidden = seen(net, x)
    visits["embedding" if tied else "unembedding"] = [(hidden, None)]
    found = gathered(net, [x]).hessians()
    assert set(found) == set(visits) | {"embedding"}
    for name, pairs in visits.items():
        inputs = torch.cat([x_in.detach().flatten(0, -2) for x_in, _ in pairs])
        assert close(found[name], inputs.mT @ inputs) and torch.equal(found[name], found[name].mT), name
    assert tied or torch.equal(found["embedding"], torch.eye(len(found["embedding"])))


def test_layers_that_recur_have_the_mass_of_all_their_visits():
    net, (x, _) = random_model(config("depth_recurrence")), documents((9,))
    visits, _ = seen(net, x)
    assert {name: len(pairs) for name, pairs in visits.items() if name.endswith("mlp.up")} == {
        f"blocks.{layer}.mlp.up": LOOP["passes"] if LOOP["first_layer"] <= layer <= LOOP["last_layer"] else 1 for layer in range(4)
    }


def test_query_key_and_value_have_one_hessian_that_is_positive():
    found = gathered(random_model(config("xsa")), [documents((30,))[0]]).hessians()
    for layer in range(4):
        query, key, value = (found[f"blocks.{layer}.attention.{part}"] for part in ("query", "key", "value"))
        assert torch.equal(query, key) and torch.equal(query, value)
        assert torch.linalg.eigvalsh(query).min() > -1e-3 * query.trace() and query.trace() > 0


def test_how_the_tokens_are_split_into_passes_is_lost_in_the_rounding():
    net, x = random_model(config("value_embedding")), torch.randint(0, 40, (6, 11), generator=torch.Generator().manual_seed(0))
    whole, parts = gathered(net, [x]), gathered(net, x.split(1))
    assert whole.tokens == parts.tokens == 66
    assert all(close(parts.hessians()[name], sums) for name, sums in whole.hessians().items())
    assert all(torch.equal(parts.rows()[name], counts) for name, counts in whole.rows().items())


@pytest.mark.parametrize("case", CASES)
def test_row_statistic_is_the_mean_squared_gradient_of_sampled_labels(case):
    net, (x, _) = random_model(config(case)), documents((7, 12))
    visits, hidden = seen(net, x)
    uncapped = net.uncapped(hidden)
    logits = 30 * torch.tanh(uncapped / 30)
    labels = torch.multinomial(logits.detach().softmax(-1).flatten(0, 1), 1, generator=torch.Generator().manual_seed(5)).flatten()
    outputs = [(name, out) for name, pairs in visits.items() for _, out in pairs] + [("embedding", uncapped)]
    gradients = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum"), [out for _, out in outputs])
    expected = {}
    for (name, _), gradient in zip(outputs, gradients, strict=True):
        expected[name] = expected.get(name, 0) + gradient.flatten(0, -2).square().sum(0) / x.numel()
    found = gathered(net, [x], row_gradients=True).rows()
    assert {name for name in found if not name.endswith(".counts")} == set(expected)
    assert all(close(found[name], rows) for name, rows in expected.items())
    assert all(weight.grad is None for weight in net.parameters())


def test_row_statistic_of_the_head_tends_to_the_variance_of_its_labels():
    """E (p - y)² = p (1 - p) for the logits before the cap, where the cap is far."""
    net = random_model(config("xsa", logit_softcap=1e4))
    x = torch.randint(0, 40, (1, 24), generator=torch.Generator().manual_seed(0))
    found = gathered(net, [x] * 200, row_gradients=True).rows()["embedding"]
    p = net(x).softmax(-1).flatten(0, 1)
    assert torch.allclose(found, (p * (1 - p)).mean(0), rtol=0.25, atol=2e-3)


def test_lookups_of_every_table_are_counted():
    net, (x, _) = random_model(config("trigram", tied_head=False)), documents((7, 12))
    counts = gathered(net, [x, x]).rows()
    assert set(counts) == {"embedding.counts", "bigram_hash.table.counts"}
    assert torch.equal(counts["embedding.counts"], 2.0 * torch.bincount(x.flatten(), minlength=40))
    assert counts["bigram_hash.table.counts"].sum() == 2 * 2 * x.numel()  # bigram and trigram


def test_layer_that_no_token_reached_has_zeros():
    net, (x, _) = random_model(config("untied_full")), documents((7,))
    net.progress(step=0, fraction=0.0)  # before its recurrence: the repetitions' own layers never run
    found = gathered(net, [x], row_gradients=True)
    unused = [name for name in gpt.matrices(net) if name.startswith("untied_mlp")]
    assert unused and not any(found.hessians()[name].any() or found.rows()[name].any() for name in unused)


# text of its own


def test_written_text_is_drawn_token_by_token_from_the_logits_after_all_before_it():
    net, generator = random_model(config("unet_looped")), torch.Generator().manual_seed(2)
    how = {"rows": 3, "length": 21, "temperature": 0.8}
    written = own_text.write(net, generator=torch.Generator().manual_seed(2), **how)
    assert torch.equal(written[:, :1], torch.randint(40, (3, 1), generator=generator))
    for t in range(1, 21):
        chances = (net(written[:, :t])[:, -1] / 0.8).softmax(-1)
        assert torch.equal(written[:, t], torch.multinomial(chances, 1, generator=generator)[:, 0])
    assert not torch.equal(written, own_text.write(net, generator=torch.Generator().manual_seed(3), **how))


def test_written_tokens_have_the_probabilities_of_the_model():
    net = random_model(config("xsa"))
    written = own_text.write(net, rows=20_000, length=2, temperature=0.8, generator=torch.Generator().manual_seed(0))
    first = torch.bincount(written[:, 0], minlength=40) / 20_000
    assert torch.allclose(first, torch.full((40,), 1 / 40), atol=0.006)
    after = written[written[:, 0] == 7][:, 1]
    p = (net(torch.tensor([[7]]))[0, 0] / 0.8).softmax(-1)
    assert torch.allclose(torch.bincount(after, minlength=40) / len(after), p, atol=0.1)


# the stage


@pytest.mark.parametrize("source", ["train", "holdout", "self"])
def test_every_source_gives_statistics_and_the_same_bytes_again(project, tree, source):
    tree({"calibrate.source": source, "calibrate.sequences": 9})
    outputs = [project / f"artifacts/calibrate/{name}.safetensors" for name in ("hessians", "rows")]
    run_node("calibrate")
    first = [path.read_bytes() for path in outputs]
    run_node("calibrate")
    assert first == [path.read_bytes() for path in outputs]
    metrics = json.loads((project / "artifacts/calibrate/metrics.json").read_text())
    assert (metrics["source"], metrics["tokens"]) == (source, 9 * 64) and metrics["seconds_per_million_tokens"] > 0
    found, facts = tensors.load(outputs[0])
    rows, _ = tensors.load(outputs[1])
    assert facts["tokens"] == rows["embedding.counts"].sum() == 9 * 64
    assert set(found) == set(rows) - {"embedding.counts"} and all(rows[name].any() for name in found)


def test_sources_are_different_texts(project, tree):
    counts = []
    for source in ("train", "holdout", "self"):
        tree({"calibrate.source": source, "calibrate.row_gradients": False})
        run_node("calibrate")
        rows, _ = tensors.load(project / "artifacts/calibrate/rows.safetensors")
        assert set(rows) == {"embedding.counts"}
        counts.append(rows["embedding.counts"])
    assert not any(torch.equal(a, b) for a, b in ((counts[0], counts[1]), (counts[1], counts[2]), (counts[0], counts[2])))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["train", "self"])
def test_two_processes_calibrate_as_one_does(project, tree, source):
    outputs = [project / f"artifacts/calibrate/{name}.safetensors" for name in ("hessians", "rows")]
    tree({"calibrate.source": source, "calibrate.sequences": 20, "calibrate.threads": 1})  # 8 + 8 + 4: not equally many
    run_node("calibrate")
    alone = [tensors.load(path)[0] for path in outputs]
    tree({"calibrate.processes": 2})
    done = subprocess.run(
        [sys.executable, "-m", "stages.calibrate"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((project / "artifacts/calibrate/metrics.json").read_text())["processes"] == 2
    for one, path in zip(alone, outputs, strict=True):
        two, facts = tensors.load(path)
        assert facts["tokens"] == 20 * 64 and all(close(two[name], one[name]) for name in one)


@pytest.mark.parametrize(
    "leaves, sentence",
    [
        ({"calibrate.temperature": 0.0}, "calibrate.temperature is 0.0; it takes more than 0"),
        ({"calibrate.source": "val"}, "takes train | holdout | self"),
        ({"calibrate.processes": 0}, "calibrate.processes is 0"),
        ({"calibrate.seed": -1}, "calibrate.seed is -1"),
        ({"calibrate.sequence_length": 10**6}, "too few"),
        ({"calibrate.threads": 0}, "calibrate.threads"),
    ],
)
def test_calibration_that_cannot_be_is_a_sentence(project, tree, capsys, leaves, sentence):
    tree(leaves)
    with pytest.raises(SystemExit):
        run_node("calibrate")
    assert sentence in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gathers_what_the_cpu_does():
    net, x = random_model(config("value_embedding")), torch.from_numpy(np.random.default_rng(0).integers(0, 40, (4, 32)))
    cpu = gathered(net, [x]).hessians()
    gpu = gathered(net.cuda(), [x.cuda()]).hessians()
    assert all(torch.allclose(gpu[name], cpu[name], rtol=1e-3, atol=1e-3 * cpu[name].abs().max()) for name in cpu)
