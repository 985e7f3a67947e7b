"""Compare every stated size with 16,000,000 decimal bytes: as the log counts it, and with the script as it lies in the folder.

log        model + code as the run counted it
folder     the same model + the bytes of the script that lies in the folder
"""

import lzma
import re
from pathlib import Path

from stages.audit.submission import contents, runs, stated
from stages.audit.submission.findings import Finding, Submission
from stages.lib.blob.counted import CAP_BYTES

MIB_BYTES = 16 * 2**20  # what "16 MB" is sometimes taken for
SCRIPTS = ("train_gpt.py", "train_gpt_submission.py", "train.py", "submission.py", "main.py")
SIZES = (
    "bytes_total",
    "artifact_bytes",
    "artifact_bytes_max",
    "max_artifact_bytes",
    "total_bytes",
    "total_artifact_bytes",
    "artifact_size_bytes",
    "total_size_bytes",
    "size_bytes",
    "submission_bytes",
    "submission_size_bytes",
    "artifact_size",
    "artifact_size_mb",
    "artifact_size_mib",
    "artifact_mb",
    "artifact_mib",
    "submission_size",
    "submission_size_mb",
    "total_size",
    "total_size_mb",
    "size_mb",
)
OF_A_MODEL = ("model_size_bytes", "model_bytes", "compressed_model_bytes", "model_size_mb", "model_size_mib")  # perhaps before it is packed
MODELS = (
    ".ptz",
    ".pt",
    ".pth",
    ".bin",
    ".safetensors",
    ".npz",
    ".npy",
    ".blob",
    ".ckpt",
    ".gguf",
    ".pkl",
    ".onnx",
    ".br",
    ".zst",
    ".xz",
    ".lzma",
)
PACKED_BYTES = 4_000_000  # a script up to this size is compressed here, to say what a packed form would have


def check(submission: Submission, readme: str, files: dict[str, Path]) -> None:
    script = next((files[name] for name in SCRIPTS if name in files), None)
    counted = max((path.stat().st_size for path in [script] if path), default=None)
    largest, is_stated = 0, False
    for run in submission.runs:
        total, log = run.first("total_bytes")
        if total is None:
            model, log = run.first("model_bytes")
            code = next((one.code_bytes[-1] for one in run.logs if one.code_bytes), None)
            total = model + code if model is not None and code is not None else None
        if total is None:
            continue
        is_stated = True
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
    entries = *runs.per_seed(submission.claims).items(), (None, submission.claims)
    claimed = [(seed, one, is_model) for seed, entry in entries for one, is_model in _claimed(entry)]
    failed = any(finding.check == "size" and finding.verdict == "fail" for finding in submission.findings)
    for seed, one, is_model in claimed:
        size = int(one.bytes)
        is_stated = is_stated or not is_model
        if size > CAP_BYTES:
            confused = "; it would fit into 16 MiB (16,777,216), but MB are decimal here" if size <= MIB_BYTES else ""
            excused = any(finding.check == "size" and finding.verdict == "pass" for finding in submission.findings) and not failed
            guessed = f", {one.guess}" if one.guess else ""
            guessed += "; the packed model may be smaller" if is_model else ""
            proved = not one.guess and not excused and not is_model and one.bytes - one.slack > CAP_BYTES
            text = f"{one.name} is {size:,} bytes{guessed}, {size - CAP_BYTES:,} above 16,000,000{confused}"
            submission.findings.append(Finding("size", "fail" if proved else "doubt", text, seed, "submission.json"))
        elif not is_model:
            largest = max(largest, size)
    _model(submission, files, counted)
    if not is_stated:
        submission.findings.append(Finding("size", "unknown", "no size of the artifact is stated"))
    elif not any(finding.check == "size" and finding.verdict in ("fail", "pass") for finding in submission.findings):
        submission.findings.append(Finding("size", "pass", f"at most {largest:,} of 16,000,000 bytes"))
    if re.search(r"16,?777,?216|\b16(\.0+)? ?MiB", readme):
        submission.findings.append(Finding("size", "doubt", "the README speaks of 16 MiB; the cap is 16,000,000 bytes, 777,216 fewer"))


def _claimed(entry: dict) -> list[tuple[stated.Size, bool]]:
    """The size that submission.json states for the whole, or for one seed, and one of the model if it is above the cap."""
    whole = next((one for pair in stated.fields(entry, *SIZES) if (one := stated.size(*pair)) and one.bytes > 0), None)
    model = next((one for pair in stated.fields(entry, *OF_A_MODEL) if (one := stated.size(*pair)) and one.bytes > CAP_BYTES), None)
    return [(one, one is model) for one in (whole, model) if one]


def _model(submission: Submission, files: dict[str, Path], script: int | None) -> None:
    """The largest file that may be the model, with the script. It may also be a checkpoint that is not packed, so it proves nothing."""
    found = {name: contents.size(path) for name, path in files.items() if path.suffix.lower() in MODELS}
    name = max(found, key=found.__getitem__, default=None)
    if name is None or found[name] + (script or 0) <= CAP_BYTES:
        return
    beside = f", with the {script:,} bytes of the script {found[name] + script:,}" if script else ""
    text = f"{name} has {found[name]:,} bytes{beside}, above 16,000,000; if it is the model that is handed in, it is too large"
    submission.findings.append(Finding("size", "doubt", text, file=name))


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
