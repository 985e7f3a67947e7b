"""What the records of May 2026 added: a context that grows, two caps, AWQ-lite, and the tilt, each against its formula written plainly."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.lib.node.launch import World
from stages.lib.quant import groups, network, scales
from stages.runtime.network.gpt import GPT
from stages.runtime.scoring import adaptation, harness, hints
from stages.runtime.scoring.adapters import Adapters
from stages.runtime.scoring.evaluators import sliding, tilt, ttt_lora
from stages.train import loss
from stages.train.kernels import softcap_cross_entropy
from stages.train.optim.muon import Muon
from stages.train.optim.orthogonalise import orthogonalise
from stages.train.optimizers import Optimizers
from stages.train.prefetch import Prefetcher
from tests import coding_orders
from tests.quantizing import quantized, settings_with
from tests.test_evaluators import LORA
from tests.test_features import LOOP, PLAIN, config
from tests.test_loaders import T, loader, same
from tests.test_model import CONFIG, model
from tests.test_optimizers import settings
from tests.test_stacks import documents, random_model

# ---- progressive context

STAGES = ((4, 0.1), (10, 0.7), (T, 1.0))


def progressive(stages=STAGES, warmup_steps=32):
    found = loader("progressive")
    found.set_context(stages, warmup_steps)
    return found


def test_context_is_the_first_stage_that_is_not_over_and_rates_rise_again_after_a_change():
    batches, found = progressive(), []
    for step in range(200):
        factor = batches.progress(step, step / 200)
        found.append((batches.longest_segment, factor))
    assert [tokens for tokens, _ in found] == [4] * 21 + [10] * 120 + [T] * 59, "at exactly 0.1 and 0.7 the stage still holds"
    for start in (21, 141):
        assert [found[start + ahead][1] for ahead in (0, 15, 31, 32)] == [1 / 32, 16 / 32, 1.0, 1.0]
    assert all(factor == 1 for _, factor in found[:21])


def test_only_the_cuts_change_with_the_context():
    batches, plain = progressive(), loader("packed")
    for step, fraction, cut in ((0, 0.0, 4), (3, 0.5, 10), (7, 0.9, T)):
        batches.progress(step, fraction)
        batch, whole = batches.batch(step), plain.batch(step)
        assert torch.equal(batch.inputs, whole.inputs) and torch.equal(batch.targets, whole.targets) and batch.max_seqlen == cut
        expected, since = [], 0  # a segment begins at a document, at a row, and every `cut` tokens after that
        for row, tokens in enumerate(batch.inputs.tolist()):
            for place, token in enumerate(tokens):
                since = 0 if token == 1 or place == 0 else since + 1
                if since % cut == 0:
                    expected.append(row * len(tokens) + place)
        assert batch.cu_seqlens.unique().tolist() == [*expected, batch.inputs.numel()]
    assert same(batches.batch(7), plain.batch(7)), "the last stage is the loader packed"


def test_what_was_read_ahead_of_a_change_is_cut_again_and_a_checkpoint_holds_the_context():
    world = World(0, 1, torch.device("cpu"))
    ahead = Prefetcher(progressive(), world, part_tokens=None, is_ahead=True)
    ahead.progress(0, 0.05)
    ahead.parts(0)
    state = json.loads(json.dumps(ahead.position()))
    assert ahead.progress(1, 0.5) == 1 / 32 and ahead.parts(1)[0].max_seqlen == 10
    other = Prefetcher(progressive(), world, part_tokens=None, is_ahead=False)
    other.go_to(state)
    assert other.progress(1, 0.5) == 1 / 32 and same(other.parts(1)[0], ahead.parts(1)[0])
    other.go_to(json.loads(json.dumps(ahead.position())))
    assert other.progress(2, 0.5) == 2 / 32


@pytest.mark.parametrize("stages", [(), ((4, 0.1),), ((4, 0.5), (2, 1.0)), ((4, 0.5), (T, 0.4)), ((4, 0.5, 1), (T, 1.0)), ((T, 0.9),)])
def test_context_that_does_not_grow_to_the_whole_is_a_sentence(stages):
    with pytest.raises(ValueError, match=rf"train\.context is .* at last \[{T}, 1\.0\], which is train\.sequence_length"):
        progressive(stages)


def test_other_loaders_take_no_context():
    with pytest.raises(ValueError, match=r"train\.context is for the loader progressive"):
        loader("packed").set_context(STAGES, 32)


# ---- caps

CAPS = {"features": {"asymmetric_cap": {"learned": False}}}


def test_caps_that_start_equal_change_no_score_and_logits_are_capped_in_float32():
    plain, x = model(), torch.arange(12)[None]
    for learned in (False, True):
        net = model(changes={"features": {"asymmetric_cap": {"learned": learned}}})
        assert torch.equal(net(x), plain(x))
    half = (20 * torch.randn(3, 50, generator=torch.Generator().manual_seed(0))).bfloat16()
    for net in (plain, model(changes=CAPS)):
        assert net.capped(half).dtype == torch.float32
        np.testing.assert_allclose(net.capped(half).detach().numpy(), 30 * np.tanh(half.double().numpy() / 30), rtol=3e-7, atol=1e-6)


def test_only_learned_caps_get_gradients_and_each_its_own_sign():
    logits = torch.tensor([[25.0, 3.0, -2.0], [4.0, 1.0, 2.0]])
    for learned in (False, True):
        net = model(changes={"features": {"asymmetric_cap": {"learned": learned}}})
        gradients = torch.autograd.grad(
            net.capped(logits + 0 * net.embedding.weight[0, 0]).sum(), [*net.features["asymmetric_cap"].parameters()], allow_unused=True
        )
        if not learned:
            assert gradients == (None, None)
            continue
        for gradient, part in zip(gradients, (logits[logits >= 0], logits[logits < 0]), strict=True):
            z = part.double() / 30
            assert gradient.item() == pytest.approx((z.tanh() - z * (1 - z.tanh() ** 2)).sum().item(), rel=1e-4)


def test_adapters_and_gradients_in_closed_form_cap_by_learned_caps():
    """As after a phase of test-time training. B starts at 0, so adapters change nothing before the first step."""
    net, x = model(changes={"features": {"asymmetric_cap": {"learned": True}}}), torch.arange(12)[None]
    with torch.no_grad():
        net.features["asymmetric_cap"].positive.fill_(0.02)
        net.features["asymmetric_cap"].negative.fill_(0.05)
    hidden_BTD, generator = net.hidden(x).detach(), torch.Generator().manual_seed(0)
    constant = 30 * torch.tanh(net.uncapped(hidden_BTD) / 30)
    assert (net.head(hidden_BTD) - constant).abs().max() > 0.01
    adapters = Adapters(net, rank=2, alpha=2.0, targets=["query", "head"], generator=generator)
    assert torch.equal(adapters.head(hidden_BTD), net.head(hidden_BTD))
    one, many = (coding_orders.scores(ttt_lora.Evaluator(net, **LORA, slots=slots), coding_orders.text(30)) for slots in (0, 2))
    np.testing.assert_allclose(one, many, rtol=1e-5)
    offset, weights_BT = torch.zeros(1, 1, hidden_BTD.size(2), requires_grad=True), torch.rand(1, 12, generator=generator)
    losses = F.cross_entropy(net.head(hidden_BTD + offset)[0], x[0], reduction="none")
    (wanted,) = torch.autograd.grad((weights_BT[0] * losses).sum(), offset)
    with torch.no_grad():
        found = adaptation.gradient(net, hidden_BTD, x, weights_BT)[0]
        assert torch.equal(adaptation.capped(net, hidden_BTD), net.head(hidden_BTD))
    torch.testing.assert_close(found, wanted[0], rtol=1e-4, atol=1e-7)


def test_training_leaves_the_caps_where_they_start():
    """Its loss has the constant, and weight decay does not shrink them."""
    net, (x, _) = random_model(config("asymmetric_cap")), documents()
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    net.features["asymmetric_cap"].initialise(generator=None)
    optimizers = Optimizers(net, settings(scalar_weight_decay=0.5), World(0, 1, torch.device("cpu")))
    value = loss.of(net, softcap_cross_entropy.plain)(x, x)
    value.backward()
    optimizers.step(scale=1.0, momentum=0.9, taper=1.0)
    assert value.item() == F.cross_entropy(30 * torch.tanh(random_model(config("asymmetric_cap")).uncapped(hidden(x))[0] / 30), x[0]).item()
    for name, weight in net.named_parameters():
        assert (weight.detach() == 30).all() if name.startswith("asymmetric_cap") else not torch.equal(weight, before[name])


def hidden(x):
    return random_model(config("asymmetric_cap")).hidden(x)


# ---- AWQ-lite


def problem(looped: bool):
    """A small network, Hessians of its layers from random inputs, and settings with AWQ-lite for stretches of 4 columns."""
    net = random_model(config("depth_recurrence" if looped else ""))
    generator, found = torch.Generator().manual_seed(1), {}
    for name, weight in net.named_parameters():
        if weight.ndim == 2:
            x = torch.randn(50, weight.size(1), generator=generator) * torch.rand(weight.size(1), generator=generator)
            found[name.removesuffix(".weight")] = x.mT @ x
    return net, found


def awq(**options):
    group = {"method": "awq_lite", "bits": 5, "scales": "sigmas", "clip": 8.0}
    return settings_with(
        {"awq": {"groups": 1, "columns": 4, "bits": 8, "min_elements": 300} | options}, attention=group, mlp=group, embedding=group
    )


def run(net, hessians, chosen):
    state = {name: weight.detach() for name, weight in net.named_parameters()}
    facts = {"model": net.config.to_dict(), "tokens": 50}
    return network.quantize(
        state, groups.by_parameter(net), hessians, chosen, rows={}, multipliers={}, device=torch.device("cpu"), facts=facts
    )


def test_without_stretches_awq_lite_is_gptq_bit_for_bit():
    net, hessians = problem(looped=False)
    plain = settings_with(
        **{key: {"method": "gptq", "bits": 5, "scales": "sigmas", "clip": 8.0} for key in ("attention", "mlp", "embedding")}
    )
    one, other = run(net, hessians, awq(groups=0)).stored(), quantized(net, hessians, plain).stored()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("looped", [False, True])
def test_awq_lite_gives_the_stretch_that_matters_most_the_bits_and_the_steps_of_its_own(looped):
    net, hessians = problem(looped)
    passes, best = {"1": 3, "2": 3} if looped else {}, (0.0, "", 0)
    for name, weight in net.named_parameters():
        if weight.ndim == 2 and weight.numel() >= 300:
            diagonal = hessians[name.removesuffix(".weight")].diagonal().tolist()
            visits = passes.get(name.split(".")[1], 1)
            for start in range(0, weight.size(1), 4):
                score = sum((diagonal[j] / (50 * visits)) ** 0.5 * weight[:, j].abs().mean().item() for j in range(start, start + 4))
                best = max(best, (score, name, start))
    found = run(net, hessians, awq())
    _, name, start = best
    fine = [matrix for matrix, quantized in found.matrices.items() if quantized.arrays["scales"].ndim == 2]
    assert fine == [name]
    arrays, weight = found.matrices[name].arrays, net.get_parameter(name).detach()
    largest = arrays["codes"].abs().amax(dim=0)
    assert largest[start : start + 4].max() > 15 >= torch.cat((largest[:start], largest[start + 4 :])).max()
    steps = [
        scales.steps(scales.clips(weight, rule="sigmas", clip=8.0), bits=bits, clip_floor=0.0, stored_as="float16").values
        for bits in (5, 8)
    ]
    by_column = torch.stack([steps[start <= j < start + 4] for j in range(weight.size(1))], dim=1)
    assert torch.equal(found.matrices[name].weights(), arrays["codes"] * by_column), "the stretch has its own steps only"
    # one recursion over all columns, as optimal brain surgeon has it
    hessian = hessians[name.removesuffix(".weight")].double()
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True).tolist()
    hessian = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    work, left, expected = weight.double().clone(), list(order), torch.zeros_like(weight)
    for j in order:
        inverse = torch.linalg.inv(hessian[left][:, left])
        bound = 127 if start <= j < start + 4 else 15
        expected[:, j] = torch.round(work[:, j] / by_column[:, j].double()).clamp(-bound, bound)
        error = (work[:, j] - by_column[:, j].double() * expected[:, j]) / inverse[0, 0]
        work[:, left] -= torch.outer(error, inverse[0])
        left = left[1:]
    assert torch.equal(arrays["codes"].float(), expected)


# ---- the tilt

WINDOWS = {"window": 24, "stride": 8, "batch": 4}


def repetitive(length=150):
    """Five different tokens with stretches that come again, and documents that begin with 1."""
    tokens = np.random.default_rng(0).integers(2, 7, length)
    tokens[[0, 60, 61, 100]] = 1
    tokens[70:85], tokens[120:135] = tokens[20:35], tokens[20:35]
    return tokens


def plain_hints(tokens, order, confidence):
    """What followed the same order - 1 tokens before, target by target."""
    found, counts = {}, {}
    for target in range(order - 1, len(tokens)):
        seen = counts.setdefault(tuple(tokens[target - order + 1 : target].tolist()), {})
        if seen and max(seen.values()) >= confidence * sum(seen.values()):
            found[target] = max(seen, key=seen.get)
        seen[int(tokens[target])] = seen.get(int(tokens[target]), 0) + 1
    return found


@pytest.mark.parametrize("batch", [1, 4])
def test_tilt_is_its_formula(batch):
    tokens, order, confidence, boost = repetitive(), 4, 0.7, 1.5
    options = WINDOWS | {"batch": batch}
    evaluator = tilt.Evaluator(model(trained=True), network="sliding", order=order, confidence=confidence, boost=boost, **options)
    ledger = harness.score(evaluator, tokens, keep_rows=range(1, 150))
    plain = harness.score(sliding.Evaluator(model(trained=True), **options), tokens, keep_rows=range(1, 150))
    expected = plain_hints(tokens, order, confidence)
    assert len(expected) > 20 and min(expected) >= order - 1 and any(expected[t] != tokens[t] for t in expected)
    for target in range(1, 150):
        p = np.exp(plain.rows[target])
        if target in expected:
            lifted = np.exp(boost * (np.arange(50) == expected[target]))
            p = p * lifted / (1 + p[expected[target]] * np.expm1(boost))
        np.testing.assert_allclose(np.exp(ledger.rows[target]), p, rtol=2e-6)
        assert np.exp(ledger.rows[target]).sum() == pytest.approx(1, abs=1e-12)


def test_keys_of_the_published_order_are_the_exclusive_or_of_its_products():
    tokens, wide = np.random.default_rng(1).integers(0, 8192, 40), []
    for target in range(15, 40):
        key = 0
        for j, factor in enumerate(hints.MULTIPLIERS.tolist()):
            key ^= int(tokens[target - 15 + j]) * factor
        wide.append(key)
    assert hints.keys(tokens, 15) == wide and max(wide) < 2**34 and len(hints.MULTIPLIERS) == 15


class Silent:
    """An evaluator of documents that are scored at once; it knows nothing."""

    def __init__(self, model, **options):
        self.coding_order = SimpleNamespace(separator=1)

    def predict(self, seen, chunk):
        return torch.zeros(sum(p.last + 1 - p.first for p in chunk), 50)

    def learn(self, seen, chunk):
        pass


def test_tilt_of_documents_at_once_counts_in_coding_order_with_contexts_of_their_own(monkeypatch):
    """Two slots with chunks of 5; the texts of the documents are put together again, each share begins anew, and a piece sees no other
    piece of its round, so that its rows are the same when it is asked for alone."""
    monkeypatch.setitem(tilt.NETWORKS, "sliding", SimpleNamespace(Evaluator=Silent))
    generator = np.random.default_rng(2)
    texts = [[1, *generator.integers(2, 5, n), 1] for n in (13, 6, 22, 9)]
    coded, rounds, places = [7], [], []  # the first token of the stream is no target
    for share, (a, b) in enumerate(((0, 1), (2, 3))):
        done = {a: 0, b: 0}
        while done:
            pieces = []
            for document in list(done):
                part = texts[document][done[document] + 1 :][:5]
                first = len(coded)
                over = done[document] + len(part) == len(texts[document]) - 1
                pieces.append(SimpleNamespace(share=share, document=document, first=first, last=first + len(part) - 1, is_over=over))
                places += [(share, document, done[document] + 1 + i) for i in range(len(part))]
                coded += part
                done[document] += len(part)
                if over:
                    del done[document]
            rounds.append(pieces)
    texts[0][0] = 7
    expected, before, shares = [], [], -1  # (context, target) of each target of the rounds before
    for pieces in rounds:
        if pieces[0].share != shares:
            before, shares = [], pieces[0].share
        counted = []
        for piece in pieces:
            own = []
            for target in range(piece.first, piece.last + 1):
                _, document, place = places[target - 1]
                context, hint = tuple(texts[document][max(place - 2, 0) : place]), None
                followed = Counter(token for other, token in before + own if other == context)
                if place >= 2:
                    if followed and max(followed.values()) >= 0.6 * followed.total():
                        hint = max(followed, key=followed.get)
                    own.append((context, coded[target]))
                expected.append(hint)
            counted += own
        before += counted
    evaluator, found = tilt.Evaluator(None, network="sliding", order=3, confidence=0.6, boost=2.0), []
    seen = torch.tensor(coded)
    for pieces in rounds:
        partly = seen.clone()
        partly[pieces[0].first + 2 :] = 0
        evaluator.predict(partly[: pieces[-1].last + 1], pieces)  # as a decoder asks before it knows the chunk
        logits = evaluator.predict(seen[: pieces[-1].last + 1], pieces)
        found += [int(row.argmax()) if row.any() else None for row in logits]
        alone = [evaluator.predict(seen[: piece.last + 1], [piece]) for piece in pieces]
        assert torch.equal(torch.cat(alone), logits)
        if pieces is rounds[1]:
            evaluator.predict(partly[: pieces[-1].last + 1], pieces)
        evaluator.learn(seen[: pieces[-1].last + 1], pieces)
    assert found == expected and sum(hint is not None for hint in found) > 10 and not evaluator.tails


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"order": 1}, "order is 1"),
        ({"order": 17}, "order is 17"),
        ({"confidence": 0.5}, "confidence is 0.5"),
        ({"boost": -1.0}, "boost is -1.0"),
        ({"network": "slot"}, "network is 'slot'"),
    ],
)
def test_tilt_that_cannot_be_is_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        tilt.Evaluator(None, **{"network": "sliding", "order": 3, "confidence": 0.8, "boost": 1.0} | WINDOWS | options)


def test_context_may_be_longer_than_the_rows_of_training():
    """Positions are relative and nothing else depends on the length, so a wider window is the same network with more to read."""
    tokens = torch.arange(48)[None] % 50
    net = model(trained=True)
    assert CONFIG.rope_trained_length == 0
    assert torch.allclose(net(tokens)[:, :24], net(tokens[:, :24]), atol=1e-5) and LOOP["passes"] == 3


# ---- heads in pairs


def test_pairs_of_heads_are_orthogonalised_by_themselves_and_nothing_else_is():
    net = GPT(replace(PLAIN, num_kv_heads=4))
    names = [name for name, weight in net.named_parameters() if weight.ndim == 2 and name.startswith("blocks.")]
    weights = {name: torch.nn.Parameter(torch.randn(net.get_parameter(name).shape)) for name in names}
    options = settings(muon__paired_heads=True, muon__row_normalize=False).muon
    muon = Muon(weights, options, world=World(0, 1, torch.device("cpu")), pair_rows=8)
    rows, before = (
        [name for name in names if name.split(".")[-2] in ("query", "key")],
        {name: weight.detach().clone() for name, weight in weights.items()},
    )
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape)
    muon.start()
    muon.step(rate=0.1, momentum=0.9, weight_decay=0.0)
    for name, weight in weights.items():
        for part in weight.grad.split(8 if name in rows else len(weight)):
            place = slice(
                *next((i, i + len(part)) for i in range(0, len(weight), len(part)) if torch.equal(weight.grad[i : i + len(part)], part))
            )
            expected = orthogonalise((1.9 * part)[None], coefficients="classical", iterations=3, bound="schatten8")[0]
            expected = 0.1 * max(1, part.size(0) / part.size(1)) ** 0.5 * expected
            np.testing.assert_allclose((before[name] - weight.detach())[place], expected, atol=1e-5)


def test_an_odd_number_of_heads_has_no_pairs():
    net = GPT(replace(PLAIN, num_heads=3, num_kv_heads=1, width=12))
    with pytest.raises(ValueError, match="needs even numbers of heads"):
        Optimizers(net, settings(muon__paired_heads=True), World(0, 1, torch.device("cpu")))
