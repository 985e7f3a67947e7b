"""Audit one published folder: compare README, submission.json, logs and scripts with each other and with the rules.

    implied bytes = loss N / (ln 2 · bpb)          loss nats per token, N targets, bpb bits per byte

The log alone determines the bytes that the score was divided by. They are compared with the known totals of the contest's val split; the
known mistakes in published counts are recognised by the ratio. A finding is pass, fail, doubt or unknown. Only arithmetic on what
the folder states can give a fail; hints from the code never do.
Source of the totals: reference of the referee, §1.3 and §1.5.
"""

import json
import re
import statistics
from pathlib import Path

from stages.audit import reading
from stages.audit.checks.self_contained import MIB_BYTES
from stages.audit.submission import byte_counts, logs, unpack
from stages.audit.submission.findings import Finding, Submission, decimals, number
from stages.lib.blob.counted import CAP_BYTES
from stages.lib.referee import time_budget
from stages.lib.referee.significance import LEVEL, MARGIN_NATS, one_sample

OVERSHOOT_SECONDS = 1.0  # the last step may end after the cap: 600.2 s were accepted, 602.0 s were sent back (#1945)
FILE_BYTES, FILES = 64 << 20, 5_000


def audit(folder: Path, *, record: float | None = None) -> Submission:
    """Audit the files of `folder`. `record` (bits per byte) adds the significance test over seeds. ValueError if it is no submission."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name a submission's folder, such as records/track_10min_16mb/<date>_<name>")
    files = _files(folder)
    claims = _claims(files.get("submission.json"))
    found = [
        log
        for name, path in files.items()
        if path.suffix in (".log", ".txt") and path.name != "requirements.txt"
        for log in [logs.parse(name, _text(path))]
        if log.passes or log.total_bytes
    ]
    if not claims and not found:
        raise ValueError(f"{folder} has neither a submission.json nor a log with a val_bpb; name the folder of one submission")
    submission = Submission(folder, claims, sorted(_of_the_score(found), key=lambda log: (log.seed is None, log.seed or 0, log.file)))
    readme = _text(files["README.md"]) if "README.md" in files else ""
    for part in (_size, byte_counts.check, _claimed, _seeds, _lineage, _time):
        part(submission, readme)
    _code(submission, files)
    if record is not None:
        _significant(submission, record)
    return submission


def _files(folder: Path) -> dict[str, Path]:
    """Regular files by their path in the folder; links are not followed, so nothing outside the folder is read."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or any(part.is_symlink() for part in path.parents if folder in part.parents):
            continue
        found[str(path.relative_to(folder))] = path
        if len(found) > FILES:
            raise ValueError(f"{folder} has more than {FILES:,} files; name the folder of one submission")
    return found


def _text(path: Path) -> str:
    if path.stat().st_size > FILE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than a log or a script has ({FILE_BYTES:,}); move it away")
    return path.read_text(encoding="utf-8", errors="replace")


def _claims(path: Path | None) -> dict:
    if path is None:
        return {}
    try:
        claims = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); mend it") from None
    if not isinstance(claims, dict):
        raise ValueError(f"{path} is no JSON object; mend it")
    return claims


def _of_the_score(found: list[logs.Log]) -> list[logs.Log]:
    """One log per seed: if a seed has several logs, one that packed an artifact, and of these the last by name."""
    best: dict[object, logs.Log] = {}
    for log in found:
        key = log.seed if log.seed is not None else log.file
        if key not in best or (log.total_bytes is not None) >= (best[key].total_bytes is not None):
            best[key] = log
    return list(best.values())


def _per_seed(submission: Submission) -> dict[int, dict]:
    """The results by seed in submission.json, under any of the key names in use."""
    results = next(
        (submission.claims[name] for name in ("seed_results", "results", "per_seed") if isinstance(submission.claims.get(name), dict)), {}
    )
    return {int(seed): entry for seed, entry in results.items() if str(seed).isdecimal() and isinstance(entry, dict)}


