"""T14: the score needs the counted file and nothing else.

Every run of the audit, and the run that made the score, starts the artifact in an isolated interpreter and an empty folder, behind a guard
that refuses files, programs and sockets (stages/lib/referee/guard.py). What the guard refused is reported. The file's size on disk is
counted in decimal bytes, and the file must be the same after the runs as before.
"""

import zipfile

from stages.audit.evidence import Evidence, Verdict
from stages.lib.node import files

PROVES = "The artifact scores from an empty folder, without network and without any file but itself, in at most 16,000,000 bytes."
CANNOT_SEE = "What compiled code opens by itself, because the guard sees only Python; and what an installed library holds beside code."
PRECEDENT = "README: 16,000,000 decimal bytes of code and model, no network at evaluation; over-cap rows excluded (#1902, 29 Apr 2026)"
CAP_BYTES = 16_000_000
MIB_BYTES = 16 * 2**20


def check(evidence: Evidence) -> Verdict:
    size = evidence.submission.stat().st_size
    with zipfile.ZipFile(evidence.submission) as archive:
        entries = {entry.filename: entry.compress_size for entry in archive.infolist()}
        outside = [name for name in entries if name.startswith("/") or ".." in name.split("/")]
    refused = evidence.refused  # waits for all runs, and starts those that no check has started yet
    same = files.sha256(evidence.submission) == evidence.metrics["artifact_sha256"]
    facts = {
        "artifact_bytes": size,
        "cap_bytes": CAP_BYTES,
        "entries": len(entries),
        "refused": refused,
        "outside": outside,
        "unchanged_after_the_runs": same,
    }
    if size > CAP_BYTES:
        facts["reason"] = f"{size - CAP_BYTES:,} bytes above the cap" + (
            "; it would fit into 16 MiB, but MB are decimal here" if size <= MIB_BYTES else ""
        )
    elif refused:
        facts["reason"] = f"it tried what no submission may: {refused[0]}"
    return Verdict(
        "pass" if size <= CAP_BYTES and not refused and not outside and same else "fail",
        facts,
        positions=len(entries),
        largest_deviation=float(max(0, size - CAP_BYTES)),
    )
