"""Ask a packed submission: the referee's side of the protocol of docs/protocol.md.

`evaluate` and `audit` touch a model only through this module, which does not import torch. Every session is a process of its own in a jail
of its own (jail.py), so nothing that one learned can reach another.
"""

import atexit
import contextlib
import functools
import json
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.lib.node import files
from stages.lib.referee import archive, jail, programs
from stages.runtime.text.tokenizer import BOS
from stages.runtime.tokens import rounds

PROTOCOL = 2
CLAIMS = ("causal", "score_first", "single_pass", "uses_length", "documents_apart")
THREADS = 2  # of a session that scores; a session that goes token by token has one
SILENCE = 1800  # seconds without an answer after which a session is ended
KEPT_STDERR = 4096
PREPARE_ONCE_BYTES = 1 << 18  # a blob of this size takes a second or more to decode, so this is done once and the weights are handed on
WEIGHTS = "/weights.npz"
KNOWN_AT_ONCE = 1 << 16
FACTS_BYTES = 1 << 16


class Failed(ValueError):
    """The artifact ended with an error. The message is the artifact's own."""


@dataclass(frozen=True)
class Claim:
    """What the artifact says that each target costs (nats; NaN: of another part), and how long it took by the referee's clock."""

    nats: np.ndarray
    seconds: float
    facts: dict


