"""Test-time training of many documents at once: the order is a code, and what a document costs does not depend on the others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.audit import coding
from stages.lib.referee import artifact
from stages.runtime.scoring import evaluators, harness
from stages.runtime.scoring.evaluators import ttt_lora, ttt_phased
from stages.runtime.scoring.streaming import Stream
from stages.runtime.text import arithmetic
from stages.runtime.tokens import rounds
from tests import cheats
from tests.coding_orders import coded, evaluator, restored, scores, text
from tests.test_evaluators import LORA, PHASES
from tests.test_model import model

CHUNK = LORA["chunk"]
# two tokens; a chunk, and one target more; one longer than all others together; the last one has no separator behind it
LENGTHS = (2, CHUNK, CHUNK + 1, 150, CHUNK + 2, 2, 30, 5)
TEXT = text(*LENGTHS)
orders = st.builds(
    rounds.Order,
    slots=st.integers(1, 5),
    chunk=st.integers(1, 9),
    shares=st.integers(1, 4),
    barriers=st.sets(st.integers(1, 6), max_size=2).map(sorted).map(tuple),
)
streams = st.lists(st.integers(0, 5), min_size=2, max_size=60).map(np.array)


@settings(deadline=None)
@given(streams, orders)
def test_coding_order_is_a_permutation_and_a_decoder_puts_every_token_in_its_place(tokens, order):
    targets = order.targets(tokens)
    assert sorted(targets) == list(range(1, len(tokens)))
    assert np.array_equal(restored(coded(tokens, order), order), tokens)
    if order.slots == order.shares == 1:
        assert np.array_equal(targets, np.arange(1, len(tokens)))


@settings(deadline=None)
@given(streams, orders, st.data())
def test_a_place_follows_from_the_tokens_coded_before(tokens, order, data):
    """Whatever the later tokens are; only the numbers of targets and documents are told."""
    found, cut = coded(tokens, order), data.draw(st.integers(0, len(tokens) - 2))
    told = len(order.starts(tokens)), len(tokens) - 1
    other = np.append(found[: cut + 1], data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=1)))
    document, place = coding.places(found, order, *told)
    others = coding.places(other, order, *told)
    assert np.array_equal(document[: cut + 1], others[0]) and np.array_equal(place[: cut + 1], others[1])


def test_no_document_begins_behind_a_barrier_before_all_below_it_are_over():
    tokens, order = text(9, 40, 3, 25, 12, 70, 4, 8, 30), rounds.Order(3, 8, barriers=(4,))
    document, _ = coding.places(coded(tokens, order), order, 9, len(tokens) - 1)
    behind = document >= 4
    assert behind.argmax() == np.count_nonzero(~behind) and behind[behind.argmax() :].all() and len(set(document[:30])) > 2
    assert (np.diff(document)[document[1:] == 8] <= 0)[1:].all()  # the last one runs alone


def test_one_slot_has_the_scores_of_the_evaluator_without_slots_where_the_chunks_agree():
    """An implementation of its own: it merges the adapters into the weights and takes torch's AdamW."""
    tokens = text(8, 16, 40, 24, ends=True)
    assert scores(evaluator(slots=1), tokens) == pytest.approx(scores(evaluator(), tokens), abs=1e-5)
    phased = [scores(evaluator(phases=[1, 3], **more), tokens) for more in ({"slots": 1}, {})]
    assert phased[0] == pytest.approx(phased[1], abs=1e-5) and abs(phased[0] - scores(evaluator(), tokens)).max() > 0.01


@pytest.mark.parametrize("targets", [["query", "key", "value", "output"], ["up", "down"], ["head"]])
def test_every_target_of_adapters_is_adapted_in_slots_too(targets):
    tokens = text(8, 16, 24, ends=True)
    found = scores(evaluator(slots=2, targets=targets), tokens)
    assert found == pytest.approx(scores(evaluator(targets=targets), tokens), abs=1e-5)
    assert abs(found - scores(evaluator(slots=2, targets=targets, learning_rate=0.0), tokens)).max() > 1e-3


def test_cold_adapters_have_the_same_scores_for_any_number_of_slots_and_shares():
    expected = scores(evaluator(slots=1), TEXT)
    for slots, shares in ((7, 1), (64, 2), (64, 4)):
        found = scores(evaluator(slots=slots, shares=shares), TEXT)
        assert found == pytest.approx(expected, abs=2e-5) and found.sum() == pytest.approx(expected.sum(), abs=1e-4)
    # passes of one slot have equal shapes whoever is in the other slots
    alone = [scores(evaluator(slots=slots, shares=shares, group=1), TEXT) for slots, shares in ((1, 1), (7, 2))]
    assert np.array_equal(alone[0], alone[1])


def test_with_stretched_angles_too_the_scores_do_not_depend_on_who_shares_a_pass():
    """The base of these angles follows from the width of the window, which is that of the pass."""

    def found(slots, group):
        made = ttt_lora.Evaluator(model(trained=True, changes={"rope_trained_length": 10}), **LORA | {"slots": slots, "group": group})
        return scores(made, TEXT)

    assert found(7, 7) == pytest.approx(found(1, 1), abs=2e-5)


@pytest.mark.slow
def test_a_flipped_token_moves_no_score_of_another_document():
    base, starts = scores(evaluator(slots=3), TEXT), rounds.Order(1, 1).starts(TEXT)
    for number, start in enumerate(starts):
        changed = TEXT.copy()
        changed[start + 1 :][: LENGTHS[number] - 1][-1] ^= 2  # its last token that starts no document
        moved = np.flatnonzero(scores(evaluator(slots=3), changed) != base) + 1
        assert len(moved) and (moved > start).all() and (moved <= start + LENGTHS[number]).all()


