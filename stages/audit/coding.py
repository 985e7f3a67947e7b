"""Code tokens with the artifact's distributions, and decode them with the artifact in another jail. It can continue after a kill.

The arithmetic coder is the referee's. Encoder and decoder ask the artifact token by token, in a form whose shapes are equal on both sides.
The decoder is told the bits, the numbers of targets and documents and the first token, and what it has decoded itself. Tokens are coded in
the order that the artifact names. The audit codes within its replay, and `make certify` in a session of its own.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stages.lib.referee import artifact
from stages.runtime.text import arithmetic
from stages.runtime.tokens import rounds

KEEP_EVERY = 1024  # tokens between two saved states


@dataclass
class Coded:
    """The state of the encoder, or its result: `done` targets, their nats by the rows received, the largest distance to the claim.
    `targets` and `order`: in which order it codes. `each`: the nats of each target that was coded since it was begun or continued."""

    encoder: arithmetic.Encoder
    done: int = 0
    nats: float = 0.0
    largest: float = 0.0
    targets: np.ndarray | None = None
    order: rounds.Order | None = None
    each: list[float] = field(default_factory=list)


def encode(
    submission: Path,
    tokens: np.ndarray,
    claims: np.ndarray,
    count: int,
    *,
    kept: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
    **told,
) -> Coded:
    """Code the first `count` targets; continues from the file `kept`, if there is one. ValueError if a row cannot be coded."""
    state = _read(kept)
    with artifact.Session(submission, stream=True, **artifact.about(tokens), **told) as session:
        state.order, state.targets = session.order, session.targets(tokens)
        tokens, claims = np.asarray(tokens)[np.append(0, state.targets)], np.asarray(claims)[state.targets - 1]
        session.know(tokens[1 : state.done + 1])
        code(session, state, tokens, claims, count, kept=kept, progress=progress)
    return state


def code(
    session: artifact.Session,
    state: Coded,
    tokens: np.ndarray,
    claims: np.ndarray,
    count: int,
    *,
    kept: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Code the targets after the `done` ones that the session knows, up to `count`. Tokens and claims are in the artifact's order. It keeps
    the state in the file `kept` now and then. ValueError if a row cannot be coded."""
    for position in range(state.done + 1, count + 1):
        row, target = session.row(), int(tokens[position])
        if target >= len(row):
            raise artifact.Failed(f"the artifact answers rows of {len(row)} tokens, the text has token {target}")
        state.encoder.put(target, arithmetic.frequencies(row))
        session.know([target])
        nats = -float(row[target])
        state.nats, state.done = state.nats + nats, position
        state.each.append(nats)
        state.largest = max(state.largest, abs(nats - claims[position - 1]))
        progress(position)
        if kept and position % KEEP_EVERY == 0:
            _keep(kept, state)


def decode(
    submission: Path,
    code: bytes,
    count: int,
    *,
    stream: bool = True,
    kept: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
    **told,
) -> np.ndarray:
    """The tokens, in the order that the artifact names; continues from the file `kept`, if there is one. `stream` as they were coded."""
    decoder, found = arithmetic.Decoder(code), []
    if kept and kept.is_file():
        with np.load(kept, allow_pickle=False) as state:
            found = state["ids"].tolist()
            decoder.place, decoder.code, decoder.range = (int(state[name]) for name in ("place", "code", "range"))
    with artifact.Session(submission, stream=stream, **told) as session:
        session.know(found)
        while len(found) < count:
            found.append(decoder.get(arithmetic.frequencies(session.row())))
            session.know(found[-1:])
            progress(len(found))
            if kept and len(found) % KEEP_EVERY == 0:
                _write(
                    kept, ids=np.array(found, np.int64), place=decoder.place, code=np.uint64(decoder.code), range=np.uint64(decoder.range)
                )
    return np.array(found, np.int64)


def places(tokens: np.ndarray, order: rounds.Order, documents: int, num_targets: int) -> tuple[np.ndarray, np.ndarray]:
    """For each target of `tokens`, which are the first ones in coding order: its document and its place there (the first token has 0)."""
    padded, found = np.zeros(num_targets + 1, np.int64), []
    padded[: len(tokens)] = tokens
    for pieces in order.rounds(documents, num_targets).walk(padded):
        for piece in pieces:
            place = np.arange(piece.done + 1, piece.done + 2 + piece.last - piece.first)
            found.append(np.stack((np.full(len(place), piece.document), place)))
        if pieces[-1].last >= len(tokens) - 1:
            break
    return tuple(np.concatenate(found, 1)[:, : len(tokens) - 1])


def wrong(decoded: np.ndarray, tokens: np.ndarray, order: rounds.Order | None) -> np.ndarray:
    """The places in `decoded` that do not hold the token of the text for which a decoder takes them. It knows documents by their ends."""
    tokens, targets = np.asarray(tokens, np.int64), np.arange(1, len(decoded) + 1)
    if order is not None:
        starts = np.append(order.starts(tokens), len(tokens))
        document, place = places(np.append(tokens[0], decoded), order, len(starts) - 1, len(tokens) - 1)
        targets = starts[np.minimum(document, len(starts) - 1)] + place
        targets[targets >= np.append(starts[1:], len(tokens))[np.minimum(document, len(starts) - 1)] + 1] = len(tokens)
    return np.flatnonzero(decoded != np.append(tokens, -1)[np.minimum(targets, len(tokens))])


def _read(path: Path | None) -> Coded:
    state = Coded(arithmetic.Encoder())
    if path and path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            state.encoder.low, state.encoder.range, state.done = int(kept["low"]), int(kept["range"]), int(kept["done"])
            state.encoder.out = bytearray(kept["out"].tobytes())
            state.nats, state.largest = (float(kept[name]) for name in ("nats", "largest"))
    return state


def _keep(path: Path, state: Coded) -> None:
    numbers = {name: getattr(state, name) for name in ("done", "nats", "largest")}
    coder = {"low": np.uint64(state.encoder.low), "range": np.uint64(state.encoder.range)}
    _write(path, out=np.frombuffer(bytes(state.encoder.out), np.uint8), **coder, **numbers)


def _write(path: Path, **arrays) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with open(new, "wb") as handle:
        np.savez(handle, **arrays)
    new.replace(path)
