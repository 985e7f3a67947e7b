"""Audit one published folder: compare README, submission.json, logs and scripts with each other and with the rules.

    implied bytes = loss N / (ln 2 · bpb)          loss nats per token, N targets, bpb bits per byte

A finding is pass, fail, doubt or unknown. Only arithmetic on what the folder states can give a fail; hints from the code never do. Nothing
in the folder is executed, and nothing in it raises: a file that cannot be read is a finding. Source of the totals: reference of the
referee, §1.3 and §1.5.
"""

import hashlib
import re
import time
from pathlib import Path

from stages.audit.code import reading, settings, unpack
from stages.audit.submission import contents, rulings, runs
from stages.audit.submission.findings import Finding, Submission
from stages.audit.submission.logs import lines
from stages.audit.submission.logs import log as logs
from stages.audit.submission.rules import byte_counts, claims, configuration, sizes, texts, times
from stages.lib.referee.significance import LEVEL, MARGIN_NATS, one_sample

LOG_SUFFIXES = (".log", ".txt", ".out", ".stdout")
NO_LOG = ("requirements.txt", "readme.txt", "license.txt", "notes.txt", "audit.txt")
LOG_NAME = re.compile(rf"{lines.FILE_SEED.pattern}|(?:^|[_-])(?:logs?|train|eval)(?=[._-]|$)", re.IGNORECASE)
PACKED, NAMED = "it is compressed in a form that is not read", "it is not named as a log, such as .log or .txt"
NOT_READ = dict.fromkeys((".gz", ".zst", ".xz", ".bz2", ".zip", ".7z", ".tar", ".tgz", ".lz4", ".br"), PACKED) | dict.fromkeys(
    ("", ".md", ".rst", ".html", ".htm", ".pdf", ".rtf", ".err", ".stderr", ".jsonl"), NAMED
)
ARCHIVES = (".zip", ".pyz", ".whl")
UNREAD = (
    ".so",
    ".pyc",
    ".pyd",
    ".dll",
    ".o",
    ".a",
    ".exe",
    ".cubin",
    ".fatbin",
    ".ptx",
    ".rs",
    ".go",
    ".jl",
    ".pyx",
    ".pxd",
    ".mojo",
    ".ipynb",
)
LAUNCHES = (".sh", ".bash", ".md", ".slurm", ".sbatch")
LOG_CHARACTERS = 900_000  # of lines of all logs that say something
CODE_CHARACTERS = 3_000_000  # of all sources of a folder together, unpacked
LOG_SECONDS = 1.0  # CPU time after which no further log is begun
CODE_SECONDS = 1.2  # CPU time after which no further source is begun; a script of 200 kB takes a third of a second