def test_warm_adapters_and_phases_claim_less():
    options = LORA | {"slots": 3}
    assert {"causal", "documents_apart", "uses_length"} <= set(ttt_lora.claims(options))
    assert "documents_apart" not in ttt_lora.claims(options | {"warm": True})
    assert "documents_apart" not in ttt_phased.claims(options | PHASES)
    assert "causal" not in ttt_lora.claims(options | {"longest_first": True})
    assert ttt_lora.claims(LORA) == ttt_lora.CLAIMS
    cold, warm = (scores(evaluator(slots=2, warm=warm), TEXT) for warm in (False, True))
    later = rounds.Order(1, 1).starts(TEXT)[2]
    assert np.array_equal(cold[:CHUNK], warm[:CHUNK]) and not np.array_equal(cold[later:], warm[later:])


@pytest.mark.parametrize("change", [{"slots": -1}, {"slots": 2, "shares": 0}, {"shares": 2}, {"warm": True}, {"slots": 2, "warm": 1}])
def test_options_of_slots_that_cannot_work_are_a_sentence(change):
    with pytest.raises(ValueError):
        evaluators.build(ttt_lora, None, LORA | change)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"warm": True, "shares": 2}, {"phases": [2, 4]}])
def test_decoder_that_sees_only_bits_finds_the_text(options):
    options = {"slots": 3} | options
    order = evaluator(**options).coding_order
    found, told = coded(TEXT, order), {"documents": len(LENGTHS)}
    sender, encoder, bits = Stream(evaluator(**options), len(TEXT) - 1, 1, **told), arithmetic.Encoder(), 0.0
    for token in found[1:].tolist():
        row = sender.dist()
        encoder.put(token, arithmetic.frequencies(row))
        bits -= row[token]
        sender.push([token])
    receiver, decoder, ids = Stream(evaluator(**options), len(TEXT) - 1, 1, **told), arithmetic.Decoder(encoder.finish()), [1]
    for _ in range(len(TEXT) - 1):
        ids.append(decoder.get(arithmetic.frequencies(receiver.dist())))
        receiver.push(ids[-1:])
    assert np.array_equal(restored(np.array(ids), order), TEXT)
    assert bits == pytest.approx(scores(evaluator(**options), TEXT).sum(), abs=1e-3)


def test_shares_in_processes_of_their_own_are_the_whole():
    options = {"slots": 2, "shares": 3, "phases": [1], "warm": True}
    found = coded(TEXT, evaluator(**options).coding_order)
    parts = [harness.score(evaluator(**options), found, part=(part, 3)).nats for part in range(3)]
    assert np.array_equal(np.nansum(parts, axis=0), harness.score(evaluator(**options), found).nats)
    assert (np.isfinite(parts).sum(axis=0) == 1).all()


def audited(monkeypatch, options, claims, **more):
    with torch.no_grad():
        return cheats.audit(monkeypatch, lambda streaming=False: evaluator(**options), claims=claims, text=TEXT, **more)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"shares": 2}, {"warm": True}, {"phases": [2, 4]}])
def test_audit_certifies_it_from_the_first_target_to_the_last(monkeypatch, options):
    options = {"slots": 3} | options
    claims = (ttt_phased if "phases" in options else ttt_lora).claims(LORA | options)
    found = audited(monkeypatch, options, claims, round_trip=len(TEXT))
    assert cheats.failed(found) == set(), {name: found[name].evidence for name in cheats.failed(found)}
    assert found["round_trip"].evidence["tokens"] == len(TEXT) - 1


@pytest.mark.slow
def test_with_cold_adapters_any_order_is_a_code(monkeypatch):
    """Claims from the longest document first are those of the order of the stream, up to rounding: the audit certifies them."""

    def longest_first(made, tokens, **more):
        stream = restored(tokens, made.coding_order)
        nats = scores(evaluator(slots=4, longest_first=True), stream)
        return harness.Ledger(nats[made.coding_order.targets(stream) - 1])

    found = audited(monkeypatch, {"slots": 3}, ttt_lora.claims(LORA | {"slots": 3}), score=longest_first)
    assert cheats.failed(found) - {"withheld"} == set() and found["withheld"].largest_deviation < 1e-4


def test_round_trip_compares_with_the_text_in_its_own_order():
    order, longest = rounds.Order(3, 8), rounds.Order(3, 8, longest_first=True)
    assert not len(coding.wrong(coded(TEXT, order)[1:], TEXT, order)) and not len(coding.wrong(TEXT[1:], TEXT, None))
    assert len(coding.wrong(coded(TEXT, longest)[1:], TEXT, longest)) and len(coding.wrong(coded(TEXT, order)[1:], TEXT, None))
    swapped = coded(TEXT, order)[1:]
    swapped[[0, 40]] = 7, 9
    assert 40 in coding.wrong(swapped, TEXT, order)


@pytest.mark.parametrize("change", [{"separator": 2}, {"slots": 0}, {"barriers": [0]}, {"sorted": True}])
def test_order_that_no_decoder_could_follow_is_refused(change):
    good = {"slots": 3, "chunk": 8, "shares": 1, "barriers": [2], "separator": 1, "longest_first": False}
    assert artifact.order(good) == rounds.Order(3, 8, barriers=(2,)) and artifact.order(None) is None
    with pytest.raises(artifact.Failed, match="order of documents"):
        artifact.order(good | change)
