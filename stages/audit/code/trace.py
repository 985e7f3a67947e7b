"""The order of learning and scoring in a program, from the trace that flow.py makes.

    score    a loss of validation tokens is added to a sum or stored         S
    update   a gradient of a loss of validation tokens is taken              U
    write    the artifact is quantized, compressed or saved                  W

A score is fixed when its loss is computed, wherever it is added. A trace is a list of events, loops, branches and calls in this order. For
each update the question is whether its tokens were scored before, and whether they are scored after:

    loop over tokens: S U                    score first: what the rules allow
    loop over tokens: U S                    adapts first: the scored tokens were learned (SLOT)
    ... U ... W ... S                        the artifact has learned the text it is scored on (pre-quantization adaptation)
    loop of U, then loop of S                the same without a write between
    loop of epochs: (loop over tokens: S U)  scored again after it was learned (last-epoch scoring)
    U and no S                               learned, and no score is kept
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """S, U or W at a line. `tags` are those of the loss, `loops` the numbers of the loops over tokens around it. `clock` tells what
    was first, here and in the classes below."""

    kind: str
    tags: frozenset
    line: int
    where: str = ""
    loops: frozenset = frozenset()
    clock: int = 0


@dataclass
class Loop:
    """A loop; `epochs` if its variable counts repetitions and not tokens."""

    number: int
    epochs: bool
    clock: int
    items: list = field(default_factory=list)


@dataclass
class Branches:
    """Parts of which one is executed."""

    parts: list[list]
    clock: int


@dataclass
class Call:
    """What a function of the module does, once for all calls with arguments of the same kind."""

    name: str
    items: list
    clock: int


@dataclass(frozen=True)
class Finding:
    """`kind` for an update, with the score that decides it."""

    kind: str
    update: Event
    score: Event | None


@dataclass
class _Part:
    """A part of the trace: its first and last score, its updates that no score before them in a loop over tokens excuses, those that one
    does, and whether the artifact is written in it."""

    first: Event | None = None
    last: Event | None = None
    pending: tuple[Event, ...] = ()
    excused: tuple[tuple[Event, Event], ...] = ()
    writes: bool = False
    late: tuple[Event, ...] = ()  # updates before a write in this part
    told: tuple[Event, ...] = ()  # updates that a finding is about already, but not of what is written later


KEPT = 4  # updates of one kind that are kept for the report


class Order:
    """Reads a trace once, each call once."""

    def __init__(self):
        self.found: dict[tuple, Finding] = {}
        self.known: dict[int, _Part] = {}

    def note(self, kind: str, update: Event, score: Event | None) -> None:
        self.found.setdefault((kind, update.line, update.where), Finding(kind, update, score))

    def read(self, items: list) -> list[Finding]:
        """All findings of a trace that is complete in itself."""
        part = self.sequence(items)
        for update in (*part.pending, *part.late):
            if not any(key[1:] == (update.line, update.where) for key in self.found):
                self.note("trains on val" if part.first is None else "learns after the score", update, part.first)
        for update, score in part.excused:
            self.note("score first", update, score)
        whole = {key[1:] for key in self.found if key[0] == "trains on val"}  # of an update that reaches the artifact, that is all
        return [finding for key, finding in self.found.items() if key[0] == "trains on val" or key[1:] not in whole]

    def sequence(self, items: list) -> _Part:
        whole = _Part()
        for item in items:
            part = self.part(item)
            if part.first is not None:
                for update in whole.pending:
                    together = not update.loops or update.loops & part.first.loops
                    self.note("adapts first" if together else "trains on val", update, part.first)
                for update in whole.late:
                    self.note("trains on val", update, part.first)
                whole.told = (*whole.told, *whole.pending)[:KEPT]
                whole.pending, whole.late = (), ()
            if part.writes:
                learned = (*whole.pending, *whole.told, *(update for update, _ in whole.excused))
                whole.late = (*whole.late, *learned)[:KEPT]
                whole.writes = True
            whole.first = whole.first or part.first
            whole.last = part.last or whole.last
            whole.pending = (*whole.pending, *part.pending)[:KEPT]
            whole.excused = (*whole.excused, *part.excused)[:KEPT]
            whole.late = (*whole.late, *part.late)[:KEPT]
            whole.told = (*whole.told, *part.told)[:KEPT]
        return whole

    def part(self, item) -> _Part:
        if isinstance(item, Event):
            if item.kind == "S":
                return _Part(first=item, last=item)
            if item.kind == "U":
                return _Part(pending=(item,))
            return _Part(writes=True)
        if isinstance(item, Call):
            if id(item.items) not in self.known:
                self.known[id(item.items)] = _Part()  # for a function that calls itself
                self.known[id(item.items)] = self.sequence(item.items)
            return self.known[id(item.items)]
        if isinstance(item, Branches):
            parts = [self.sequence(part) for part in item.parts]
            return _Part(
                first=next((part.first for part in parts if part.first), None),
                last=next((part.last for part in parts if part.last), None),
                pending=tuple(update for part in parts for update in part.pending)[:KEPT],
                excused=tuple(pair for part in parts for pair in part.excused)[:KEPT],
                writes=any(part.writes for part in parts),
                late=tuple(update for part in parts for update in part.late)[:KEPT],
                told=tuple(update for part in parts for update in part.told)[:KEPT],
            )
        return self.loop(item)

    def loop(self, loop: Loop) -> _Part:
        body = self.sequence(loop.items)
        if loop.epochs:
            again = [update for update, _ in body.excused] + list(body.pending if body.first is not None else ())
            for update in again if body.first is not None else ():
                self.note("scored again", update, body.first)
        elif body.first is not None and body.pending:
            body.excused = (*body.excused, *((update, body.first) for update in body.pending))[:KEPT]
            body.pending = ()
        return body
