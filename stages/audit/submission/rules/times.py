"""The track of a folder, the machine of its runs, and their seconds against the limits of that track.

    record        600 s to make the artifact and 600 s to score it, on eight H100
    non-record, unlimited compute        no limit of time; the size still counts
    own_text      another text than the contest's; times are as they are

Training data that the quantizer's calibration reads counts (#677, 27 Mar 2026), compression does not. Self-generated calibration reads no
training data and was accepted (#1019, 28 Mar), while another ruling asks for it inside the budget: its seconds are reported beside the 600.
Accepted records read calibration data for a few seconds after the 600 (#2135: until 606.5 s), so only more than GRACE is a fail.
"""

import re
from pathlib import Path

from stages.audit.submission.findings import Finding, Run, Submission
from stages.audit.submission.logs import phases
from stages.lib.referee import time_budget

OVERSHOOT_SECONDS = 1.0  # the last step may end after the cap: 600.2 s were accepted, 602.0 s were sent back (#1945)
GRACE_SECONDS = 10.0
UNLIMITED = re.compile(
    r"non[-_ ]?record|unlimited|unrestricted|unconstrained|notable|no[-_ ]?time[-_ ]?limit|\d+[-_ ]?(h|hours?)([-_ ]|$)", re.IGNORECASE
)
NUMBERS = {"eight": "8", "four": "4", "one": "1", "two": "2", "single": "1"}
EIGHT = re.compile(
    r"(?<!\d)8 ?(?:x|×|\*|gpus?\W{1,3}|-?way )? ?(?:nvidia |sxm\d? |hgx )*h100|h100\w*(?: ?(?:sxm\d?|"
    r"hbm\d?|80 ?gb|nvl|pcie|gpus?|\())* ?(?:x|×|\*) ?8(?!\d)|(?<!\d)8 h100",
    re.IGNORECASE,
)
OTHER = re.compile(
    r"(?:\b|(?<=\d[x×]))(a100|h200|b200|gh200|l40s?|a10g?|rtx ?\w*\d{4}|v100|t4|m[1-4]( max| ultra| pro)?|mi300\w*|apple|cpu)\b",
    re.IGNORECASE,
)


def track(folder: Path, claims: dict) -> str:
    """record | non-record | own_text, from submission.json or from the names of the folder and of the one around it."""
    stated = str(claims.get("track", ""))[:200]
    if stated == "own_text":
        return stated
    if stated:
        return "non-record" if UNLIMITED.search(stated) else "record"
    path = Path(folder).resolve()
    return "non-record" if any(name.startswith("track") and UNLIMITED.search(name) for name in (path.name, path.parent.name)) else "record"


def is_eight(text: str) -> bool | None:
    """Whether a description of hardware is eight H100; None if it says neither that nor something else."""
    plain = re.sub(
        r"\b(" + "|".join(NUMBERS) + r")\b", lambda found: NUMBERS[found[1].lower()], " ".join(text[:2_000].split()), flags=re.IGNORECASE
    )
    if EIGHT.search(plain):
        return True
    return False if OTHER.search(plain) or (re.search(r"h100", plain, re.IGNORECASE) and re.search(r"(?<!\d)[1-7] ?[x×*]", plain)) else None


def check(submission: Submission, readme: str) -> None:
    _report(submission)
    if submission.track != "record":
        where = "unlimited compute" if submission.track == "non-record" else "a text of its own"
        submission.findings.append(
            Finding(
                "time",
                "pass" if submission.track == "non-record" else "unknown",
                f"track {submission.track}: {where}, no limit of time applies",
            )
        )
        return
    stated = submission.claims.get("hardware", submission.claims.get("gpus", ""))
    claimed = str(stated)[:300] if isinstance(stated, str) else ""
    gpus = sorted({gpu for log in submission.logs for gpu in log.gpus})
    worlds = {log.world_size for log in submission.logs if log.world_size}
    word = is_eight(claimed) if claimed else None
    if word is None and claimed and "h100" in claimed.lower() and worlds == {8}:
        word = True
    if word is None and not claimed:
        word = True if "H100" in gpus and worlds == {8} else is_eight(readme)
    if not (word and worlds <= {8} and (not gpus or "H100" in gpus)):
        seen = f"{', '.join(gpus) or 'nothing'}, {', '.join(map(str, sorted(worlds))) or 'unknown'} processes"
        text = f"not shown to be eight H100 (stated: {claimed or 'nothing'}; in the logs: {seen}): times of another machine show nothing"
        submission.findings.append(Finding("time", "unknown", text))
        return
    for run in submission.runs:
        if run.counts:
            _making(submission, run)
            _scoring(submission, run)
    if not any(finding.check in ("training", "evaluation") for finding in submission.findings):
        submission.findings.append(Finding("time", "unknown", "no log states its times"))


