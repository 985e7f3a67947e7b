"""Certify one evaluated score: each file under checks/ tests one property by running code, and the certificate keeps the evidence.

    python -m stages.audit sliding                                 the run of the workspace
    python -m stages.audit --rev NAME [NAME ...] [--run sliding]   of an experiment or commit, from DVC's cache (stages/audit/revision.py)

A score is legal if every check passes, and not legal if one fails. It is not ruled if none fails but at least one could not be done.
"""

import importlib
import math
import pkgutil
import secrets
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.audit import bound, revision
from stages.audit import certificate as rendering
from stages.audit.evidence import AuditSettings, Evidence, Verdict, is_built_elsewhere
from stages.lib.blob import counted
from stages.lib.node import command, files
from stages.lib.node.stage import Input, Metrics, Output, Untracked, Variant
from stages.lib.referee import artifact, jail
from stages.lib.referee.significance import one_sample
from stages.lib.tokens import splits

REPORTED = (
    *("artifact_sha256", "ledger_sha256", "text_sha256", "bits_per_byte", "loss_nats", "seconds", "bytes", "tokens"),
    *("claims", "carries", "jail"),
)


@dataclass(frozen=True)
class Run:
    SECTION: ClassVar[str] = "evaluate.runs.{variant}"
    evaluator: str
    options: dict


def main(
    run: Variant,
    settings: AuditSettings,
    evaluated: Run,
    package: counted.PackageSettings,
    *,
    submission: Input = "artifacts/package/submission.pyz",
    script: Input = "artifacts/script/train_gpt.py",
    ledger: Input = "artifacts/evaluate/{variant}/ledger.npy",
    metrics: Input = "artifacts/evaluate/{variant}/metrics.json",
    documents: Input = "artifacts/prepare/val",
    text: Input = "artifacts/tokenize/val",
    prepared_train: Input = "artifacts/prepare/train",  # the check `files` reads these two, beside the documents of val
    prepared_holdout: Input = "artifacts/prepare/holdout",
    train: Input = "artifacts/tokenize/train",
    holdout: Input = "artifacts/tokenize/holdout",
    training: Input = "artifacts/train/metrics.json",
    adaptation: Input = "artifacts/prequant_ttt/metrics.json",
    calibration: Input = "artifacts/calibrate/metrics.json",
    quantization: Input = "artifacts/quantize/metrics.json",
    certificate: Metrics = "artifacts/audit/{variant}/certificate.json",
    page: Output = "artifacts/audit/{variant}/certificate.html",
    words: Output = "artifacts/audit/{variant}/certificate.md",
    lock: Untracked = "dvc.lock",
) -> None:
    reported = files.read_json(metrics, required=REPORTED)
    for path, key in ((submission, "artifact_sha256"), (ledger, "ledger_sha256")):
        if files.sha256(path) != reported[key]:
            raise ValueError(f"{path} is not the file that {metrics} was computed from (sha256 differs); run: dvc repro evaluate@{run}")
    val, nats = splits.read(text, "val", sidecar=True), np.load(ledger, allow_pickle=False)
    if nats.shape != (len(val.tokens) - 1,) or nats.dtype != np.float64:
        raise ValueError(f"{ledger} does not hold one number for each of the {len(val.tokens) - 1} targets; run: dvc repro evaluate@{run}")
    evidence = Evidence(
        submission=submission,
        documents=documents,
        text=val,
        nats=nats,
        metrics=reported,
        evaluator=evaluated.evaluator,
        options=evaluated.options,
        lock=lock,
        settings=settings,
        script=script,
        drawn=tuple(secrets.randbits(32) for _ in range(4)),
        package=package,
        train=train,
        holdout=holdout,
        making={
            name: files.read_json(path)
            for name, path in (("train", training), ("prequant_ttt", adaptation), ("calibrate", calibration), ("quantize", quantization))
        },
    )
    write(ruled(run, evidence), certificate, page, words)