def audit(folder: Path, *, record: float | None = None, pull_request: int | None = None, code: bool = True) -> Submission:
    """Audit the files of `folder`. `record` (bits per byte) adds the significance test over seeds, `pull_request` names its ruling.
    Without `code`, the scripts are not read. ValueError if it is no submission."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{contents.printable(str(folder))} is no folder; name a submission's folder, such as records/track_10min_16mb/<date>_<name>"
        )
    files, skipped, unread = contents.files(folder)
    submission = Submission(folder, {}, [])
    submission.skipped = {name: why for name, why in skipped.items() if _is_log(name)}
    submission.findings += [Finding("code", "doubt", sentence) for sentence in unread]
    _claims(submission, files)
    _logs(submission, files)
    if not submission.claims and not submission.logs and "submission.json" not in files:
        raise ValueError(
            f"{contents.printable(str(folder))} has neither a submission.json nor a log with a val_bpb; name the folder of one submission"
        )
    if submission.skipped:
        said = ", ".join(f"{name} ({why})" for name, why in list(submission.skipped.items())[:6])
        submission.findings.append(Finding("claims", "unknown", f"logs that were not read: {said}"))
    submission.track = times.track(folder, submission.claims)
    submission.pull_request, submission.ruling = rulings.of(folder, submission.claims, pull_request)
    submission.runs = runs.of(submission.logs, submission.claims)
    submission.logs.sort(key=lambda log: (log.seed is None, log.seed or 0, log.file))
    readme = next((_text(submission, files, name) for name in files if name.lower() == "readme.md"), "")
    launched = _launched(submission, files)
    defaults: dict[str, object] = {}
    if code:
        _code(submission, files, settings.Settings(launched, configuration.switches(submission.logs)), defaults)
    sizes.check(submission, readme, files)
    byte_counts.check(submission)
    claims.check(submission)
    times.check(submission, readme)
    configuration.check(submission, readme, launched)
    texts.check(submission, readme, launched, defaults)
    if record is not None:
        _significant(submission, record)
    return submission


def _text(submission: Submission, files: dict[str, Path], name: str) -> str:
    try:
        return contents.text(files[name])
    except OSError as error:
        submission.findings.append(Finding("code", "doubt", f"{name} cannot be read ({error.strerror})"))
        return ""


def _claims(submission: Submission, files: dict[str, Path]) -> None:
    if "submission.json" not in files:
        return
    repeated: list[str] = []
    try:
        found, why, repeated = contents.parsed(files["submission.json"])
    except OSError as error:
        found, why = None, f"it cannot be read ({error.strerror})"
    if not why and not isinstance(found, dict):
        why = "it is no JSON object"
    if why:
        text = f"submission.json: {why}; what it claims was not compared with the logs"
        submission.findings.append(Finding("claims", "doubt", text, file="submission.json"))
    else:
        submission.claims = found
        if repeated:
            names = ", ".join(contents.printable(name, 60) for name in repeated[:4])
            text = f"submission.json has a key more than once in one object ({names}); only the last value was read"
            submission.findings.append(Finding("claims", "doubt", text, file="submission.json"))


def _logs(submission: Submission, files: dict[str, Path]) -> None:
    left, characters = contents.ALL_LOG_BYTES, LOG_CHARACTERS
    started = time.process_time()
    names = [name for name in files if _suffix(name) in LOG_SUFFIXES and Path(name).name.lower() not in NO_LOG]
    for name in files:
        if (why := NOT_READ.get(_suffix(name))) and LOG_NAME.search(Path(name).name):
            submission.skipped[name] = why
    names.sort(key=lambda name: (contents.size(files[name]), name))  # a huge log costs no other
    for place, name in enumerate(names):
        path = files[name]
        if time.process_time() - started > LOG_SECONDS:
            text = f"{len(names) - place} of {len(names)} logs, the largest ones, were not read: the others took too long"
            submission.findings.append(Finding("claims", "doubt", text))
            submission.skipped |= dict.fromkeys(names[place:], "the logs before it took too long")
            break
        try:
            most = min(contents.LOG_BYTES, left)
            data = contents.unpacked(path, most) if path.suffix.lower() == ".gz" else None
            size = path.stat().st_size if data is None else len(data)
            if left < min(size, 1 << 16):
                submission.findings.append(
                    Finding("claims", "doubt", f"{name} was not read: the logs come to more than {contents.ALL_LOG_BYTES:,} bytes")
                )
                submission.skipped[name] = "the logs are too large together"
                continue
            left -= min(size, most)
            found = logs.parts(name, contents.lines(path, most, data), most=max(20_000, min(characters // 2, 300_000)))
        except OSError as error:
            submission.findings.append(Finding("claims", "doubt", f"{name} cannot be read ({error.strerror})"))
            submission.skipped[name] = f"{error.strerror}"
            continue
        characters -= min(characters, found[0].characters)
        if found[0].left_out:
            submission.findings.append(
                Finding("claims", "doubt", f"{name} has {found[0].left_out:,} lines more that speak of numbers than are read")
            )
        if len(found) > 1:
            seeds = ", ".join(str(log.seed) for log in found)
            text = f"{name} has {len(found)} runs, parted at the lines that announce their seeds: {seeds}"
            submission.findings.append(Finding("claims", "unknown", text, file=name, lines=tuple(log.lines["seed"] for log in found[:20])))
        submission.logs += [log for log in found if log.passes or log.total_bytes or log.model_bytes or log.timed or log.statements]


def _suffix(name: str) -> str:
    """The suffix that says what a file is, without the .gz of a packed log."""
    path = Path(name.lower())
    inner = Path(path.stem).suffix if path.suffix == ".gz" else ""
    return inner if inner in LOG_SUFFIXES else ".log" if path.suffix == ".gz" and not inner and LOG_NAME.search(name) else path.suffix


def _is_log(name: str) -> bool:
    """Whether a file that is not read looks like a log."""
    path = Path(name)
    return bool(LOG_NAME.search(path.name)) or (_suffix(name) in LOG_SUFFIXES and path.name.lower() not in NO_LOG)


def _launched(submission: Submission, files: dict[str, Path]) -> dict[str, str]:
    """NAME=value of the shell scripts and of the README's commands."""
    found: dict[str, str] = {}
    for name in sorted(
        (name for name in files if files[name].suffix.lower() in LAUNCHES), key=lambda name: not name.lower().endswith(".md")
    ):
        found |= settings.of_launch_lines(_text(submission, files, name)[:400_000])
    return found


