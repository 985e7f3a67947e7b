"""Code tokens with the artifact's distributions, and decode them with the artifact in another jail. It can continue after a kill.

The arithmetic coder is the referee's. Encoder and decoder ask the artifact in the form for token-by-token use, whose shapes are equal on
both sides. The decoder is told the bits, the number of targets and the first token, and what it has decoded itself.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.audit import bound
from stages.lib.referee import artifact
from stages.runtime.text import arithmetic

KEEP_EVERY = 1024  # tokens between two saved states


@dataclass
class Coded:
    """The state of the encoder, or its result: `done` targets, their nats by the rows received, the largest distance to the claim."""

    encoder: arithmetic.Encoder
    done: int = 0
    nats: float = 0.0
    floored: float = 0.0
    largest: float = 0.0


def encode(
    submission: Path,
    tokens: np.ndarray,
    claims: np.ndarray,
    count: int,
    *,
    lid: bound.Floor,
    kept: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
    **told,
) -> Coded:
    """Code the first `count` targets; continues from the file `kept`, if there is one. ValueError if a row cannot be coded."""
    state = _read(kept)
    with artifact.Session(submission, stream=True, **_about(tokens), **told) as session:
        session.know(tokens[1 : state.done + 1])
        for position in range(state.done + 1, count + 1):
            row, target = session.row(), int(tokens[position])
            if target >= len(row):
                raise artifact.Failed(f"the artifact answers rows of {len(row)} tokens, the text has token {target}")
            state.encoder.put(target, arithmetic.frequencies(row))
            session.know([target])
            nats = -float(row[target])
            state.nats, state.floored, state.done = state.nats + nats, state.floored + float(lid.under(np.array(nats))), position
            state.largest = max(state.largest, abs(nats - claims[position - 1]))
            progress(position)
            if kept and position % KEEP_EVERY == 0:
                _keep(kept, state)
    return state


def decode(
    submission: Path,
    code: bytes,
    count: int,
    *,
    num_targets: int,
    first: int,
    kept: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
    **told,
) -> np.ndarray:
    """The tokens; continues from the file `kept`, if there is one."""
    decoder, found = arithmetic.Decoder(code), []
    if kept and kept.is_file():
        with np.load(kept, allow_pickle=False) as state:
            found = state["ids"].tolist()
            decoder.place, decoder.code, decoder.range = (int(state[name]) for name in ("place", "code", "range"))
    with artifact.Session(submission, stream=True, num_targets=num_targets, first=first, **told) as session:
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


def _about(tokens: np.ndarray) -> dict:
    return {"num_targets": len(tokens) - 1, "first": int(tokens[0])}


def _read(path: Path | None) -> Coded:
    state = Coded(arithmetic.Encoder())
    if path and path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            state.encoder.low, state.encoder.range, state.done = int(kept["low"]), int(kept["range"]), int(kept["done"])
            state.encoder.out = bytearray(kept["out"].tobytes())
            state.nats, state.floored, state.largest = (float(kept[name]) for name in ("nats", "floored", "largest"))
    return state


def _keep(path: Path, state: Coded) -> None:
    numbers = {name: getattr(state, name) for name in ("done", "nats", "floored", "largest")}
    coder = {"low": np.uint64(state.encoder.low), "range": np.uint64(state.encoder.range)}
    _write(path, out=np.frombuffer(bytes(state.encoder.out), np.uint8), **coder, **numbers)


def _write(path: Path, **arrays) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with open(new, "wb") as handle:
        np.savez(handle, **arrays)
    new.replace(path)
