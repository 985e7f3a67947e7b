"""A submission's audit as one JSON object, from which all output is made. Texts of the folder are made printable here.

The fields are told in docs/reading-submissions.md; `format` goes up when one of them changes its meaning.
"""

import dataclasses
import math

from stages.audit.submission.contents import printable
from stages.audit.submission.findings import Run, Submission
from stages.audit.submission.logs.log import Log

FORMAT = 1


def of(submission: Submission, *, complete: bool = True) -> dict:
    ruling = submission.ruling
    return {
        "format": FORMAT,
        "folder": printable(submission.folder.resolve().name, 200),
        "track": submission.track,
        "pull_request": submission.pull_request,
        "verdict": submission.verdict,
        "proved": submission.proved,
        "suggested": submission.suggested,
        "decided": None
        if ruling is None
        else {name: getattr(ruling, name) for name in ("state", "date", "reason", "text", "source")} | {"found": submission.reason_found},
        "complete": complete,
        "runs": [_run(run) for run in submission.runs],
        "findings": [
            {
                "check": finding.check,
                "verdict": finding.verdict,
                "kind": finding.kind,
                "text": printable(finding.text, 1_000),
                "seed": finding.seed,
                "file": printable(finding.file, 200),
                "lines": list(finding.lines),
            }
            for finding in submission.findings
        ],
        "hints": [
            {
                "kind": hint.kind,
                "where": printable(hint.where, 300),
                "line": hint.line,
                "text": printable(hint.text, 600),
                "against": hint.against,
            }
            for hint in submission.hints
        ],
        "significance": dataclasses.asdict(submission.significance) if submission.significance else None,
        "read": [printable(name, 300) for name in submission.read],
    }


def _run(run: Run) -> dict:
    total, where = run.first("total_bytes")
    return {
        "seed": run.seed,
        "claimed": _finite(run.claimed),
        "score": None
        if run.score is None
        else {
            "bits_per_byte": _finite(run.score.bits_per_byte),
            "loss_nats": _finite(run.score.loss_nats),
            "pass": printable(run.score.name, 100),
            "file": printable(run.log.file, 200),
            "line": run.score.line,
            "is_claimed": run.is_claimed,
        },
        "total_bytes": total,
        "total_bytes_line": where.lines.get("total_bytes", 0) if where else 0,
        "logs": [_log(log) for log in run.logs],
    }


def _log(log: Log) -> dict:
    """What was read from a log, each number with its line."""
    numbers = ("val_tokens", "val_bytes", "train_shards", "world_size", "total_bytes", "model_bytes", "total_eval_seconds")
    return {
        "file": printable(log.file, 200),
        "seed": log.seed,
        "numbers": {
            name: {"value": _finite(getattr(log, name)), "line": log.lines.get(name, 0)}
            for name in numbers
            if getattr(log, name) is not None
        },
        "code_bytes": log.code_bytes[-4:],
        "seconds": {phase: {"seconds": seconds, "lines": lines[:20]} for phase, (seconds, lines) in log.seconds.items()},
        "passes": [
            {
                "pass": printable(one.name, 100),
                "bits_per_byte": _finite(one.bits_per_byte),
                "loss_nats": _finite(one.loss_nats),
                "seconds": one.seconds,
                "line": one.line,
            }
            for one in log.passes[-40:]
        ],
        "gpus": sorted(log.gpus)[:20],
        "switches": {
            printable(name, 80): printable(value, 80)
            for name, value in list(log.settings.items())[:200]
            if value.strip(",").lower() in ("true", "false", "0", "1", "none")
        },
    }


def _finite(value):
    """A number that JSON can write, or the text of one that it cannot."""
    return value if value is None or isinstance(value, int) or math.isfinite(value) else str(value)
