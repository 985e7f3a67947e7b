"""Score the val split with the packed artifact and one evaluator: a ledger of nats per token, and bits per byte.

bits_per_byte = Σ nats / ln 2 / bytes, where both sums are over the same targets and the bytes come from the sidecar
"""

import math
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from stages.evaluate import parts
from stages.lib.node import files
from stages.lib.node.stage import Input, Metrics, Output, Untracked, Variant
from stages.lib.referee import artifact, jail
from stages.lib.tokens import splits


@dataclass(frozen=True)
class Run:
    SECTION: ClassVar[str] = "evaluate.runs.{variant}"
    evaluator: str
    options: dict


def main(
    run: Variant,
    settings: Run,
    *,
    submission: Input = "artifacts/package/submission.pyz",
    text: Input = "artifacts/tokenize/val",
    ledger: Output = "artifacts/evaluate/{variant}/ledger.npy",
    metrics: Metrics = "artifacts/evaluate/{variant}/metrics.json",
    scratch: Untracked = "scratch/evaluate",
) -> None:
    split = splits.read(text, "val", sidecar=True)
    tokens, gpus = np.asarray(split.tokens), parts.visible_gpus()
    told = {"evaluator": settings.evaluator, "options": settings.options}
    # asked in the jail: an evaluator that was imported here could do whatever this process may
    processes, number = parts.divide(len(tokens) - 1, carries=False, gpus=gpus)
    if (processes, number) != (1, 1):
        with artifact.Session(submission, **artifact.about(tokens), **told) as session:
            shares = session.order.shares if session.order else 1
            processes, number = parts.divide(len(tokens) - 1, carries=session.carries, gpus=gpus, shares=shares)
    if number == 1:
        with tqdm(total=len(split.tokens) - 1, desc="evaluate", unit=" targets", disable=not sys.stderr.isatty()) as bar:
            result = artifact.claim(submission, tokens, progress=lambda done: bar.update(done - bar.n), alone=(processes == 1), **told)
    else:
        result = parts.score(
            submission, tokens, told=told, processes=processes, parts=number, gpus=gpus, folder=scratch, progress=sys.stderr.isatty()
        )
    num_bytes = int(split.byte_counts[1:].sum())
    if not np.isfinite(result.nats).all():  # what else no target can cost, the audit says
        place = int(np.flatnonzero(~np.isfinite(result.nats))[0])
        raise ValueError(f"the artifact claims {result.nats[place]} nats for target {place + 1}; there is no score to write")
    with files.atomic(ledger) as partial, open(partial, "wb") as handle:
        np.save(handle, result.nats, allow_pickle=False)
    bits_per_byte = float(result.nats.sum()) / math.log(2) / num_bytes
    files.write_json(
        metrics,
        {
            "run": run,
            "evaluator": settings.evaluator,
            "options": settings.options,
            "bits_per_byte": bits_per_byte,
            "loss_nats": float(result.nats.mean()),
            "tokens": len(result.nats),
            "bytes": num_bytes,
            "raw_bytes": split.facts["raw_bytes"],
            "bytes_counted_on": split.facts["certificate"]["bytes_counted_on"],
            "seconds": result.seconds,
            "processes": processes,
            "claims": result.facts["claims"],
            "carries": result.facts["carries"],
            "precision": settings.options.get("precision", "float32"),
            "artifact_sha256": files.sha256(submission),
            "ledger_sha256": files.sha256(ledger),
            "jail": jail.form(),
            "text_sha256": split.text_sha256,
        },
    )
    print(f"{run}: {bits_per_byte:.4f} bits per byte in {result.seconds:.1f} s")


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