def _size(submission: Submission, readme: str) -> None:
    """Compare every stated size with 16,000,000 decimal bytes."""
    sizes = {(log.seed, log.file): log.total_bytes for log in submission.logs if log.total_bytes}
    sizes |= {
        (seed, "submission.json"): number(entry, "artifact_bytes", "bytes_total", "total_bytes")
        for seed, entry in _per_seed(submission).items()
    }
    sizes[None, "submission.json"] = number(submission.claims, "bytes_total", "artifact_bytes_max", "artifact_bytes")
    stated = {key: int(size) for key, size in sizes.items() if size}
    if not stated:
        submission.findings.append(Finding("size", "unknown", "no size of the artifact is stated"))
        return
    for (seed, file), size in stated.items():
        if size > CAP_BYTES:
            confused = "; it would fit into 16 MiB (16,777,216), but MB are decimal here" if size <= MIB_BYTES else ""
            submission.findings.append(
                Finding("size", "fail", f"{size:,} bytes ({file}), {size - CAP_BYTES:,} above 16,000,000{confused}", seed)
            )
    if max(stated.values()) <= CAP_BYTES:
        submission.findings.append(Finding("size", "pass", f"at most {max(stated.values()):,} of 16,000,000 bytes"))
    if re.search(r"16,?777,?216|\b16(\.0+)? ?MiB", readme):
        submission.findings.append(Finding("size", "doubt", "the README speaks of 16 MiB; the cap is 16,000,000 bytes, 777,216 fewer"))


def _claimed(submission: Submission, readme: str) -> None:
    """Compare submission.json with the logs."""
    entries = _per_seed(submission)
    for log in submission.logs:
        claimed = number(entries.get(log.seed, {}), "val_bpb", "bpb") if log.seed is not None else None
        if claimed is None or not log.score:
            continue
        half = 0.5 * 10.0 ** -min(decimals(claimed), log.score.bits_digits) + 1e-12
        if any(abs(run.bits_per_byte - claimed) <= half for run in log.passes):
            continue
        submission.findings.append(
            Finding(
                "claims",
                "fail",
                f"submission.json says {claimed} bits per byte, {log.file} "
                f"{log.score.bits_per_byte} ({log.score.name}): the log is of another run",
                log.seed,
            )
        )
    claimed = number(submission.claims, "val_bpb")
    if claimed is not None and submission.scores and not entries:
        half = 0.5 * 10.0 ** -decimals(claimed) + 1e-9
        every = [run.bits_per_byte for log in submission.logs for run in log.passes]
        if not any(abs(value - claimed) <= half for value in [statistics.fmean(submission.scores), *every]):
            submission.findings.append(
                Finding(
                    "claims",
                    "fail",
                    f"submission.json says {claimed} bits per byte, no log has that score and "
                    f"their mean is {statistics.fmean(submission.scores):.5f}",
                )
            )
    if not any(finding.check == "claims" for finding in submission.findings):
        compared = claimed is not None and submission.scores
        submission.findings.append(
            Finding(
                "claims",
                "pass" if compared else "unknown",
                "submission.json agrees with the logs" if compared else "submission.json or a log with a score is missing",
            )
        )


def _seeds(submission: Submission, readme: str) -> None:
    count = len({log.seed for log in submission.logs if log.score})
    text = f"{count} log{'s' * (count != 1)} with a score"
    if count >= 3:
        submission.findings.append(
            Finding(
                "seeds",
                "pass",
                f"{text}: mean {statistics.fmean(submission.scores):.6f}, s.d. {statistics.stdev(submission.scores):.6f} bits per byte",
            )
        )
    else:
        submission.findings.append(
            Finding(
                "seeds",
                "doubt" if count else "unknown",
                f"{text}; a record needs three seeds of one configuration, and from one nothing can be said",
            )
        )
    configured = {log.val_tokens for log in submission.logs if log.val_tokens}
    if len(configured) > 1:
        submission.findings.append(
            Finding(
                "seeds",
                "fail",
                "the seeds were scored on different numbers of tokens "
                f"({', '.join(f'{tokens:,}' for tokens in sorted(configured))}): not one configuration (#2124)",
            )
        )
    shards = {log.train_shards for log in submission.logs if log.train_shards}
    if any(count > 1_000 for count in shards):
        submission.findings.append(
            Finding(
                "overlap",
                "doubt",
                f"{max(shards)} train shards: as many as a local preparation makes that "
                "holds out 10,000 documents only, so that most of val was trained on (#2127)",
            )
        )


def _lineage(submission: Submission, readme: str) -> None:
    """Report an adaptation before quantization that the log times; only the code tells on which split it ran."""
    for log in submission.logs:
        if log.adapted_seconds:
            submission.findings.append(
                Finding(
                    "lineage",
                    "doubt",
                    f"the weights were adapted for {log.adapted_seconds:.1f} s before they "
                    "were quantized; on the val split, as in every published run, that is ruled out",
                    log.seed,
                )
            )


