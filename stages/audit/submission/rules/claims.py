"""Compare submission.json with every log: top-level figures and figures per seed, the claim's own pass, seeds that have no log."""

import statistics

from stages.audit.submission import runs
from stages.audit.submission.findings import Finding, Run, Submission
from stages.audit.submission.logs.lines import seed_of
from stages.audit.submission.logs.log import DIAGNOSTIC, Log
from stages.audit.submission.rules.sizes import OF_A_MODEL, SIZES
from stages.audit.submission.stated import decimals, fields, number, read, shown, size

SEEDS = 3  # of a record
FAR = 0.0005  # bits per byte between a claim and every pass, above which it is no slip of digits
ABSURD, UNHEARD_OF = 0.01, 0.85  # bits per byte; the best accepted score of the contest is 1.0565 (#2135)


def check(submission: Submission) -> None:
    entries = runs.per_seed(submission.claims)
    unread = _unreadable(submission, entries)
    found = len(submission.findings)
    by_seed = {run.seed: run for run in submission.runs if run.seed is not None}
    scored = [run for run in submission.runs if run.score and run.score.is_number]
    named = runs.seeds(submission.claims)
    counted = [run for run in scored if run.counts]
    if len(counted) < runs.count(submission.claims):  # logs that do not name their seeds may be of the claimed ones
        counted += [run for run in scored if run.seed is None and run not in counted]
    missing = []
    for seed in named:
        if seed not in by_seed or not by_seed[seed].score:
            if len(counted) >= len(named) and any(run.seed is None for run in counted) and seed not in entries:
                continue  # the logs do not name their seeds, but there is one for each
            missing.append(seed)
            _note(submission, "doubt", f"submission.json claims this seed, and no log has a score of it{_skipped(submission, seed)}", seed)
    for seed, entry in entries.items():
        claimed, run = number(entry, *runs.SCORES), by_seed.get(seed)
        if claimed is not None and run is not None and run.score:
            _one(submission, claimed, run)
    _top(submission, entries, counted, _absent(submission, missing, counted))
    for run in submission.runs:
        for log in run.logs:
            if log.file_seed is not None and log.seed is not None and log.file_seed != log.seed:
                line = log.lines.get("seed", 0)
                _note(
                    submission,
                    "doubt",
                    f"{log.file} is named for seed {log.file_seed} and says seed {log.seed}",
                    log.seed,
                    log.file,
                    (line,),
                )
    if len(submission.findings) == found:
        compared = any(number(entry, *runs.SCORES) is not None for entry in (submission.claims, *entries.values())) and scored
        if compared:
            _note(submission, "pass", "submission.json agrees with the logs")
        elif not unread:
            _note(submission, "unknown", _why(submission, scored))
    _scores(submission)


def _unreadable(submission: Submission, entries: dict[int, dict]) -> bool:
    """Name the fields whose name is known and whose value is not a number; whether one of them is a score, which is then
    compared with nothing."""
    is_score = False
    for seed, entry in [(None, submission.claims), *list(entries.items())[:20]]:
        scores, all_sizes = fields(entry, *runs.SCORES, "val_loss"), fields(entry, *SIZES, *OF_A_MODEL)
        unread = [pair for pair in scores if read(pair[1]) is None]
        is_score |= bool(unread)
        unread += [pair for pair in all_sizes if size(*pair) is None]
        for name, value in unread:
            text = f"{name} of submission.json has the value {shown(value)}, which is no number that can be believed"
            _note(submission, "doubt", text, seed, "submission.json")
    return is_score


def _why(submission: Submission, scored: list[Run]) -> str:
    """Why nothing was compared."""
    if not scored:
        return "no log has a score that submission.json could be compared with"
    if not submission.claims:
        return "there is no submission.json that can be read, so the logs were compared with nothing"
    return "submission.json states no score under a name that is known here, such as val_bpb, so the logs were compared with nothing"


def _skipped(submission: Submission, seed: int) -> str:
    """The files that may be the log of a seed and were not read, as the end of a sentence."""
    own = _of_seed(submission, seed)
    others = [name for name in submission.skipped if seed_of(name) is None]
    said = ", ".join(f"{name} ({submission.skipped[name]})" for name in (own or others)[:3])
    return f"; not read: {said}" if said else ""


def _of_seed(submission: Submission, seed: int | None) -> list[str]:
    return [name for name in submission.skipped if seed is not None and seed_of(name) == seed]


def _absent(submission: Submission, missing: list[int], counted: list[Run]) -> str:
    """Which logs of the claimed seeds were not read, or an empty string. A mean that is below every log that was read may be right if the
    best log is not among them, so it proves nothing then."""
    if missing:
        return f"no log of seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing[:8]))} was read"
    if len(counted) < (expected := runs.count(submission.claims)):
        return f"submission.json counts {expected} seeds, and {len(counted)} of them have a log that was read"
    if submission.skipped and not expected:
        return f"{next(iter(submission.skipped))} was not read"
    return ""


def _note(submission: Submission, verdict: str, text: str, seed: int | None = None, file: str = "", lines: tuple = ()) -> None:
    submission.findings.append(Finding("claims", verdict, text, seed, file, tuple(line for line in lines if line)))


