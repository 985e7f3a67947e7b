"""Which logs belong to which training run, and which pass of them gave the claimed score.

A seed comes from a log's own line, from its file name, or from the score that submission.json has for a seed, in this order. Every log of a
seed is kept: a rerun, or an evaluation in a log of its own. The pass of a run is the one whose value and name fit the claim, not the last.
"""

from stages.audit.submission.findings import Run
from stages.audit.submission.logs.log import DIAGNOSTIC, Log, Pass
from stages.audit.submission.stated import decimals, field, number

RESULTS = ("seed_results", "results", "per_seed", "per_seed_results", "seeds", "runs", "seed_scores")
SCORES = (
    "val_bpb",
    "bpb",
    "score",
    "mean_val_bpb",
    "val_bpb_mean",
    "mean_bpb",
    "final_val_bpb",
    "val_bpb_exact",
    "ttt_val_bpb",
    "post_ttt_val_bpb",
)
DECIMALS = 2  # of a claim, at least; it differs from its log by no more than 0.005
COUNTS = ("num_seeds", "n_seeds", "seed_count", "number_of_seeds", "num_runs", "n_runs", "seeds")


def per_seed(claims: dict) -> dict[int, dict]:
    """The results by seed in submission.json, under any of the forms in use."""
    for name in RESULTS:
        value = field(claims, name)[1]
        found = {}
        if isinstance(value, dict):
            for key, entry in value.items():
                digits = str(key).lower().removeprefix("seed").removeprefix("s").strip("_- ")
                if digits.isdecimal() and len(digits) < 13:
                    found[int(digits)] = entry if isinstance(entry, dict) else {"val_bpb": entry}
        elif isinstance(value, list):
            for entry in value[:100]:
                if isinstance(entry, dict) and (seed := number(entry, "seed")) is not None:
                    found[int(seed)] = entry
        if found:
            return found
    return {}


def seeds(claims: dict) -> list[int]:
    """The seeds that submission.json names."""
    listed = field(claims, "seeds")[1]
    named = [int(seed) for seed in listed[:100] if isinstance(seed, int) and not isinstance(seed, bool)] if isinstance(listed, list) else []
    return list(dict.fromkeys([*per_seed(claims), *named]))


def count(claims: dict) -> int:
    """How many seeds submission.json names or counts."""
    counted = [value for name in COUNTS if isinstance(value := field(claims, name)[1], int) and not isinstance(value, bool)]
    return max(len(seeds(claims)), *(value for value in counted if 0 < value <= 100), 0)


def fits(claimed: float, run: Pass) -> bool:
    """Whether a claim is a pass's value, rounded or cut to as many digits as the coarser of the two has. At least two decimals of the
    claim count: rounded to a whole number, every score of the field would be 1."""
    digits = decimals(claimed)
    half = max(0.5 * 10.0 ** -max(digits, DECIMALS), run.bits_slack) * (1 + 1e-9) + 1e-12
    cut = 0 <= run.bits_per_byte - claimed < 10.0**-digits and digits >= 4
    return abs(run.bits_per_byte - claimed) <= half or cut


def best_fit(claimed: float, logs: list[Log]) -> tuple[Pass, Log] | None:
    """The pass with the claimed value: rather one over the packed artifact than a diagnostic, rather a sharper and later one."""
    fitting = [(run, log) for log in logs for run in log.passes if run.is_number and fits(claimed, run)]
    return max(
        fitting, key=lambda pair: (not DIAGNOSTIC.search(pair[0].name), pair[0].packed, -pair[0].bits_slack, pair[0].line), default=None
    )


def of(logs: list[Log], claims: dict) -> list[Run]:
    """The runs of a folder, by seed, then by file."""
    entries = per_seed(claims)
    groups: dict[object, list[Log]] = {}
    loose = []
    for log in logs:
        if log.seed is not None:
            groups.setdefault(log.seed, []).append(log)
        else:
            loose.append(log)
    for log in loose:
        seed = next(
            (
                seed
                for seed, entry in entries.items()
                if seed not in groups
                and (claimed := number(entry, *SCORES)) is not None
                and decimals(claimed) >= 4
                and best_fit(claimed, [log])
            ),
            None,
        )
        same = next((key for key, found in groups.items() if log.score and any(_copies(log, other) for other in found)), None)
        key = seed if seed is not None else same if same is not None else log.file
        if seed is None and same is None and not log.score and len(groups) == 1:
            key = next(iter(groups))
        groups.setdefault(key, []).append(log)
        if isinstance(key, int):
            log.seed = key
    if len(groups) == 2 and all(isinstance(key, str) for key in groups):  # one run's training and its evaluation, each in a log
        first, second = groups.values()
        if bool(first[0].score) != bool(second[0].score):
            groups = {next(iter(groups)): first + second}
    runs = []
    alone = number(claims, *SCORES) if len(groups) == 1 else None
    for key, found in groups.items():
        seed = key if isinstance(key, int) else None
        run = Run(seed, sorted(found, key=lambda log: log.file))
        run.claimed = number(entries.get(seed, {}), *SCORES) if seed is not None else None
        claimed = run.claimed if run.claimed is not None else alone
        fitting = best_fit(claimed, run.logs) if claimed is not None else None
        if fitting:
            run.score, run.log, run.is_claimed = *fitting, True
        else:
            scored = [log for log in run.logs if log.score]
            run.log = max(scored, key=lambda log: (log.score.packed, run.logs.index(log)), default=None)
            run.score = run.log.score if run.log else None
        runs.append(run)
    _count(runs, claims, entries)
    return sorted(runs, key=lambda run: (run.seed is None, run.seed or 0, run.logs[0].file))


def _count(runs: list[Run], claims: dict, entries: dict[int, dict]) -> None:
    """Which runs the folder claims: the seeds that it names, or the one run that has its score. If that tells nothing, all of them."""
    named = set(seeds(claims))
    chosen = [run for run in runs if run.seed in named or (run.is_claimed and entries)]
    if not named:
        claimed = number(claims, *SCORES)
        fitting = [run for run in runs if claimed is not None and decimals(claimed) >= 5 and best_fit(claimed, run.logs)]
        chosen = fitting if len(fitting) == 1 else []
    for run in runs:
        run.counts = not chosen or run in chosen


def _copies(one: Log, other: Log) -> bool:
    """Whether two logs tell of the same run: the same passes to the last digit."""
    values = [[(run.bits_per_byte, run.loss_nats) for run in log.passes] for log in (one, other)]
    return bool(values[0]) and values[0] == values[1] and one.score.bits_slack < 1e-5
