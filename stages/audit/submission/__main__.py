"""Audit published submission folders from their files: sizes, bytes, seeds, times, and what the code says. Nothing in them is executed.

    python -m stages.audit.submission records/track_10min_16mb/2026-04-01_Name             one folder, in full
    python -m stages.audit.submission records/track_10min_16mb/*/ --csv audit.csv          a table over many
    python -m stages.audit.submission FOLDER --record 1.0810                               with the test over seeds against a record

Exit code 1 if a folder is not legal. Only arithmetic decides; hints from the code are for people. A folder without a failure is `not
ruled`, because only running the artifact can show that a score is causal (docs/certification.md).
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from stages.audit.submission.folder import Submission, audit
from stages.lib.node import command, files

MARKS = {"pass": "ok", "fail": "FAIL", "doubt": "doubt", "unknown": "?"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stages.audit.submission", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--record", type=float, metavar="BPB", help="bits per byte of the record to beat by 0.005 nats per token")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there")
    chosen = parser.parse_args(argv)
    with command.sentences("audit.submission"):
        found, refused = [], []
        for folder in chosen.folders:
            try:
                found.append(audit(folder, record=chosen.record))
            except ValueError as error:  # one unreadable folder does not stop the audit of the others
                if len(chosen.folders) == 1:
                    raise
                refused.append(str(error))
        if len(found) == 1 and not refused:
            print(text(found[0]))
        elif found:
            print(table(found).to_string(index=False))
        for sentence in refused:
            print(f"not read: {sentence}", file=sys.stderr)
        if chosen.csv and found:
            with files.atomic(chosen.csv) as partial:
                table(found).to_csv(partial, index=False)
    return int(bool(refused) or any(submission.verdict == "not legal" for submission in found))


def text(submission: Submission) -> str:
    """Everything about one folder, for a terminal."""
    lines = [f"{submission.folder.name}: {submission.verdict}", ""]
    for log in submission.logs:
        if log.score:
            lines.append(f"  seed {log.seed}: {log.score.bits_per_byte} bits per byte ({log.score.name}), {log.total_bytes or 0:,} bytes")
    lines.append("")
    for finding in submission.findings:
        seed = "" if finding.seed is None else f"seed {finding.seed}: "
        lines.append(f"  {MARKS[finding.verdict]:5} {finding.check:12} {seed}{finding.text}")
    if submission.hints:
        lines += ["", "  What the code shows; hints only, they decide nothing:"]
        lines += [f"  {'-' if hint.against else '+'} {hint.where}: {hint.text}" for hint in submission.hints]
    return "\n".join(lines)


def table(found: list[Submission]) -> pd.DataFrame:
    """One row for each folder."""
    rows = []
    for submission in found:
        worst = {
            finding.check: finding.verdict
            for order in ("unknown", "pass", "doubt", "fail")
            for finding in submission.findings
            if finding.verdict == order
        }
        sizes = [log.total_bytes for log in submission.logs if log.total_bytes]
        scores = pd.Series(submission.scores, dtype=float)
        rows.append(
            {
                "folder": submission.folder.name,
                "verdict": submission.verdict,
                "seeds": len(scores),
                "bits_per_byte": round(scores.mean(), 6),
                "deviation": round(scores.std(), 6),
                "largest_bytes": max(sizes) if sizes else None,
                **{check: worst.get(check, "") for check in ("size", "bytes", "claims", "training", "evaluation", "lineage", "overlap")},
                "p": submission.significance.p if submission.significance else None,
                "hints": ", ".join(sorted({hint.kind for hint in submission.hints if hint.against})),
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    sys.exit(main())
