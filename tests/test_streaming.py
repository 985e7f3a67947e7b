"""Token by token: the same distributions as the batch form, and files that come back bit for bit."""

import bz2
import json
import lzma

import numpy as np
import pytest
import torch

from stages.runtime.scoring import harness
from stages.runtime.scoring.streaming import Stream
from stages.runtime.text import arithmetic, text_file
from stages.runtime.text.tokenizer import BOS, PURE_BYTE, Tokenizer
from stages.runtime.tokens import windows
from tests.test_evaluators import HONEST, VARIANTS, kind, stream
from tests.test_model import model


@pytest.fixture(scope="module")
def pure_byte():
    return Tokenizer(json.dumps(PURE_BYTE).encode())


@pytest.mark.parametrize("name", HONEST)
def test_stream_has_the_rows_of_the_batch_form(name):
    tokens, options = stream(90), VARIANTS[name] | getattr(kind(name), "STREAM", {})
    batch = harness.score(kind(name).Evaluator(model(trained=True), **VARIANTS[name]), tokens, keep_rows=range(1, 90))
    one = Stream(kind(name).Evaluator(model(trained=True), **options), 89, int(tokens[0]), documents=3)
    for target in range(1, 90):
        first, second = one.dist(), one.dist()
        assert np.array_equal(first, second)  # asking changes nothing
        assert first == pytest.approx(batch.rows[target], abs=2e-5)
        one.push([int(tokens[target])])


@pytest.mark.parametrize("seed", range(5))
def test_range_coder_gives_back_any_symbols_at_the_cost_of_their_probabilities(seed):
    generator = np.random.default_rng(seed)
    rows = [np.log(generator.dirichlet(np.full(size, 0.05)) + 1e-30) for size in generator.integers(2, 300, 200)]
    symbols = [int(row.argmax()) if i % 2 else int(generator.integers(len(row))) for i, row in enumerate(rows)]
    encoder = arithmetic.Encoder()
    for symbol, row in zip(symbols, rows, strict=True):
        encoder.put(symbol, arithmetic.frequencies(row))
    coded = encoder.finish()
    decoder = arithmetic.Decoder(coded)
    assert [decoder.get(arithmetic.frequencies(row)) for row in rows] == symbols
    ideal = -sum(np.log2(arithmetic.frequencies(row)[symbol]) - 30 for symbol, row in zip(symbols, rows, strict=True))
    assert 8 * len(coded) <= ideal * (1 + 1e-6) + 16


def test_carry_runs_through_bytes_of_255():
    """A frequency of 1 at the top of the range, again and again, fills the stream with 255; what follows carries into them."""
    top = np.array([(1 << 30) - 1, 1])
    low = np.array([1, (1 << 30) - 1])
    for symbols in ([1] * 9 + [0], [1] * 9 + [1], [0, 1] * 9):
        encoder = arithmetic.Encoder()
        for i, symbol in enumerate(symbols):
            encoder.put(symbol, (top, low)[i % 2])
        decoder = arithmetic.Decoder(encoder.finish())
        assert [decoder.get((top, low)[i % 2]) for i in range(len(symbols))] == symbols


class Fixed:
    """Byte 'a' is likely."""

    def chunks(self, num_targets):
        return iter([[window] for window in windows.plan(num_targets, window=8, stride=4)])

    def predict(self, seen, chunk):
        logits = torch.zeros(chunk[0].last - chunk[0].first + 1, 260)
        logits[:, 4 + ord("a")] = 3.0
        return logits

    def learn(self, seen, chunk):
        pass


def given_back(packed: bytes, tokenizer, key: bytes = b"k") -> bytes:
    return text_file.decompress(*text_file.checked(packed), tokenizer, Fixed, key=key, progress=iter)


@pytest.mark.parametrize("content", [b"", b"a", b"\xff\xfe\x00", "größer \u2581 \U0001f600".encode(), b"a" * 300, bytes(range(256))])
def test_any_content_comes_back(content, pure_byte, monkeypatch):
    for general in (text_file.GENERAL, {}):
        monkeypatch.setattr(text_file, "GENERAL", general)
        packed, bits = text_file.compress(content, pure_byte, Fixed(), key=b"k", progress=iter)
        assert given_back(packed, pure_byte) == content
    assert 8 * (len(packed) - text_file.HEADER.size - text_file.CODED.size) <= bits * 1.001 + 64


def test_what_a_general_compressor_makes_shorter_is_kept_by_it_and_needs_no_model(pure_byte):
    noise = np.random.default_rng(0).bytes(1000)
    for content, form in ((b"import numpy\n" * 40, 2), (b"".join(b"%d\n" % i for i in range(3000)), None), (noise, 4)):
        packed, _ = text_file.compress(content, pure_byte, Fixed(), key=b"k", progress=iter)
        found, follows = text_file.checked(packed)
        assert found == form or (form is None and found in text_file.GENERAL)
        shortest = min(len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)), len(bz2.compress(content)), len(content))
        assert len(packed) <= shortest + text_file.HEADER.size
        assert text_file.decompress(found, follows, pure_byte, None, key=b"other", progress=None) == content


def test_file_that_is_damaged_or_of_another_artifact_is_refused_before_it_is_decoded(pure_byte, monkeypatch):
    monkeypatch.setattr(text_file, "GENERAL", {})
    packed, _ = text_file.compress(b"abc" * 30, pure_byte, Fixed(), key=b"k", progress=iter)
    assert given_back(packed, pure_byte) == b"abc" * 30
    with pytest.raises(ValueError, match="another artifact"):
        text_file.decompress(*text_file.checked(packed), pure_byte, None, key=b"other", progress=None)

    def refused(blob, sentence):
        with pytest.raises(ValueError, match=sentence):
            text_file.checked(blob)

    refused(packed[:12], "cut off in its header")
    refused(b"PK" + packed[2:], "no file that this version of `compress` wrote")
    refused(packed[:8] + b"\xff" + packed[9:], "header is damaged")
    refused(packed[:-3], "damaged")
    for place in range(9, len(packed)):
        refused(packed[:place] + bytes([packed[place] ^ 16]) + packed[place + 1 :], "damaged")