def ruled(run: str, evidence: Evidence) -> dict:
    """All checks, and what certificate.json holds of them."""
    reported = evidence.metrics
    jail.settle()  # the first session would do it, four times as slowly beside the threads of all checks
    modules = {name: importlib.import_module(f"stages.audit.checks.{name}") for name in checks()}
    with ThreadPoolExecutor(len(modules) + 1) as pool:  # most checks wait for a run of the artifact that another check has started
        begun = threading.Event()
        pool.submit(prepare, evidence, begun)
        begun.wait()
        verdicts = dict(zip(modules, pool.map(judged, modules.values(), [evidence] * len(modules)), strict=True))
    ruling, most = verdict(verdicts), _most_bits(evidence, verdicts)
    return {
        "run": run,
        "evaluator": evidence.evaluator,
        "verdict": ruling,
        "legal": ruling == "legal",
        "claims": reported["claims"],
        "precision": reported.get("precision", "float32"),
        "bits_per_byte": reported["bits_per_byte"],
        "at_most_bits_per_byte": most,
        "confidence": 1 - bound.LEVEL,
        "drawn": list(evidence.drawn),
        "referee": {"protocol": artifact.PROTOCOL, "jail": jail.form()},
        "artifact_sha256": reported["artifact_sha256"],
        "text_sha256": reported["text_sha256"],
        "checks": {
            name: asdict(found)
            | {"proves": modules[name].PROVES, "cannot_see": modules[name].CANNOT_SEE, "precedent": modules[name].PRECEDENT}
            for name, found in verdicts.items()
        },
        "significance": one_sample([reported["bits_per_byte"]], reported["bits_per_byte"], 0.0).sentence,
    }


def prepare(evidence: Evidence, begun: threading.Event) -> None:
    """Decode the weights, for which every session waits, and say when that has begun: beside the other checks, to start takes seconds."""
    try:
        if not is_built_elsewhere(evidence):
            artifact.prepared(evidence.submission, evidence.evaluator, evidence.options, started=begun.set)
    except ValueError:  # the first check that needs the weights tries again, and fails by it
        pass
    finally:
        begun.set()


def write(written: dict, certificate: Path, page: Path, words: Path) -> None:
    """The certificate in its three forms; it is also said in one line."""
    files.write_json(certificate, written)
    for path, render in ((page, rendering.html), (words, rendering.markdown)):
        with files.atomic(path) as partial:
            partial.write_text(render(written), encoding="utf-8")
    said = ", ".join(f"{name} {found['verdict']}" for name, found in written["checks"].items())
    print(f"{written['run']}: {written['verdict'].upper()}; {said}")


def _most_bits(evidence: Evidence, verdicts: dict[str, Verdict]) -> float | None:
    """X: the most bits per byte that the score can really be; None if not every position could be drawn and replayed."""
    nats = None if verdicts["replay"].verdict == "fail" else evidence.replay.most_nats(evidence.nats)
    return None if nats is None else (nats / math.log(2) + bound.LENGTH_BITS) / evidence.metrics["bytes"]


def judged(module, evidence: Evidence) -> Verdict:
    """The check's verdict. If the artifact breaks down in a run that the check needs, the check fails."""
    try:
        found = module.check(evidence)
    except artifact.Failed as error:
        found = Verdict("fail", {"reason": str(error)})
    return Verdict(found.verdict, finite(found.evidence), found.positions, finite(found.largest_deviation))


def finite(value):
    """`value` as JSON can hold it: NaN and infinity, which a broken artifact can give, become text."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def verdict(verdicts: dict[str, Verdict]) -> str:
    """legal | not legal | not ruled."""
    found = {one.verdict for one in verdicts.values()}
    return "not legal" if "fail" in found else "not ruled" if "not_applicable" in found else "legal"


def checks() -> list[str]:
    """The names of all checks: the files of checks/."""
    return sorted(entry.name for entry in pkgutil.iter_modules([str(Path(__file__).parent / "checks")]))


if __name__ == "__main__":
    if "--rev" in sys.argv:
        sys.exit(revision.run(main, Run))
    command.run(main)
