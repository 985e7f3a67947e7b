"""The artifact's side of the protocol of docs/protocol.md: it answers a referee over two pipes.

request:  kind (1 byte) | u32 n | n bytes                 answer:  u32 n | n bytes
B  JSON {targets, first, documents, evaluator, options, threads, device, stream, whole, part}
                                                        JSON {protocol, vocabulary, carries, claims, order}
K  u32 ids, which become known                            no answer
R  nothing                                                ln p (V) of the next token, float64
S  u32 ids of all targets                                 several: u32 first target | nats of it and of those that follow, float64;
                                                          the last one is empty
W  JSON {evaluator, options}, instead of B                what can be computed without a token: an uncompressed .npz
"""

import dataclasses
import io
import json
import os
import struct
import sys

import numpy as np

from .scoring import evaluators, harness
from .scoring.streaming import Stream

PROTOCOL = 2


def main(prepared, opened, vocabulary: int) -> None:
    """Answer until the requests end. `prepared` and `opened` are those of entry.py, `vocabulary` is the number of tokens."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers

    def answer(content: bytes) -> None:
        answers.write(struct.pack("<I", len(content)) + content)
        answers.flush()

    def scored(first: int, nats: np.ndarray) -> None:
        answer(struct.pack("<I", first) + np.ascontiguousarray(nats, "<f8").tobytes())

    evaluator = stream = begun = None
    while kind := requests.read(1):
        (size,) = struct.unpack("<I", requests.read(4))
        content = requests.read(size)
        if kind == b"W":
            sink = io.BytesIO()
            np.savez(sink, **prepared(**json.loads(content)))
            answer(sink.getvalue())
        elif kind == b"B":
            begun = json.loads(content)
            module, build, _ = opened(begun["evaluator"], begun["options"], threads=begun["threads"], device=begun["device"])
            options = begun["options"] | (getattr(module, "STREAM", {}) if begun["stream"] else {})
            evaluator = build(options)
            facts = {"protocol": PROTOCOL, "vocabulary": vocabulary}
            facts |= {"carries": bool(getattr(evaluator, "carries", True)), "claims": evaluators.claims(module, begun["options"])}
            order = getattr(evaluator, "coding_order", None)
            facts |= {"order": order and dataclasses.asdict(order)}
            answer(json.dumps(facts).encode())
        elif kind == b"S":
            tokens = np.concatenate(([begun["first"]], np.frombuffer(content, "<u4").astype(np.int64)))
            harness.score(evaluator, tokens, documents=begun["documents"], part=tuple(begun["part"]), tell=scored)
            answer(b"")
        else:
            stream = stream or Stream(evaluator, begun["targets"], begun["first"], documents=begun["documents"], whole=begun["whole"])
            if kind == b"K":
                stream.push(np.frombuffer(content, "<u4").tolist())
            else:
                answer(np.ascontiguousarray(stream.dist(), "<f8").tobytes())