@pytest.mark.parametrize("name", ["causal_slot", "ttt_lora", "ttt_phased, slots", "mixture", "streaming", "memory", "memory, streaming"])
def test_decoder_that_sees_only_bits_finds_the_tokens(name):
    """Arithmetic coding by the evaluator itself; the decoder has the model and the number of tokens."""
    tokens, options = stream(60), VARIANTS[name] | getattr(kind(name), "STREAM", {})
    sender = Stream(kind(name).Evaluator(model(trained=True), **options), 59, BOS)
    encoder, bits = arithmetic.Encoder(), 0.0
    for token in tokens[1:].tolist():
        row = sender.dist()
        encoder.put(token, arithmetic.frequencies(row))
        bits -= row[token] / np.log(2)
        sender.push([token])
    coded = encoder.finish()
    receiver, decoder, found = Stream(kind(name).Evaluator(model(trained=True), **options), 59, BOS), arithmetic.Decoder(coded), []
    for _ in range(59):
        found.append(decoder.get(arithmetic.frequencies(receiver.dist())))
        receiver.push(found[-1:])
    assert found == tokens[1:].tolist() and 8 * len(coded) <= bits * 1.001 + 64


@pytest.mark.parametrize("name", ["sliding", "mixture", "ttt_sgd", "ttt_phased, slots", "causal_slot, warm start", "memory, streaming"])
def test_tokens_may_be_told_without_their_distribution_being_asked_for(name):
    """The same rows as when every one was asked for, and, for evaluators that carry nothing along, by a shorter way."""
    tokens, options = stream(150), VARIANTS[name] | getattr(kind(name), "STREAM", {})
    one, other = (Stream(kind(name).Evaluator(model(trained=True), **options), 149, BOS, documents=4) for _ in range(2))
    at = 1
    for target in (1, 2, 30, 31, 80, 149):
        for token in tokens[at:target].tolist():
            one.dist()
            one.push([token])
        other.push(tokens[at:target].tolist())
        at = target
        assert np.array_equal(one.dist(), other.dist())


@pytest.mark.parametrize("name", HONEST)
def test_stream_that_is_cut_off_scores_as_the_whole_of_the_declared_length(name):
    tokens, whole = stream(150), harness.score(kind(name).Evaluator(model(trained=True), **VARIANTS[name]), stream(150)).nats
    for length in (1, 7, 24, 25, 57, 100, 148):
        cut = harness.score(kind(name).Evaluator(model(trained=True), **VARIANTS[name]), tokens[: length + 1], declared=149, documents=4)
        assert np.array_equal(cut.nats, whole[:length])


@pytest.mark.parametrize("name", HONEST)
def test_stream_of_whole_chunks_has_the_very_bits_of_the_batch_form(name):
    """The shapes are equal, so nothing is rounded otherwise: what the check `withheld` relies on."""
    tokens = stream(150)
    batch = harness.score(kind(name).Evaluator(model(trained=True), **VARIANTS[name]), tokens, keep_rows=range(1, 150))
    one = Stream(kind(name).Evaluator(model(trained=True), **VARIANTS[name]), 149, int(tokens[0]), documents=4, whole=True)
    for target in (1, 2, 24, 25, 60, 61, 101, 149):
        one.push(tokens[one.next_target : target].tolist())
        assert np.array_equal(one.dist(), batch.rows[target])


@pytest.mark.parametrize("carries", [True, False])
@pytest.mark.parametrize("told", [[149], [1] * 149, [30, 1, 118], [7] * 21 + [2]])
def test_evaluator_learns_once_from_each_whole_chunk_whatever_the_pieces_that_it_is_told(carries, told):
    """And it sees 0 for tokens that are not known."""

    class Spy(Fixed):
        def __init__(self):
            self.carries, self.learned, self.longest = carries, [], 0

        def chunks(self, num_targets):
            plan = windows.plan(num_targets, window=24, stride=8)
            return iter([plan[i : i + 4] for i in range(0, len(plan), 4)])

        def predict(self, seen, chunk):
            known = int((seen != 0).sum())
            assert (seen[:known] != 0).all() and len(seen) == chunk[-1].last + 1
            return torch.zeros(chunk[-1].last - chunk[0].first + 1, 260)

        def learn(self, seen, chunk):
            assert (seen != 0).all() and len(seen) == chunk[-1].last + 1
            self.learned.append((chunk[0].first, chunk[-1].last))

    spy, tokens, at = Spy(), stream(150), 1
    one = Stream(spy, 149, int(tokens[0]))
    for count in told:
        one.dist()
        one.push(tokens[at : at + count].tolist())
        at += count
    chunks = [(chunk[0].first, chunk[-1].last) for chunk in spy.chunks(149)]
    assert spy.learned == (chunks if carries else [])
    with pytest.raises(ValueError, match="more tokens than the 149 targets"):
        one.push([1])


def test_harness_tells_each_chunk_when_it_is_committed():
    told = []
    ledger = harness.score(
        kind("sliding").Evaluator(model(trained=True), **VARIANTS["sliding"]),
        stream(),
        tell=lambda first, nats: told.append((first, nats.copy())),
    )
    assert [first for first, _ in told] == [chunk[0].first for chunk in kind("sliding").Evaluator(None, **VARIANTS["sliding"]).chunks(149)]
    assert np.array_equal(np.concatenate([nats for _, nats in told]), ledger.nats)
