"""Replay drawn positions of the text with the target withheld: the artifact gives its distribution before it is told the token.

The session runs in a jail and knows only the tokens that it was told, so its distributions are causal, whatever its code does and whatever
run it believes to be in. They cannot match a claim that used the target or later tokens, because the claim was fixed before. An evaluator
that carries state is walked through everything before a position, in its own chunks; one that carries nothing is only told the tokens.
No other session that is told the same text runs at the same time: one that knows more could signal it through locks on files that both can
read, or through the load of the machine.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.audit import bound, coding
from stages.lib.referee import artifact
from stages.runtime.text import arithmetic

PER_TOKEN = 0.005  # nats: the rounding of other shapes, which a fit can enlarge
ENOUGH = 48  # this many positions that differ by more than PER_TOKEN end a replay
WHOLE_POSITIONS, WHOLE_REACH = 12, 10_000  # an evaluator that carries something must walk to a position


@dataclass(frozen=True)
class Replay:
    """The result. `drawn` has the positions as they were drawn for the bound, with repetitions; `positions`, `nats` and `claimed` have each
    once, and those that were drawn evenly besides.

    Positions count in the order in which the artifact codes; `targets` has the numbers of the targets in that order. `claimed` is what the
    artifact claimed there. `reach`: they were drawn from so many first targets. `finished`: it did not end early. `coded`: the code of the
    first targets, or `refused`, why they could not be coded.
    """

    drawn: np.ndarray
    positions: np.ndarray
    nats: np.ndarray
    claimed: np.ndarray
    floor: bound.Floor
    reach: int
    carries: bool
    finished: bool
    targets: np.ndarray
    coded: coding.Coded | None = None
    refused: str = ""

    @property
    def excess(self) -> np.ndarray:
        """Nats beyond the claim, by position."""
        return self.nats - self.claimed

    @property
    def off(self) -> np.ndarray:
        """Whether replay and claim differ by more than PER_TOKEN, by position."""
        return ~(np.abs(self.excess) <= PER_TOKEN)

    def most_nats(self, claims: np.ndarray) -> float | None:
        """The upper limit of what all targets cost (bound.py). None if not all positions could be replayed, or not all were in reach."""
        if not self.finished or self.reach < len(claims):
            return None
        claims = claims[self.targets - 1]
        nats = dict(zip(self.positions.tolist(), self.floor.under(self.nats).tolist(), strict=True))
        return bound.most_nats(self.floor.under(claims), self.floor, self.drawn, np.array([nats[place] for place in self.drawn.tolist()]))


def run(
    submission: Path,
    *,
    evaluator: str,
    options: dict,
    tokens: np.ndarray,
    claims: np.ndarray,
    vocabulary: int,
    count: int,
    reach: int | None,
    generator: np.random.Generator,
    evenly: int = 0,
    coded: int = 0,
) -> Replay:
    """Draw `count` positions among the first `reach` targets (None: all) and replay them. `evenly`: so many more, each with the same
    probability, for claims that are too high: where the most is claimed, nothing is drawn for the bound. `coded`: so many first targets are
    replayed one after the other, and coded."""
    told = {"evaluator": evaluator, "options": options, "vocabulary": vocabulary, **artifact.about(tokens)}
    lid = bound.floor(count, vocabulary)
    with artifact.Session(submission, **told) as session:
        targets = session.targets(tokens)
        tokens, claims = np.asarray(tokens)[np.append(0, targets)], np.asarray(claims)[targets - 1]
        begun, refused = coding.Coded(arithmetic.Encoder(), targets=targets, order=session.order), ""
        try:
            coding.code(session, begun, tokens, claims, coded)
        except artifact.Failed:
            raise
        except ValueError as error:
            refused = str(error)
        reach = min(reach or len(claims), len(claims)) if session.carries else len(claims)
        drawn = bound.draw(lid.under(claims[:reach]), lid, count, generator)
        positions, found, wrong, known = np.unique(np.append(drawn, generator.integers(1, reach + 1, evenly))), [], 0, begun.done + 1
        for position in positions.tolist():
            if position > begun.done:
                session.know(tokens[known:position])
                known = position
            found.append(begun.each[position - 1] if position <= begun.done else -float(session.row()[tokens[position]]))
            wrong += not abs(found[-1] - claims[position - 1]) <= PER_TOKEN
            if wrong >= ENOUGH:
                break
        carries, done = session.carries, positions[: len(found)]
    return Replay(drawn, done, np.array(found), claims[done - 1], lid, reach, carries, len(done) == len(positions), targets, begun, refused)


@dataclass(frozen=True)
class Whole:
    """The difference between claim and replay (nats) at `positions` where `predict` got the whole chunk, in the shapes of the claim."""

    positions: np.ndarray
    difference: np.ndarray


def whole(submission: Path, *, tokens: np.ndarray, claims: np.ndarray, threads: int, generator: np.random.Generator, **told) -> Whole:
    """Replay a few targets in whole chunks, with everything from the target on withheld."""
    told |= artifact.about(tokens) | {"threads": threads, "whole": True}
    with artifact.Session(submission, **told) as session:
        targets = session.targets(tokens)
        tokens, claims = np.asarray(tokens)[np.append(0, targets)], np.asarray(claims)[targets - 1]
        reach, known, found = min(len(claims), WHOLE_REACH) if session.carries else len(claims), 1, []
        positions = np.sort(generator.choice(reach, min(WHOLE_POSITIONS, reach), replace=False)) + 1
        for position in positions.tolist():
            session.know(tokens[known:position])
            known = position
            found.append(-float(session.row()[tokens[position]]) - float(claims[position - 1]))
    return Whole(positions, np.array(found))