def _code(submission: Submission, files: dict[str, Path], known: settings.Settings, defaults: dict[str, object]) -> None:
    """Unpack and read every source file; compare the main script's size with what the logs counted."""
    seen: set[bytes] = set()
    unreadable: list[str] = []
    characters, size = CODE_CHARACTERS, contents.ALL_SOURCE_BYTES
    started = time.process_time()
    for name in sorted(files, key=lambda name: (name not in sizes.SCRIPTS, name)):
        language, path = unpack.language_of(name), files[name]
        if language is None and path.suffix.lower() not in ARCHIVES:
            if path.suffix.lower() in UNREAD:
                unreadable.append(name)
            continue
        if time.process_time() - started > CODE_SECONDS:
            submission.findings.append(Finding("code", "doubt", f"{name} and what follows it was not read: the code before took too long"))
            break
        try:
            size -= path.stat().st_size
            if path.stat().st_size > contents.SOURCE_BYTES or size < 0:
                submission.findings.append(
                    Finding("code", "doubt", f"{name} was not read: sources come to more than {contents.SOURCE_BYTES:,} bytes")
                )
                continue
            data = path.read_bytes()
        except OSError as error:
            submission.findings.append(Finding("code", "doubt", f"{name} cannot be read ({error.strerror})"))
            continue
        layers, unread = unpack.layers(name, data.decode(errors="replace"), language) if language else unpack.archive(name, data)
        del data
        submission.findings += [Finding("code", "doubt", sentence, file=name) for sentence in unread]
        for layer in layers:
            digest = hashlib.sha256(layer.source.encode(errors="replace")).digest()
            if digest in seen:
                continue
            seen.add(digest)
            characters -= len(layer.source) if len(layer.source) < 600_000 else 0
            if characters < 0:
                submission.findings.append(
                    Finding(
                        "code",
                        "doubt",
                        f"{layer.name} was not followed: sources come to more than {CODE_CHARACTERS:,} characters",
                        file=name,
                    )
                )
                break
            submission.read.append(layer.name)
            own = settings.Settings(known.launched, known.logged)
            submission.hints += reading.hints(layer.name, layer.tree, own, layer.language)
            defaults |= own.unset
        if len(layers) > 1 or (layers and not language):
            text = (
                f"{name} ({path.stat().st_size:,} bytes) unpacks to {layers[-1].name}, "
                f"{len(layers[-1].source):,} characters, which were read and not run"
            )
            submission.findings.append(Finding("code", "pass", text, file=name))
    if unreadable:
        said = ", ".join(sorted(unreadable)[:8]) + (f" and {len(unreadable) - 8} more" if len(unreadable) > 8 else "")
        submission.findings.append(Finding("code", "doubt", f"code that is not read here: {said}"))
    scripts = [path for name, path in files.items() if name == "train_gpt.py"]
    counted = {size for log in submission.logs for size in log.code_bytes}
    if scripts and counted and not any(path.stat().st_size in counted for path in scripts):
        said = ", ".join(f"{size:,}" for size in sorted(counted))
        text = f"train_gpt.py has {scripts[0].stat().st_size:,} bytes, the logs counted {said}: not the script that ran, or a packed form"
        submission.findings.append(Finding("code", "doubt", text, file="train_gpt.py"))
    if not submission.read:
        submission.findings.append(Finding("code", "unknown", "there is no script to read"))


def _significant(submission: Submission, record: float) -> None:
    """Test the scores against the record; the margin of 0.005 nats per token is converted with this submission's own bytes per token."""
    with_loss = [one for run in submission.runs for log in run.logs for one in log.passes if one.loss_nats and one.is_number]
    if not submission.scores or not with_loss:
        submission.findings.append(Finding("significance", "unknown", "no log has a score with its loss"))
        return
    margin = MARGIN_NATS * with_loss[-1].bits_per_byte / with_loss[-1].loss_nats
    submission.significance = one_sample(submission.scores, record, margin)
    p = submission.significance.p
    verdict = "unknown" if p is None else "pass" if p < LEVEL else "doubt"
    submission.findings.append(Finding("significance", verdict, submission.significance.sentence))
