"""Compare every stated size with 16,000,000 decimal bytes: as the log counts it, and with the script as it lies in the folder.

log        model + code as the run counted it
folder     the same model + the bytes of the script that lies in the folder
"""

import lzma
import re
from pathlib import Path

from stages.audit.submission import contents, runs
from stages.audit.submission.findings import Finding, Submission, number
from stages.lib.blob.counted import CAP_BYTES

MIB_BYTES = 16 * 2**20  # what "16 MB" is sometimes taken for
SCRIPTS = ("train_gpt.py", "train_gpt_submission.py", "train.py", "submission.py", "main.py")
SIZES = ("artifact_bytes", "bytes_total", "total_bytes", "artifact_size_bytes", "size_bytes", "submission_bytes")
PACKED_BYTES = 4_000_000  # a script up to this size is compressed here, to say what a packed form would have


def check(submission: Submission, readme: str, files: dict[str, Path]) -> None:
    script = next((files[name] for name in SCRIPTS if name in files), None)
    counted = max((path.stat().st_size for path in [script] if path), default=None)
    largest, stated = 0, False
    for run in submission.runs:
        total, log = run.first("total_bytes")
        if total is None:
            model, log = run.first("model_bytes")
            code = next((one.code_bytes[-1] for one in run.logs if one.code_bytes), None)
            total = model + code if model is not None and code is not None else None
        if total is None:
            continue
        stated = True
        largest = max(largest, total)
        line = (log.lines.get("total_bytes") or log.lines.get("model_bytes", 0),)
        code = log.code_bytes[-1] if log.code_bytes else next((one.code_bytes[-1] for one in run.logs if one.code_bytes), None)
        if total <= CAP_BYTES:
            _lies(submission, run.seed, log.file, line, total, code, script, counted)
            continue
        confused = "; it would fit into 16 MiB (16,777,216), but MB are decimal here" if total <= MIB_BYTES else ""
        text = f"{total:,} bytes, {total - CAP_BYTES:,} above 16,000,000{confused}"
        if code is not None and counted is not None and counted < code and total - code + counted <= CAP_BYTES:
            text = (
                f"the log counts {total:,} bytes with {code:,} of code; its model of {total - code:,} bytes and the {counted:,}-byte "
                f"{script.name} that lies in the folder are {total - code + counted:,} of 16,000,000"
            )
            submission.findings.append(Finding("size", "pass", text, run.seed, log.file, line))
            continue
        smaller = [size for size in log.totals if size <= CAP_BYTES]
        if smaller or not run.counts:
            text += f"; the log also states {smaller[-1]:,}" if smaller else "; a run that is not claimed"
        submission.findings.append(Finding("size", "doubt" if smaller or not run.counts else "fail", text, run.seed, log.file, line))
    claimed = {seed: number(entry, *SIZES) for seed, entry in runs.per_seed(submission.claims).items()}
    claimed[None] = number(submission.claims, "bytes_total", "artifact_bytes_max", *SIZES)
    failed = any(finding.check == "size" and finding.verdict == "fail" for finding in submission.findings)
    for seed, size in claimed.items():
        if not size:
            continue
        stated = True
        if size > CAP_BYTES:
            confused = "; it would fit into 16 MiB (16,777,216), but MB are decimal here" if size <= MIB_BYTES else ""
            excused = any(finding.check == "size" and finding.verdict == "pass" for finding in submission.findings) and not failed
            text = f"{int(size):,} bytes, {int(size) - CAP_BYTES:,} above 16,000,000{confused}"
            submission.findings.append(Finding("size", "doubt" if excused else "fail", text, seed, "submission.json"))
        else:
            largest = max(largest, int(size))
    if not stated:
        submission.findings.append(Finding("size", "unknown", "no size of the artifact is stated"))
    elif not any(finding.check == "size" and finding.verdict in ("fail", "pass") for finding in submission.findings):
        submission.findings.append(Finding("size", "pass", f"at most {largest:,} of 16,000,000 bytes"))
    if re.search(r"16,?777,?216|\b16(\.0+)? ?MiB", readme):
        submission.findings.append(Finding("size", "doubt", "the README speaks of 16 MiB; the cap is 16,000,000 bytes, 777,216 fewer"))


def _lies(
    submission: Submission, seed: int | None, file: str, line: tuple, total: int, code: int | None, script: Path | None, lies: int | None
) -> None:
    """The log's total is within the cap; is it also with the script that lies in the folder?"""
    if code is None or script is None or lies is None or lies == code or total - code + lies <= CAP_BYTES:
        return
    packed = ""
    if lies <= PACKED_BYTES:
        data = contents.text(script, PACKED_BYTES).encode()
        smallest = len(lzma.compress(data, preset=6))
        packed = f"; packed with LZMA that script has {smallest:,} bytes, and in base 85 about {smallest * 5 // 4:,}"
    text = (
        f"the log counts {total:,} bytes with {code:,} of code; with the {lies:,} bytes of {script.name} as it lies in the folder they are "
        f"{total - code + lies:,}{packed}"
    )
    submission.findings.append(Finding("size", "doubt", text, seed, file, line))
