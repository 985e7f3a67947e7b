"""Texts with documents of given lengths, and scores of them in the order of the stream, for the tests of evaluators with slots."""

import numpy as np

from stages.audit import coding
from stages.runtime.base import plugin
from stages.runtime.scoring import harness
from stages.runtime.tokens import rounds
from tests.test_evaluators import LORA, PHASES
from tests.test_model import model


def text(*lengths: int, ends: bool = False, seed: int = 0) -> np.ndarray:
    """Documents of so many tokens, of which the first is 1. `ends`: the last one is followed by another 1."""
    generator = np.random.default_rng(seed)
    documents = [np.append(1, generator.integers(2, 50, length - 1)) for length in lengths]
    return np.concatenate([*documents, [1] if ends else []]).astype(np.int64)


def evaluator(**options):
    """ttt_lora with the options of its tests, or ttt_phased if there are phases."""
    name, more = ("ttt_phased", PHASES) if options.get("phases") else ("ttt_lora", {})
    return plugin.load("evaluators", name).Evaluator(model(trained=True), **LORA | more | options)


def coded(tokens: np.ndarray, order: rounds.Order | None) -> np.ndarray:
    """The stream in coding order."""
    return tokens[np.append(0, order.targets(tokens))] if order else tokens


def restored(found: np.ndarray, order: rounds.Order) -> np.ndarray:
    """The stream in its own order, as a decoder finds it."""
    documents = len(order.starts(found))
    document, place = coding.places(found, order, documents, len(found) - 1)
    ends = np.cumsum([np.count_nonzero(document == number) for number in range(documents)])
    out = found.copy()
    out[np.append(0, ends)[document] + place] = found[1:]
    return out


def scores(made, tokens: np.ndarray, **more) -> np.ndarray:
    """Nats of the targets 1..N of a stream, in its own order."""
    targets = made.coding_order.targets(tokens) if made.coding_order else np.arange(1, len(tokens))
    nats = np.empty(len(targets))
    nats[targets - 1] = harness.score(made, tokens[np.append(0, targets)], **more).nats
    return nats
