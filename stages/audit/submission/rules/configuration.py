"""Whether the seeds are one configuration, on the right data, and as the README says."""

import re
import statistics

from stages.audit.code.settings import truth
from stages.audit.submission import runs
from stages.audit.submission.findings import Finding, Submission
from stages.audit.submission.logs.log import Log

PER_RUN = re.compile(
    r"seed|run_id|time|date|path|dir$|file|host|port$|pid|uuid|commit|hash|version|driver|bytes|loss|bpb|memory|peak|elapsed|shards|log|"
    r"^(local_)?rank$|world_size|^step|steps?_avg|ms$|gpu|device|^name|artifact|blob|threads|workers|verbose|wandb|cache|id$|params$|node|"
    r"master|rdzv|code_size|model_size",
    re.IGNORECASE,
)
NAMES = {"overlap": "train/val overlap", "no count": ""}
FEW = 8  # settings of which a difference in one shows something
CLAIMS_MASK = re.compile(
    r"bos[- _]?(fix|mask|safe|aware)|(document|doc)[- ](mask|isolat|independen|boundar)|smear\w*[- ]?bos", re.IGNORECASE
)
MASK_SWITCH = re.compile(r"bos_?(fix|mask)|(fix|mask)_?bos|doc(ument)?_?(mask|isolat)|smear\w*bos", re.IGNORECASE)


def check(submission: Submission, readme: str, launched: dict[str, str]) -> None:
    _seeds(submission)
    _settings(submission)
    _overlap(submission)
    _statements(submission)
    _mask(submission, readme, launched)


def _note(submission: Submission, *values, **more) -> None:
    submission.findings.append(Finding(*values, **more))


def _seeds(submission: Submission) -> None:
    scored = [run for run in submission.runs if run.score and run.score.is_number]
    text = f"{len(scored)} run{'s' * (len(scored) != 1)} with a score"
    claimed = runs.seeds(submission.claims)
    if len(scored) >= 3:
        mean, deviation = statistics.fmean(submission.scores), statistics.stdev(submission.scores)
        unnamed = "; the logs do not name their seeds" if any(run.seed is None for run in scored) else ""
        _note(submission, "seeds", "pass", f"{text}: mean {mean:.6f}, s.d. {deviation:.6f} bits per byte{unnamed}")
    elif submission.track == "record":
        said = f", where submission.json names {len(claimed)}" if len(claimed) > len(scored) else ""
        sentence = f"{text}{said}; a record needs three seeds of one configuration, and from one nothing can be said"
        _note(submission, "seeds", "doubt" if scored else "unknown", sentence)
    else:
        _note(submission, "seeds", "unknown", f"{text}; this track asks for no number of seeds")
    scores = [run.score.bits_per_byte for run in scored if run.score.bits_slack < 1e-6]
    if len(set(scores)) < len(scores):
        _note(
            submission,
            "seeds",
            "doubt",
            "two seeds have the same score to the last digit: one log may be a copy of the other",
            kind="copied log",
        )


def _settings(submission: Submission) -> None:
    """Settings that differ between the seeds, each with its lines; and different numbers of scored tokens."""
    found = [(run, log) for run in submission.runs if run.counts for log in [run.log or run.logs[0]]]
    tokens = {log.val_tokens: log for _, log in found if log.val_tokens}
    if len(tokens) > 1:
        said = ", ".join(f"{count:,}" for count in sorted(tokens))
        _note(
            submission,
            "seeds",
            "fail",
            f"the seeds were scored on different numbers of tokens ({said}): not one configuration (#2124)",
            kind="mixed configurations",
        )
    tables = [(log, {name: value for name, value in log.settings.items() if not PER_RUN.search(name)}) for _, log in found]
    tables = [(log, table) for log, table in tables if len(table) >= FEW]
    if len(tables) < 2:
        return
    common = set.intersection(*(set(table) for _, table in tables))
    different = sorted(name for name in common if len({_same(table[name]) for _, table in tables}) > 1)
    if different:
        first = different[0]
        said = ", ".join(f"{table[first]} ({log.file}, line {log.setting_lines[first]})" for log, table in tables)
        more = f", and {len(different) - 1} more: {', '.join(different[1:6])}" if len(different) > 1 else ""
        text = f"the seeds differ in {first}: {said}{more}; a record needs one configuration (#2124)"
        _note(submission, "seeds", "doubt", text, kind="mixed configurations")


def _same(value: str) -> str:
    try:
        return repr(float(value.rstrip(",;")))
    except ValueError:
        return value.rstrip(",;").strip("\"'").lower()


def _overlap(submission: Submission) -> None:
    shards = {log.train_shards: log for log in submission.logs if log.train_shards}
    if shards and max(shards) > 1_000:
        log = shards[max(shards)]
        text = (
            f"{max(shards):,} train shards: as many as a local preparation makes that holds out 10,000 documents only, so that most of val "
            "was trained on (#2127)"
        )
        _note(submission, "overlap", "doubt", text, file=log.file, lines=(log.lines.get("train_shards", 0),), kind="train/val overlap")


def _statements(submission: Submission) -> None:
    """What a log says outright."""
    said = {
        "val in calibration": ("lineage", "the log says that the quantizer was calibrated on validation data (ruled out, #728)"),
        "trains on val": ("lineage", "the log names validation shards as training data"),
        "overlap": ("overlap", "the log holds out 10,000 documents, where the val split has 50,000 (#2127)"),
        "no count": ("bytes", "a count with more than 15 digits was not believed"),
    }
    done: set[tuple] = set()
    for log in submission.logs:
        for kind, line, text in log.statements:
            if kind not in said or (kind, log.file) in done:
                continue
            done.add((kind, log.file))
            check, sentence = said[kind]
            _note(submission, check, "doubt", f'{sentence}: "{text}"', log.seed, log.file, (line,), NAMES.get(kind, kind))


def _mask(submission: Submission, readme: str, launched: dict[str, str]) -> None:
    """A mask at the starts of documents that the README claims, and a launch line or log that switches it off."""
    claim = next(
        (
            found
            for found in CLAIMS_MASK.finditer(readme)
            if not re.search(r"\b(no|without|lacks?|not)\W+(\w+\W+){0,3}$", readme[: found.start()][-40:])
        ),
        None,
    )
    if claim is None:
        return
    for name, value in launched.items():
        if MASK_SWITCH.search(name) and truth(value) is False:
            _note(
                submission,
                "documents",
                "doubt",
                f'the README speaks of "{claim[0]}", and the launch line sets {name}={value} (#1797, #2135)',
                kind="no document mask",
            )
            return
    for log in submission.logs:
        for name, value in log.settings.items():
            if MASK_SWITCH.search(name) and truth(value) is False:
                text = f'the README speaks of "{claim[0]}", and the log says {name}: {value} (#1797, #2135)'
                _note(submission, "documents", "doubt", text, log.seed, log.file, (log.setting_lines[name],), "no document mask")
                return
    smear = next((hint for hint in submission.hints if hint.kind == "no document mask"), None)
    if smear and re.search(r"smear", readme, re.IGNORECASE):
        _note(
            submission, "documents", "doubt", f'the README speaks of "{claim[0]}", and {smear.where} {smear.text}', kind="no document mask"
        )


def switches(logs: list[Log]) -> dict[str, str]:
    """Settings that every log agrees on."""
    found: dict[str, str] = {}
    for log in logs:
        for name, value in log.settings.items():
            found[name] = value if found.get(name, value) == value else ""
    return {name: value for name, value in found.items() if value}