class Session:
    """A running artifact. A context manager; `facts` is what it says of itself: vocabulary, carries, claims, order. Failed if its
    vocabulary is not that of the text. It knows, scores and answers in its `order` (None: that of the text). `alone`: the only session of
    this process, which decodes the weights itself."""

    def __init__(
        self,
        program: Path | programs.Program,
        *,
        evaluator: str,
        options: dict,
        num_targets: int,
        first: int,
        documents: int = 1,
        stream: bool = False,
        whole: bool = False,
        part: tuple[int, int] = (0, 1),
        vocabulary: int | None = None,
        threads: int = 1,
        gpu: int | None = None,
        alone: bool = False,
    ):
        self.program, self.num_targets, self.expected = programs.of(program), num_targets, vocabulary
        if self.program.is_packed:
            packed(self.program.ships, evaluator)
        told = {"targets": num_targets, "first": first, "documents": documents, "evaluator": evaluator, "options": options}
        self.told = told | {"threads": threads, "device": "auto", "stream": stream, "whole": whole, "part": part}
        self.environment, self.alone = _visible(gpu), alone
        self.process = None

    def __enter__(self):
        prepares = self.program.is_packed and not self.alone
        weights = prepares and prepared(self.program.ships, self.told["evaluator"], self.told["options"])
        serve = ["serve"] if self.program.is_packed else []
        self._start(serve + ([WEIGHTS] if weights else []), {WEIGHTS: weights} if weights else {})
        try:
            self._send(b"B", json.dumps(self.told).encode())
            self.facts = _facts(self._answer(FACTS_BYTES))
            if self.expected not in (None, self.facts["vocabulary"]):
                raise Failed(f"the artifact answers rows of {self.facts['vocabulary']} tokens, the text has {self.expected}")
        except BaseException:
            self.__exit__()
            raise
        self.vocabulary, self.carries = self.facts["vocabulary"], self.facts["carries"]
        self.order = order(self.facts.get("order"))
        return self

    def __exit__(self, *exception) -> None:
        self.watchdog.cancel()
        self.jail.__exit__()
        self.reader.join()

    def targets(self, tokens: np.ndarray) -> np.ndarray:
        """The numbers 1..N of the targets of a stream in the artifact's order."""
        return np.arange(1, len(tokens)) if self.order is None else self.order.targets(np.asarray(tokens))

    def know(self, ids: Sequence[int]) -> None:
        """Tell the artifact the next tokens."""
        for start in range(0, len(ids), KNOWN_AT_ONCE):
            self._send(b"K", np.asarray(ids[start : start + KNOWN_AT_ONCE], "<u4").tobytes())

    def row(self) -> np.ndarray:
        """ln p (V) of the next token, float64, normalized here. The artifact knows only the tokens that it was told."""
        self._send(b"R", b"")
        content = self._answer(8 * self.vocabulary)
        if len(content) != 8 * self.vocabulary:
            raise Failed(f"the artifact answered {len(content)} bytes in place of a row of {self.vocabulary} numbers")
        row = np.frombuffer(content, "<f8")
        if np.isnan(row).any() or not row.max() < np.inf or row.max() == -np.inf:
            raise Failed("the artifact answered a row that is no distribution: NaN, infinity, or nothing that is possible")
        return row - (row.max() + np.log(np.exp(row - row.max()).sum()))

    def claims(self, ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(first target, nats of it and of those that follow), piece by piece, after the artifact was told all targets."""
        self._send(b"S", np.asarray(ids, "<u4").tobytes())
        while True:
            content = self._answer(4 + 8 * self.num_targets)
            if not content:
                return
            if len(content) % 8 != 4:
                raise Failed("the artifact answered a piece that is no target with 64-bit numbers")
            yield struct.unpack_from("<I", content)[0], np.frombuffer(content, "<f8", offset=4)

    def _start(self, arguments: list[str], extra: dict[str, Path]) -> None:
        reading, writing = os.pipe()
        self.said = bytearray()
        self.reader = threading.Thread(target=self._read_errors, args=(reading,), daemon=True)
        gpu = os.path.exists("/dev/nvidiactl")
        more = {"environment": self.environment, "gpu": gpu, "alone": self.alone}
        self.jail = jail.Jail(self.program, arguments, stderr=writing, extra=extra, **more)
        try:
            self.process = self.jail.__enter__()
        finally:
            os.close(writing)
        self.reader.start()
        self.watchdog = threading.Timer(SILENCE, self.process.kill)
        self.watchdog.daemon = True
        self.watchdog.start()

    def _read_errors(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            while part := pipe.read(4096):
                self.said = (self.said + part)[-KEPT_STDERR:]

    def _send(self, kind: bytes, content: bytes) -> None:
        try:
            self.process.stdin.write(kind + struct.pack("<I", len(content)) + content)
            self.process.stdin.flush()
        except BrokenPipeError:
            self._failed()

    def _answer(self, most: int) -> bytes:
        self.watchdog.cancel()
        self.watchdog = threading.Timer(SILENCE, self.process.kill)
        self.watchdog.daemon = True
        self.watchdog.start()
        size = self.process.stdout.read(4)
        if len(size) == 4:
            (count,) = struct.unpack("<I", size)
            if count > most:
                raise Failed(f"the artifact announced an answer of {count} bytes where at most {most} are possible")
            content = self.process.stdout.read(count)
            if len(content) == count:
                return content
        self._failed()

    def _failed(self) -> None:
        self.process.kill()
        code = self.process.wait()
        self.reader.join()
        lines = bytes(self.said).decode(errors="replace").strip().splitlines() or [f"exit code {code}, or no answer for {SILENCE} s"]
        raise Failed(f"{self.program.ships.name} ended: {lines[-1].removeprefix('submission.pyz: ')}")


class _Preparing(Session):
    """A session that is told no token: it only computes what needs none."""

    def __init__(self, pyz: Path):
        self.program, self.environment, self.alone = programs.of(pyz), {}, False

    def __enter__(self):
        self._start(["serve"], {})
        return self

    def weights(self, about: str) -> bytes:
        self._send(b"W", about.encode())
        return self._answer(jail.MEMORY_BYTES)


@functools.cache
def _folder() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="caddie-weights-")
    atexit.register(holder.cleanup)
    return Path(holder.name)


_made: dict[tuple[str, str], Path] = {}
_lock = threading.Lock()


def prepared(pyz: Path, evaluator: str, options: dict, *, started: Callable[[], None] = lambda: None) -> Path | None:
    """The decoded weights of an artifact, and what the evaluator computes before any token: made once in this process by a session that
    sees no token. None for a small artifact. `started` is called when that session runs, or is not needed."""
    with _lock:
        about = json.dumps({"evaluator": evaluator, "options": options})
        key, path = (files.sha256(pyz), about), None
        if key not in _made and len(read(pyz, "model.blob")) >= PREPARE_ONCE_BYTES:
            path = _folder() / f"{len(_made)}.npz"
            with _Preparing(pyz) as session:
                started()
                path.write_bytes(session.weights(about))
            _made[key] = path
        started()
        return _made.get(key)


def about(tokens: np.ndarray) -> dict:
    """What a session, and so a decoder, is told of a stream."""
    return {
        "num_targets": len(tokens) - 1,
        "first": int(tokens[0]),
        "documents": 1 + int(np.count_nonzero(np.asarray(tokens)[1:-1] == BOS)),
    }


def claim(program: Path | programs.Program, tokens: np.ndarray, *, progress=lambda done: None, **told) -> Claim:
    """What the artifact says that the targets of a stream cost, in the order of the stream. `told` as for Session; `progress` gets the
    number of targets so far. Failed if the targets are not in order, each once."""
    nats, last = np.full(len(tokens) - 1, np.nan), None
    with Session(program, **about(tokens), threads=told.pop("threads", THREADS), **told) as session:
        targets = session.targets(tokens)
        started = time.perf_counter()
        for first, piece in session.claims(np.asarray(tokens)[targets]):
            if first != (last or first - 1) + 1 or not 1 <= first <= first + len(piece) - 1 <= len(nats):
                raise Failed(f"the artifact scored {len(piece)} targets from {first} on after target {last}, of {len(nats)}")
            last = first + len(piece) - 1
            nats[targets[first - 1 : last] - 1] = piece
            progress(last)
        return Claim(nats, time.perf_counter() - started, session.facts)


def read(pyz: Path, name: str) -> bytes:
    """One of the data files packed in a submission. ValueError if it is damaged, or larger than is read."""
    with archive.opened(pyz) as file:
        if name == "memory.bin" and f"caddie/data/{name}" not in file.namelist():
            return b""  # an artifact that was packed before there was one
        return archive.named(file, f"caddie/data/{name}")


def manifest(pyz: Path) -> dict:
    """What the artifact says of itself. ValueError if it is damaged, or of an older form that does not answer a referee."""
    found = archive.manifest(pyz, read(pyz, "manifest.json"))
    spoken = found.get("protocol", 1)
    if type(spoken) is not int or spoken != PROTOCOL:
        said = json.dumps(spoken)[:40]  # in which a text has quotation marks
        raise ValueError(f"{pyz} speaks protocol {said}, this referee speaks {PROTOCOL}; pack it again: dvc repro package")
    return found


def packed(pyz: Path, evaluator: str) -> None:
    """ValueError if `pyz` is not a readable submission or does not contain the evaluator."""
    evaluators = manifest(pyz).get("evaluators")
    if not isinstance(evaluators, list) or not all(isinstance(name, str) for name in evaluators):
        raise ValueError(f"{pyz} does not say by a list of names which evaluators it packs; pack it again: dvc repro package")
    if evaluator not in evaluators:
        names = ", ".join(evaluators)[:400]
        raise ValueError(f"the artifact packs the evaluators {names}, not {evaluator!r}; add it to package.evaluators")


def _facts(content: bytes) -> dict:
    """What the artifact says of itself at the beginning. Failed if it says anything else than docs/protocol.md asks for."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(content)
        if isinstance(found, dict):
            vocabulary, carries, claims = (found.get(name) for name in ("vocabulary", "carries", "claims"))
            named = isinstance(claims, list) and all(name in CLAIMS for name in claims)  # they stand in the certificate
            if type(vocabulary) is int and 1 <= vocabulary <= 1 << 24 and isinstance(carries, bool) and named:
                return found
    raise Failed("the artifact does not begin as docs/protocol.md says")


def order(found) -> rounds.Order | None:
    """The order in which the artifact codes documents. Failed if it is none that a decoder can follow, or of another separator."""
    if found is None:
        return None
    with contextlib.suppress(TypeError, KeyError):
        order = rounds.Order(**(found | {"barriers": tuple(found["barriers"])}))
        sizes = (order.slots, order.chunk, order.shares, *order.barriers)
        if all(type(size) is int and 1 <= size <= 1 << 24 for size in sizes) and order.separator == BOS:
            return order
    raise Failed("the artifact names an order of documents that docs/protocol.md does not have")


def _visible(gpu: int | None) -> dict[str, str]:
    """The environment in which a process sees only the GPU that this process counts as `gpu` (None: all that this process sees)."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")  # numbers or UUIDs; CUDA counts in their order
    if gpu is None:
        return {} if names is None else {"CUDA_VISIBLE_DEVICES": names}
    return {"CUDA_VISIBLE_DEVICES": str(gpu) if names is None else names.split(",")[gpu].strip()}
