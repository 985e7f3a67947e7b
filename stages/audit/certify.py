"""The round trip over all of val: encode every token with the artifact, decode every token in another jail, and compare.

    python -m stages.audit.certify RUN          after dvc repro; `make certify` does it for the first of the default's runs

It goes through val twice, token by token, which takes some milliseconds per token on a CPU. The coder states are kept under
scratch/certify/, so a killed run continues where it stopped. The result is printed, and written to certified.json in the same folder.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.audit import coding
from stages.audit.checks import round_trip
from stages.lib.node import command, files, params, scratch
from stages.lib.referee import artifact
from stages.lib.tokens import splits


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
            told = {"evaluator": run["evaluator"], "options": run["options"]}
            return certify(submission, told, np.asarray(split.tokens), nats, count, work.path)


def certify(submission: Path, told: dict, ids: np.ndarray, claims: np.ndarray, count: int, folder: Path) -> int:
    """Encode and decode the first `count` targets of `ids`. Returns 0 if all come back. Its bits are exact: X is no longer a bound."""
    code = folder / "code"
    if not code.is_file():
        with _bar(count, "coding") as bar:
            more = {"kept": folder / "encoder.npz", "progress": lambda done: bar.update(done - bar.n)}
            state = coding.encode(submission, ids, claims, count, **more, **told)
        claimed = float(claims[state.targets[:count] - 1].sum()) / math.log(2)
        found = {"nats": state.nats, "largest_difference_nats": state.largest, "bits_claimed": claimed}
        (folder / "facts.json").write_text(json.dumps(found | {"order": state.order and dataclasses.asdict(state.order)}))
        with files.atomic(code) as partial:
            partial.write_bytes(state.encoder.finish())
    with _bar(count, "decoding") as bar:
        more = {"kept": folder / "decoder.npz", "progress": lambda done: bar.update(done - bar.n)}
        decoded = coding.decode(submission, code.read_bytes(), count, **artifact.about(ids), **more, **told)
    facts = json.loads((folder / "facts.json").read_text())
    wrong, bits, length = len(coding.wrong(decoded, ids, artifact.order(facts["order"]))), 8 * code.stat().st_size, facts["bits_claimed"]
    facts |= {
        "tokens": count,
        "of_targets": len(ids) - 1,
        "tokens_wrong": wrong,
        "bits": bits,
        "allowed": float(length * (1 + round_trip.SHARE) + round_trip.BITS),
        "artifact_sha256": files.sha256(submission),
    }
    facts["passed"] = not wrong and bits <= facts["allowed"]
    files.write_json(folder / "certified.json", facts)
    print(json.dumps(facts, indent=2))
    result = "PASSED" if facts["passed"] else "FAILED"
    print(f"{result}: {count} of {len(ids) - 1} targets in {bits} bits; written to {folder / 'certified.json'}")
    return 0 if facts["passed"] else 1


def _bar(total: int, what: str) -> tqdm:
    return tqdm(total=total, desc=what, unit=" tokens", mininterval=1)


if __name__ == "__main__":
    sys.exit(main())
