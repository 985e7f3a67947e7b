"""Where README, launch line, code and log disagree. None of it is proof; each disagreement is shown with the places where it was read.

README     numbers beside the name of a setting         launch line     NAME=value
code       the default of a setting                     log             the value that ran
"""

import re

from stages.audit.code.settings import UNKNOWN, number
from stages.audit.submission import runs
from stages.audit.submission.findings import Finding, Submission
from stages.audit.submission.stated import number as claimed_number

PER_RUN = re.compile(r"seed|path|dir$|file|run_id|port$|host|id$|name|world|^(local_)?rank$|date|nproc|data|vocab|time|log", re.IGNORECASE)
STATED = (
    r"`?\b{name}\b`?(?:\*\*)? ?(?:=|:|\||is|of|to|by default|defaults to|default of|\(default|at|"
    r"→)? ?(?:default )?(?:of |to |is |\(|\|)* ?`?(-?\d+(?:\.\d+)?(?:e-?\d+)?|\.\d+)\b"
)
OFF = re.compile(r"threshold|thr$", re.IGNORECASE), re.compile(r"boost|scale|weight|strength|beta", re.IGNORECASE)
EXPERT = re.compile(r"ngram|hint|within|word|expert|tilt", re.IGNORECASE)
LEARNED = re.compile(
    r"(learn\w*|trained|trainable|adapt\w*)[^.\n]{0,60}\bcaps?\b|\bcaps?\b[^.\n]{0,60}(learn\w*|trained|trainable|adapt\w*)", re.IGNORECASE
)
MOST = 12


def check(submission: Submission, readme: str, launched: dict[str, str], defaults: dict[str, object]) -> None:
    found: list[Finding] = []
    values, places = _logged(submission)
    found += _readme(readme, values, places, defaults)
    found += _launch(values, places, launched, defaults)
    found += _switched_off(submission, values, places, launched)
    found += _hints(submission, readme)
    found += _accepted(submission)
    submission.findings += found[:MOST]


def _logged(submission: Submission) -> tuple[dict[str, float], dict[str, tuple[str, int]]]:
    """Numbers of settings that all logs agree on, and where they stand."""
    values: dict[str, float] = {}
    places: dict[str, tuple[str, int]] = {}
    dropped: set[str] = set()
    for log in submission.logs:
        for name, text in log.settings.items():
            value = number(text.rstrip(",;"))
            if value is UNKNOWN or PER_RUN.search(name) or values.get(name, value) != value:
                dropped.add(name)
            values[name] = value
            places[name] = log.file, log.setting_lines[name]
    return {name: value for name, value in values.items() if name not in dropped}, places


def _readme(readme: str, values: dict, places: dict, defaults: dict) -> list[Finding]:
    """A number beside a setting's own name in the README, against the value that ran and the default of the code."""
    found = []
    plain = readme[:200_000]
    for name in list(values)[:400]:
        if len(name) < 6 or "_" not in name:
            continue
        spelled = re.escape(name).replace("_", "[_ -]")
        stated = [float(text) for text in re.findall(STATED.replace("{name}", spelled), plain, re.IGNORECASE)]
        if not stated or any(_equal(value, values[name]) for value in stated):
            continue
        default = defaults.get(name, UNKNOWN)
        code = f", the code's default is {default}" if default is not UNKNOWN else ""
        text = f"the README says {name} {stated[0]:g}{code}, and the log says {values[name]:g}"
        found.append(Finding("texts", "doubt", text, file=places[name][0], lines=(places[name][1],)))
    return found


def _launch(values: dict, places: dict, launched: dict[str, str], defaults: dict) -> list[Finding]:
    """A launch line against the log, and a logged value that neither the launch line nor the code has."""
    found = []
    for name, ran in values.items():
        line = launched.get(name.upper())
        if line is not None:
            value = number(line)
            if value is not UNKNOWN and not _equal(value, ran):
                text = f"the launch line says {name.upper()}={line}, and the log says {ran:g}"
                found.append(Finding("texts", "doubt", text, file=places[name][0], lines=(places[name][1],)))
        elif launched and (default := number(defaults.get(name, UNKNOWN))) is not UNKNOWN and not _equal(default, ran):
            text = f"the log says {name} {ran:g}, where the code's default is {default:g} and the launch line does not set it"
            found.append(Finding("texts", "doubt", text, file=places[name][0], lines=(places[name][1],)))
    return found


def _switched_off(submission: Submission, values: dict, places: dict, launched: dict[str, str]) -> list[Finding]:
    """Experts that a threshold or a factor switches off, and whose tables are nevertheless built."""
    everything = {name.lower(): number(value) for name, value in launched.items()} | values
    off = [
        name
        for name, value in everything.items()
        if EXPERT.search(name)
        and value is not UNKNOWN
        and ((OFF[0].search(name) and value >= 1.0 and not isinstance(value, bool)) or (OFF[1].search(name) and value == 0))
    ]
    if not off:
        return []
    seconds = [(log, log.seconds["hints"]) for log in submission.logs if "hints" in log.seconds]
    took = f"; the hints take {seconds[0][1][0]:.1f} s" if seconds else ""
    file, line = places.get(off[0], ("", 0))
    names = ", ".join(f"{name} {everything[name]:g}" for name in off[:4])
    text = f"experts that can never fire are switched off by their values ({names}) and are still part of the run{took}"
    return [Finding("texts", "doubt", text, file=file, lines=(line,) if line else ())]


def _hints(submission: Submission, readme: str) -> list[Finding]:
    """What code or log shows and the README tells otherwise."""
    found = []
    for hint in submission.hints:
        if hint.kind == "parameter without gradient" and LEARNED.search(readme) and "cap" in hint.text:
            found.append(Finding("texts", "doubt", f"the README speaks of caps that are learned; {hint.where}: {hint.text}"))
    if re.search(r"awq", readme, re.IGNORECASE):
        for log in submission.logs:
            for kind, line, text in log.statements:
                if kind == "awq group":
                    said = f'the README speaks of AWQ columns; the group that was chosen lies in the embedding: "{text}"'
                    return [*found, Finding("texts", "doubt", said, log.seed, log.file, (line,))]
    return found


def _accepted(submission: Submission) -> list[Finding]:
    """A folder whose claim is not the score that was accepted, for example a later version."""
    claimed = claimed_number(submission.claims, *runs.SCORES)
    if claimed is None or not submission.ruling or not submission.ruling.score:
        return []
    accepted, digits = float(submission.ruling.score), len(submission.ruling.score.partition(".")[2])
    if abs(claimed - accepted) <= 10.0**-digits:
        return []
    text = f"submission.json claims {claimed}, and {submission.ruling.score} was accepted: another version of this folder"
    return [Finding("texts", "doubt", text, file="submission.json")]


def _equal(one: float, other: float) -> bool:
    return abs(float(one) - float(other)) <= 1e-9 * max(1.0, abs(float(one)))
