"""What a program claims, in a process of its own: the names that one session looked for in the folders of a jail are a note for the next
session of the same process (docs/certification.md, the jail).

    python -m stages.audit.outside.claim FOLDER       FOLDER/program.json -> FOLDER/ledger.npy, FOLDER/metrics.json
"""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.lib.node import command, files
from stages.lib.referee import artifact, jail, programs
from stages.lib.tokens import splits

PROGRAM, LEDGER, METRICS = "program.json", "ledger.npy", "metrics.json"


def ask(folder: Path, program: programs.Program, evaluator: str, options: dict, bits_per_byte: str | None) -> dict:
    """The metrics of the claim. ValueError if there is none; the program has said why."""
    told = {"evaluator": evaluator, "options": options, "bits_per_byte": bits_per_byte}
    (folder / PROGRAM).write_text(json.dumps(dataclasses.asdict(program) | told, default=str))
    if subprocess.run([sys.executable, "-m", "stages.audit.outside.claim", str(folder)], check=False).returncode:
        raise ValueError("there is no claim to certify, see above")
    return files.read_json(folder / METRICS)


def main(folder: Path) -> None:
    """Run the program over val and write what it claims."""
    given = files.read_json(folder / PROGRAM)
    interpreter = Path(given["interpreter"]) if given["interpreter"] else None
    program = programs.Program(Path(given["ships"]), tuple(given["words"]), interpreter)
    split = splits.read(folder / "tokenize/val", "val", sidecar=True)
    tokens, sha256 = np.asarray(split.tokens), program.sha256()
    told = {"evaluator": given["evaluator"], "options": given["options"], "vocabulary": split.vocabulary_size}
    with tqdm(total=len(tokens) - 1, desc="claim", unit=" targets", disable=not sys.stderr.isatty()) as bar:
        claim = artifact.claim(program, tokens, progress=lambda done: bar.update(done - bar.n), **told)
    if not np.isfinite(claim.nats).all():
        place = int(np.flatnonzero(~np.isfinite(claim.nats))[0])
        raise ValueError(f"the program claims {claim.nats[place]} nats for target {place + 1}; there is no score to certify")
    np.save(folder / LEDGER, claim.nats, allow_pickle=False)
    num_bytes = int(split.byte_counts[1:].sum())
    score = float(claim.nats.sum()) / math.log(2) / num_bytes
    metrics = {
        "evaluator": given["evaluator"],
        "options": given["options"],
        "bits_per_byte": reported(score, given["bits_per_byte"]),
        "loss_nats": float(claim.nats.mean()),
        "tokens": len(claim.nats),
        "bytes": num_bytes,
        "seconds": claim.seconds,
        "claims": claim.facts["claims"],
        "carries": claim.facts["carries"],
        "precision": "chosen by the program",
        "artifact_sha256": sha256,
        "ledger_sha256": files.sha256(folder / LEDGER),
        "jail": jail.form(),
        "text_sha256": split.text_sha256,
    }
    files.write_json(folder / METRICS, metrics)
    print(f"{program.ships.name}: {score:.4f} bits per byte in {claim.seconds:.1f} s")


def reported(score: float, stated: str | None) -> float:
    """The score that is judged: the referee's, or what its author states, unless both are the same to the last digit that is stated."""
    if stated is None:
        return score
    rounding = 0.5 * 10.0 ** -len(stated.partition(".")[2])
    return score if abs(score - float(stated)) <= rounding + 1e-5 else float(stated)


if __name__ == "__main__":
    with command.sentences("audit.outside"):
        main(Path(sys.argv[1]))