def _time(submission: Submission, readme: str) -> None:
    """Check 600 s for making the artifact and 600 s for scoring, which are judged only on eight H100."""
    claimed, seen = str(submission.claims.get("hardware", "")), sorted({gpu for log in submission.logs for gpu in log.gpus})
    worlds = {log.world_size for log in submission.logs if log.world_size}
    eight = re.compile(r"\b8\s*[x×*]\s*(NVIDIA\s+)?H100", re.IGNORECASE)
    is_eight = bool(eight.search(claimed) or (not claimed and eight.search(readme))) and worlds <= {8} and (not seen or "H100" in seen)
    if not is_eight:
        submission.findings.append(
            Finding(
                "time",
                "unknown",
                f"not shown to be eight H100 (stated: {claimed or 'nothing'}; in the logs: {', '.join(seen) or 'nothing'}, "
                f"{', '.join(map(str, sorted(worlds))) or 'unknown'} processes): times of another machine show nothing",
            )
        )
        return
    for log in submission.logs:
        if log.making_seconds is not None:
            parts = [f"training {log.train_seconds:.1f} s"] + [
                f"{name} {seconds:.1f} s"
                for name, seconds in (("adaptation before quantization", log.adapted_seconds), ("calibration", log.calibrated_seconds))
                if seconds
            ]
            submission.findings.append(_budget("training", log.making_seconds, ", ".join(parts), log.seed))
        if log.score_seconds is not None:
            submission.findings.append(
                _budget("evaluation", log.score_seconds, f"the pass that scores takes {log.score_seconds:.1f} s", log.seed)
            )
            if (log.eval_seconds or 0) > time_budget.SECONDS >= log.score_seconds:
                submission.findings.append(
                    Finding(
                        "evaluation",
                        "doubt",
                        f"all passes over the artifact take {log.eval_seconds:.1f} s together; whether diagnostics count was never ruled",
                        log.seed,
                    )
                )
    if not any(finding.check in ("training", "evaluation") for finding in submission.findings):
        submission.findings.append(Finding("time", "unknown", "no log states its times"))


def _budget(check: str, seconds: float, text: str, seed: int | None) -> Finding:
    if seconds <= time_budget.SECONDS:
        return Finding(check, "pass", text, seed)
    if seconds <= time_budget.SECONDS + OVERSHOOT_SECONDS:
        return Finding(check, "pass", f"{text}: over by the last step, which the field lets pass", seed)
    return Finding(check, "fail", f"{text}: {seconds:.1f} s of {time_budget.SECONDS}", seed)


def _code(submission: Submission, files: dict[str, Path]) -> None:
    """Unpack and read every script; compare the main one's size with what the logs counted."""
    for name, path in files.items():
        if path.suffix != ".py":
            continue
        layers, unread = unpack.layers(name, _text(path))
        submission.hints += [hint for layer in layers for hint in reading.hints(layer.name, layer.tree)]
        submission.findings += [Finding("code", "doubt", sentence) for sentence in unread]
        if len(layers) > 1:
            submission.findings.append(
                Finding(
                    "code",
                    "pass",
                    f"{name} ({path.stat().st_size:,} bytes) unpacks to {layers[-1].name}, "
                    f"{len(layers[-1].source):,} characters, which were read and not run",
                )
            )
    scripts = [path for name, path in files.items() if path.name == "train_gpt.py"]
    counted = {size for log in submission.logs for size in log.code_bytes}
    if scripts and counted and not any(path.stat().st_size in counted for path in scripts):
        sizes = ", ".join(f"{size:,}" for size in sorted(counted))
        submission.findings.append(
            Finding(
                "code",
                "doubt",
                f"train_gpt.py has {scripts[0].stat().st_size:,} bytes, the logs counted "
                f"{sizes}: not the script that ran, or a packed form",
            )
        )
    if not any(path.suffix == ".py" for path in files.values()):
        submission.findings.append(Finding("code", "unknown", "there is no script to read"))


def _significant(submission: Submission, record: float) -> None:
    """Test the scores against the record; the margin of 0.005 nats per token is converted with this submission's own bytes per token."""
    if not submission.scores:
        submission.findings.append(Finding("significance", "unknown", "no log has a score"))
        return
    score = next(log.score for log in submission.logs if log.score)
    margin = MARGIN_NATS * score.bits_per_byte / score.loss_nats
    submission.significance = one_sample(submission.scores, record, margin)
    p = submission.significance.p
    verdict = "unknown" if p is None else "pass" if p < LEVEL else "doubt"
    submission.findings.append(Finding("significance", verdict, submission.significance.sentence))