def _report(submission: Submission) -> None:
    """An adaptation before quantization that a log times: only the code tells on which split it ran."""
    for run in submission.runs:
        for log in run.logs:
            if found := log.seconds.get(phases.ADAPTATION):
                text = (
                    f"the weights were adapted for {found[0]:.1f} s before they were quantized; on the val split, as "
                    "in every published run, that is ruled out"
                )
                submission.findings.append(Finding("lineage", "doubt", text, run.seed, log.file, tuple(found[1]), "pre-quantization TTT"))


def _making(submission: Submission, run: Run) -> None:
    log = next((one for one in ([run.log] if run.log else []) + run.logs if one and one.of(phases.TRAINING) is not None), None)
    if log is None:
        return
    seconds = log.seconds
    counted = [phase for phase in (phases.TRAINING, phases.ADAPTATION, phases.CALIBRATION) if phase in seconds]
    text = ", ".join(f"{_name(phase)} {seconds[phase][0]:.1f} s" for phase in counted)
    lines = tuple(line for phase in counted for line in seconds[phase][1])
    beside = [phase for phase in (phases.GENERATED, phases.QUANTIZATION, phases.COMPRESSION) if phase in seconds]
    if beside:
        text += f"; not counted: {', '.join(f'{phase} {seconds[phase][0]:.1f} s' for phase in beside)}"
    total, limit = sum(seconds[phase][0] for phase in counted), time_budget.SECONDS
    learning = total - seconds.get(phases.CALIBRATION, (0.0, []))[0]
    if total <= limit:
        verdict = "pass"
    elif total <= limit + OVERSHOOT_SECONDS:
        verdict, text = "pass", f"{text}: over by the last step, which the field lets pass"
    elif learning <= limit + OVERSHOOT_SECONDS and total <= limit + GRACE_SECONDS:
        verdict, text = (
            "doubt",
            f"{text}: calibration reads data until {total:.1f} s of {limit}, against #677; accepted records did the same (#2135: 606.5 s)",
        )
    else:
        verdict, text = "fail", f"{text}: {total:.1f} s of {limit}"
    submission.findings.append(Finding("training", verdict, text, run.seed, log.file, lines))
    generated = seconds.get(phases.GENERATED)
    if generated and total + generated[0] > limit + OVERSHOOT_SECONDS:
        said = (
            f"self-generated calibration takes {generated[0]:.1f} s beside the {total:.1f} s: it reads no "
            f"training data and was accepted (#1019), another ruling asks for it inside the {limit}"
        )
        submission.findings.append(Finding("training", "doubt", said, run.seed, log.file, tuple(generated[1])))


def _name(phase: str) -> str:
    return "adaptation before quantization" if phase == phases.ADAPTATION else phase


def _scoring(submission: Submission, run: Run) -> None:
    if run.score is None:
        return
    own, limit = run.score.seconds, time_budget.SECONDS
    if own is not None:
        text = f"the pass that scores takes {own:.1f} s"
        if own <= limit:
            submission.findings.append(Finding("evaluation", "pass", text, run.seed, run.log.file, (run.score.line,)))
        elif own <= limit + OVERSHOOT_SECONDS:
            submission.findings.append(
                Finding(
                    "evaluation",
                    "doubt",
                    f"{text}: {own - limit:.1f} s over, less than the field has sent back",
                    run.seed,
                    run.log.file,
                    (run.score.line,),
                )
            )
        else:
            submission.findings.append(
                Finding("evaluation", "fail", f"{text}: {own:.1f} s of {limit}", run.seed, run.log.file, (run.score.line,))
            )
            return
    together = max((seconds for seconds in (run.log.eval_seconds, run.log.total_eval_seconds) if seconds is not None), default=None)
    if together is not None and together > limit:
        text = f"all passes over the artifact take {together:.1f} s together; whether diagnostics count was never ruled"
        submission.findings.append(Finding("evaluation", "doubt", text, run.seed, run.log.file))
    elif own is None and together is not None:
        submission.findings.append(Finding("evaluation", "pass", f"evaluation takes {together:.1f} s", run.seed, run.log.file))
