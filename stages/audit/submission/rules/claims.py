"""Compare submission.json with every log: top-level figures and figures per seed, the claim's own pass, seeds that have no log."""

import statistics

from stages.audit.submission import runs
from stages.audit.submission.findings import Finding, Run, Submission, decimals, number
from stages.audit.submission.logs.log import DIAGNOSTIC, Log
from stages.audit.submission.rules.sizes import SIZES

FAR = 0.0005  # bits per byte between a claim and every pass, above which it is no slip of digits
ABSURD, UNHEARD_OF = 0.01, 0.85  # bits per byte; the best accepted score of the contest is 1.0565 (#2135)


def check(submission: Submission) -> None:
    for name in (*runs.SCORES, *SIZES, "val_loss"):
        value = submission.claims.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and number(submission.claims, name) is None:
            _note(submission, "doubt", f"{name} of submission.json is no number that can be believed", file="submission.json")
    entries, found = runs.per_seed(submission.claims), len(submission.findings)
    by_seed = {run.seed: run for run in submission.runs if run.seed is not None}
    scored = [run for run in submission.runs if run.score and run.score.is_number]
    for seed in runs.seeds(submission.claims):
        if seed not in by_seed or not by_seed[seed].score:
            if len(scored) >= len(runs.seeds(submission.claims)) and any(run.seed is None for run in scored) and seed not in entries:
                continue  # the logs do not name their seeds, but there is one for each
            _note(submission, "doubt", "submission.json claims this seed, and no log has a score of it", seed)
    for seed, entry in entries.items():
        claimed, run = number(entry, *runs.SCORES), by_seed.get(seed)
        if claimed is not None and run is not None and run.score:
            _one(submission, claimed, run)
    _top(submission, entries, scored)
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
        _note(
            submission,
            "pass" if compared else "unknown",
            "submission.json agrees with the logs" if compared else "submission.json or a log with a score is missing",
        )
    _scores(submission)


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
    _note(
        submission,
        "fail" if better or far else "doubt",
        f"{said}: no pass has the claimed value, so the log is of another run",
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


def _top(submission: Submission, entries: dict[int, dict], scored: list[Run]) -> None:
    """The figure for the whole folder: a mean of the seeds, or one pass."""
    claimed = number(submission.claims, *runs.SCORES)
    if claimed is None:
        return
    unit = 10.0 ** -max(decimals(claimed), 3)
    listed = [value for entry in entries.values() if (value := number(entry, *runs.SCORES)) is not None]
    means = [statistics.fmean(listed)] if listed else []
    every = [one for log in submission.logs for one in log.passes if one.is_number]
    if scored:
        values = [run.score.bits_per_byte for run in scored]
        means += [statistics.fmean(values), statistics.median(values)]
        chosen = [run.score.bits_per_byte for run in scored if run.is_claimed]
        means += [statistics.fmean(chosen)] if chosen else []
        for name in {one.name for one in every}:  # the mean of another pass of all seeds
            same = [
                next((one.bits_per_byte for log in run.logs for one in log.passes if one.name == name and one.is_number), None)
                for run in scored
            ]
            if None not in same:
                means.append(statistics.fmean(same))
    # rounded, cut, or a mean of rounded scores
    if any(-0.51 * unit <= mean - claimed < unit for mean in means) or any(runs.fits(claimed, one) for one in every):
        return
    if not scored and not listed:
        return
    if stands := _figure(claimed, submission.logs):
        text = f"the claimed {claimed} stands in {stands[0]}, in a line that is not read as a score"
        _note(submission, "doubt", text, None, stands[0], (stands[1],))
        return
    best = min([one.bits_per_byte for one in every] or listed)
    nearest = min(means, key=lambda mean: abs(mean - claimed)) if means else best
    text = (
        f"submission.json says {claimed} bits per byte as a whole; no log has that score, and the nearest mean over seeds is {nearest:.6g}"
    )
    _note(submission, "fail" if claimed < best else "doubt", text)


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
