"""The round trip over all of val: encode every token with the artifact, decode every token in another process, and compare.

    python -m stages.audit.certify RUN          after dvc repro; `make certify` does it for the first of the default's runs

It goes through val twice, token by token, which takes some milliseconds per token on a CPU. The coder states are kept under
scratch/certify/, so a killed run continues where it stopped. The result is printed, and written to certified.json in the same folder.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.audit import decoder
from stages.audit.checks import round_trip
from stages.lib.node import command, files, params, scratch
from stages.lib.referee import artifact
from stages.lib.tokens import splits
from stages.runtime.text import arithmetic

KEEP_EVERY = 1024  # tokens between two saved states from which a killed run can continue


@dataclass
class State:
    """The encoder after `done` tokens, with the nats of the rows it used and the largest difference to the ledger so far."""

    encoder: arithmetic.Encoder
    done: int = 0
    nats: float = 0.0
    largest: float = 0.0


def main(argv: list[str] | None = None) -> int:
    """Certify one run. Returns the exit code: 0 if the round trip succeeds."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.audit.certify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a name under evaluate.runs")
    parser.add_argument("--tokens", type=int, help="only the first so many targets (default: all)")
    chosen = parser.parse_args(argv)
    with command.sentences("certify"):
        run = params.lookup(params.read(Path("params.yaml")), f"evaluate.runs.{chosen.run}")
        submission, ledger = Path("artifacts/package/submission.pyz"), Path(f"artifacts/evaluate/{chosen.run}/ledger.npy")
        split, nats = splits.read(Path("artifacts/tokenize/val"), "val", sidecar=True), np.load(ledger, allow_pickle=False)
        reported = files.read_json(ledger.with_name("metrics.json"), required=("artifact_sha256", "ledger_sha256"))
        if (files.sha256(submission), files.sha256(ledger)) != (reported["artifact_sha256"], reported["ledger_sha256"]):
            raise ValueError(f"{ledger} is not of {submission}; run: dvc repro evaluate@{chosen.run}")
        count = min(chosen.tokens or len(nats), len(nats))
        key = scratch.key(reported["artifact_sha256"], reported["ledger_sha256"], run, count)
        with scratch.Folder(Path("scratch/certify") / key).locked() as work:
            return certify(submission, run["evaluator"], run["options"], np.asarray(split.tokens), nats, count, work.path)


def certify(submission: Path, evaluator: str, options: dict, ids: np.ndarray, ledger: np.ndarray, count: int, folder: Path) -> int:
    """Encode and decode the first `count` targets of `ids`. Returns 0 if all come back from as many bits as the ledger states."""
    told = {"evaluator": evaluator, "options": options, "num_targets": len(ids) - 1, "first": int(ids[0])}
    code = folder / "code"
    if not code.is_file():
        state = encode(submission, ids, ledger, count, folder / "encoder.npz", told)
        (folder / "facts.json").write_text(json.dumps({"nats": state.nats, "largest_difference_nats": state.largest}))
        with files.atomic(code) as partial:
            partial.write_bytes(state.encoder.finish())
    decoded = decode(submission, folder, count, told)
    wrong, bits, length = int(np.count_nonzero(decoded != ids[1 : count + 1])), 8 * code.stat().st_size, ledger[:count].sum() / math.log(2)
    facts = json.loads((folder / "facts.json").read_text()) | {
        "tokens": count,
        "of_targets": len(ids) - 1,
        "tokens_wrong": wrong,
        "bits": bits,
        "bits_in_the_ledger": float(length),
        "allowed": float(length * (1 + round_trip.SHARE) + round_trip.BITS),
        "artifact_sha256": files.sha256(submission),
    }
    facts["passed"] = not wrong and bits <= facts["allowed"]
    files.write_json(folder / "certified.json", facts)
    print(json.dumps(facts, indent=2))
    result = "PASSED" if facts["passed"] else "FAILED"
    print(f"{result}: {count} of {len(ids) - 1} targets in {bits} bits; written to {folder / 'certified.json'}")
    return 0 if facts["passed"] else 1


def encode(submission: Path, ids: np.ndarray, ledger: np.ndarray, count: int, kept: Path, told: dict) -> State:
    """Encode the first `count` targets; continues from the state in the file `kept`, if there is one."""
    state = _read(kept)
    with artifact.Stream(submission, **told) as stream:
        stream.push(ids[1 : state.done + 1])
        for position in _bar(range(state.done + 1, count + 1), count, state.done, "coding"):
            row, target = stream.dist(), int(ids[position])
            state.encoder.put(target, arithmetic.frequencies(row))
            stream.push([target])
            state.nats -= float(row[target])
            state.largest, state.done = max(state.largest, abs(-float(row[target]) - ledger[position - 1])), position
            if position % KEEP_EVERY == 0:
                _keep(kept, state)
    return state


def decode(submission: Path, folder: Path, count: int, told: dict) -> np.ndarray:
    """The tokens that the other process decodes; it continues from what a killed decoder left in `folder`."""
    output = folder / "ids.npy"
    if not output.is_file():
        bar = tqdm(total=count, desc="decoding", unit=" tokens", mininterval=1)
        with decoder.start(submission, folder, count=count, **told) as process, bar:
            for line in process.stdout:
                bar.update(int(line) - bar.n)
        if process.returncode:
            raise ValueError(f"the decoder failed: {(folder / 'stderr').read_text().strip().splitlines()[-1]}")
    return np.load(output, allow_pickle=False)


def _bar(numbers: range, total: int, done: int, what: str) -> Iterator[int]:
    return tqdm(numbers, total=total, initial=done, desc=what, unit=" tokens", mininterval=1)


def _read(path: Path) -> State:
    state = State(arithmetic.Encoder())
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            state.encoder.low, state.encoder.range, state.done = int(kept["low"]), int(kept["range"]), int(kept["done"])
            state.encoder.out, state.nats, state.largest = bytearray(kept["out"].tobytes()), float(kept["nats"]), float(kept["largest"])
    return state


def _keep(path: Path, state: State) -> None:
    with files.atomic(path) as partial, open(partial, "wb") as handle:
        np.savez(
            handle,
            low=np.uint64(state.encoder.low),
            range=np.uint64(state.encoder.range),
            done=state.done,
            out=np.frombuffer(bytes(state.encoder.out), np.uint8),
            nats=state.nats,
            largest=state.largest,
        )


if __name__ == "__main__":
    sys.exit(main())