def _one(submission: Submission, claimed: float, run: Run) -> None:
    """The claim of one seed against all logs of the seed."""
    if run.is_claimed:
        if DIAGNOSTIC.search(run.score.name):
            _note(
                submission,
                "doubt",
                f'the claimed {claimed} is the pass "{run.score.name}", which is no score of the artifact',
                run.seed,
                run.log.file,
                (run.score.line,),
            )
        return
    elsewhere = runs.best_fit(claimed, submission.logs) if decimals(claimed) >= 5 else None
    if elsewhere:
        _note(
            submission,
            "doubt",
            f"the claimed {claimed} stands in {elsewhere[1].file}, which is a log of another seed",
            run.seed,
            elsewhere[1].file,
            (elsewhere[0].line,),
        )
        return
    if stands := _figure(claimed, run.logs):
        text = f"the claimed {claimed} stands in {stands[0]}, in a line that is not read as a score"
        _note(submission, "doubt", text, run.seed, stands[0], (stands[1],))
        return
    values = ", ".join(f"{log.score.bits_per_byte} ({log.score.name or 'last score'}, {log.file})" for log in run.logs if log.score)
    lowest = min((one.bits_per_byte for log in run.logs for one in log.passes if one.is_number), default=None)
    better = lowest is None or claimed < lowest
    far = min((abs(one.bits_per_byte - claimed) for log in run.logs for one in log.passes if one.is_number), default=1.0) > FAR
    said = f"submission.json says {claimed} bits per byte, the logs of the seed say {values}"
    unread = _of_seed(submission, run.seed)
    why = f"{unread[0]}, which was not read ({submission.skipped[unread[0]]}), may have it" if unread else "so the log is of another run"
    _note(
        submission,
        "fail" if (better or far) and not unread else "doubt",
        f"{said}: no pass has the claimed value, {why}",
        run.seed,
        run.log.file,
        (run.score.line,),
    )


def _figure(claimed: float, logs: list[Log]) -> tuple[str, int] | None:
    """Where a claim of enough digits stands in a log, in whatever form."""
    digits = decimals(claimed)
    if digits < 4:
        return None
    return next(((log.file, line) for log in logs for value, line in log.figures if abs(value - claimed) <= 0.5 * 10.0**-digits), None)


def _top(submission: Submission, entries: dict[int, dict], scored: list[Run], absent: str) -> None:
    """The figure for the whole folder: a mean of the claimed seeds, or one of their passes. `absent` says which of their logs were not
    read."""
    claimed = number(submission.claims, *runs.SCORES)
    if claimed is None:
        return
    unit = 10.0 ** -max(decimals(claimed), 3)
    listed = [value for entry in entries.values() if (value := number(entry, *runs.SCORES)) is not None]
    means = [statistics.fmean(listed)] if listed else []
    every = [one for run in scored for log in run.logs for one in log.passes if one.is_number]
    # a list of fewer seeds than a record needs is rather not the whole list
    groups = [scored] + ([[run for run in submission.runs if run.score and run.score.is_number]] if len(scored) < SEEDS else [])
    for group in filter(None, groups):
        means += _means(group)
    # rounded, cut, or a mean of rounded scores
    if any(-0.51 * unit <= mean - claimed < unit for mean in means) or any(runs.fits(claimed, one) for one in every):
        return
    if not scored and not listed:
        return
    if stands := _figure(claimed, submission.logs):
        text = f"the claimed {claimed} stands in {stands[0]}, in a line that is not read as a score"
        _note(submission, "doubt", text, None, stands[0], (stands[1],))
        return
    best = min([one.bits_per_byte for log in submission.logs for one in log.passes if one.is_number] or listed)
    nearest = min(means, key=lambda mean: abs(mean - claimed)) if means else best
    text = (
        f"submission.json says {claimed} bits per byte as a whole; no log has that score, and the nearest mean over seeds is {nearest:.6g}"
    )
    _note(submission, "fail" if claimed < best and not absent else "doubt", f"{text}; {absent}" if absent else text)


def _means(group: list[Run]) -> list[float]:
    """The means over runs that a claim may be: of their scores, of those that are claimed, or of another pass that all of them have."""
    values = [run.score.bits_per_byte for run in group]
    means = [statistics.fmean(values), statistics.median(values)]
    chosen = [run.score.bits_per_byte for run in group if run.is_claimed]
    means += [statistics.fmean(chosen)] if chosen else []
    passes = [{one.name: one.bits_per_byte for log in reversed(run.logs) for one in reversed(log.passes) if one.is_number} for run in group]
    for name in set.intersection(*map(set, passes)):
        means.append(statistics.fmean(found[name] for found in passes))
    return means


def _scores(submission: Submission) -> None:
    """Scores that are no scores: not a number, not positive, or below what any text can have."""
    for run in submission.runs:
        last = [log.passes[-1] for log in run.logs if log.passes]
        for log, one in zip([log for log in run.logs if log.passes], last, strict=True):
            if run.is_claimed or not run.counts:
                continue
            if not one.is_number:
                submission.findings.append(
                    Finding("score", "fail", f"the last score is {one.bits_per_byte}, which is no score", run.seed, log.file, (one.line,))
                )
        if run.score is None and last:
            continue
        if run.score and run.score.is_number and run.score.bits_per_byte < UNHEARD_OF and submission.track != "own_text":
            value = run.score.bits_per_byte
            verdict = "fail" if value < ABSURD else "doubt"
            text = (
                f"{value:g} bits per byte: at this score all of the val split would take "
                f"{value * 151_080_891 / 8:,.0f} bytes; the best accepted score is 1.0565"
            )
            submission.findings.append(
                Finding("score", verdict, text, run.seed, run.log.file, (run.score.line,), "impossible score" if verdict == "doubt" else "")
            )
