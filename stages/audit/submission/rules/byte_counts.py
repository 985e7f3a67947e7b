"""The bytes that a score was divided by, from its loss and its bits per byte: bytes = loss · targets / (ln 2 · bits per byte)."""

import math
from dataclasses import replace

from stages.audit.submission.findings import Finding, Run, Submission
from stages.audit.submission.logs.log import Pass
from stages.audit.submission.stated import decimals, number
from stages.lib.text.accounting import VAL_BYTES, VAL_TOLERANCE

OWN_TEXT = "own_text"  # the track of a submission that is scored on another text than the contest's
OLDER_BYTES = 155_363_000  # of the export of March: 63,779,840 targets with the bytes per token of sp1024
LONGEST_ROW = 4096  # tokens that a loader may drop at the end of the split, if its rows are not known to be longer
ROWS = 1 << 17  # tokens of the longest row that is believed
SHARP = 0.005  # relative error above which an implied number of bytes says nothing
BYTES_PER_TOKEN = 3.8  # at most, in the contest's vocabularies
EXPORTS = {  # targets -> bytes of their text
    62_021_845: VAL_BYTES,
    62_021_632: 151_080_363,
    45_508_608: 151_074_052,
    40_540_802: VAL_BYTES,
    40_540_160: 151_078_222,
    47_853_343: VAL_BYTES,
    47_851_520: 151_074_499,
}
WRONG_COUNTS = (  # (wrong count / right count, the mistake that gives this ratio)
    (1.1671, "leading blanks are counted twice (#1698, #1734)"),
    (1.1770, "leading blanks are counted twice (#1698, #1734)"),
    (1.0413, "byte-fallback pieces count three bytes (#1143, #1184)"),
    (1.0895, "piece tables are applied to CaseOps ids instead of the sidecar"),
)
TAIL_TARGETS, TAIL_BYTES = 31 * 64, 31 * 143  # early lists of windows score the last 64 targets of sp1024 32 times


def check(submission: Submission) -> None:
    """Check the identity for every run that states its tokens, and for submission.json by the ratio of its loss and bits per byte."""
    own = submission.claims.get("track") == OWN_TEXT
    checked = False
    for run in submission.runs:
        tokens, log = run.first("val_tokens")
        score = run.score
        if score is None or not score.is_number or not tokens:
            continue
        if score.loss_nats is None or not math.isfinite(score.loss_nats) or score.loss_nats <= 0:
            # the claimed pass has no loss: the last pass that has one shows what this run divided by
            score = next(
                (one for one in reversed(run.log.passes) if one.loss_nats and one.is_number and math.isfinite(one.loss_nats)), None
            )
            if score is None:
                continue
        if own:
            submission.findings.append(_of_own_text(run, score, tokens, number(submission.claims, "val_bytes")))
        else:
            finding = _implied(run, score, tokens, log.sequence_length)
            if finding.verdict == "fail" and not run.counts:
                finding = replace(finding, verdict="doubt", text=f"{finding.text}; a run that is not claimed")
            submission.findings.append(finding)
        checked = True
    for log in [] if own else submission.logs:
        if log.val_bytes and log.val_bytes > VAL_BYTES * (1 + VAL_TOLERANCE):
            text = f"the log counts {log.val_bytes:,} bytes, where the val split has {VAL_BYTES:,}"
            submission.findings.append(Finding("bytes", "doubt", text, log.seed, log.file, (log.lines["val_bytes"],)))
    if not own:
        _stated(submission, checked)


def _stated(submission: Submission, checked: bool) -> None:
    """The ratio of submission.json's own loss and bits per byte."""
    loss, bits = number(submission.claims, "val_loss"), number(submission.claims, "val_bpb")
    if loss and bits and loss > 0 and bits > 1e-3:
        ratio = loss / math.log(2) / bits
        slack = ratio * (10.0 ** -decimals(loss) / loss + 10.0 ** -decimals(bits) / bits) / 2
        known = ", ".join(sorted({f"{total / targets:.5f}" for targets, total in EXPORTS.items()}))
        if slack > SHARP * ratio:
            text, verdict = "submission.json's val_loss and val_bpb have too few digits to tell the bytes per token", "unknown"
        elif any(abs(total / targets - ratio) <= slack + 3e-5 for targets, total in EXPORTS.items()):
            text, verdict = f"{ratio:.5f} bytes per token, as a known export has; no log states how many tokens were scored", "unknown"
            if checked:
                return
        else:
            text, verdict = (
                f"submission.json's val_loss and val_bpb imply {ratio:.5f} bytes per token, which no known export has ({known})",
                "doubt",
            )
        submission.findings.append(Finding("bytes", verdict, text, file="submission.json"))
    elif not checked:
        submission.findings.append(Finding("bytes", "unknown", "neither a log nor submission.json has loss, tokens and bits per byte"))


def _bytes(score: Pass, targets: int) -> tuple[float, float]:
    """Implied bytes, and the error from the digits that are printed."""
    implied = score.loss_nats * targets / (math.log(2) * score.bits_per_byte)
    return implied, 2 + implied * (score.loss_slack / score.loss_nats + score.bits_slack / score.bits_per_byte)


def _of_own_text(run: Run, score: Pass, targets: int, stated: float | None) -> Finding:
    """For another text than the contest's, submission.json states the bytes. Its score cannot be compared with the contest's scores."""
    implied, _ = _bytes(score, targets)
    where = run.seed, run.log.file, (score.line,)
    if stated is None or abs(implied - stated) > 2 + 1e-4 * implied:
        said = f"{implied:,.0f} bytes over {targets:,} targets, where submission.json states {stated or 'nothing'} as val_bytes"
        return Finding("bytes", "fail", said, *where)
    said = f"{implied:,.0f} bytes, as submission.json states; a text of its own, so the score is none of the field's"
    return Finding("bytes", "doubt", said, *where)


def _implied(run: Run, score: Pass, targets: int, row: int | None) -> Finding:
    implied, slack = _bytes(score, targets)
    where = run.seed, run.log.file, (score.line,)
    if not math.isfinite(implied) or not math.isfinite(slack) or slack > SHARP * implied:
        return Finding(
            "bytes", "unknown", f"{score.name or 'the score'} has too few digits to tell the bytes that it was divided by", *where
        )
    said = f"{score.name or 'the score'}: {implied:,.0f} ± {slack:,.0f} bytes over {targets:,} targets"
    expected = EXPORTS.get(targets)
    if expected is not None:
        if abs(implied - expected) <= slack:
            return Finding("bytes", "pass", f"{said}, as this export of the val split has", *where)
        repeated = expected + TAIL_BYTES, targets + TAIL_TARGETS
        if abs(implied / targets - repeated[0] / repeated[1]) * targets <= slack + 4:
            return Finding("bytes", "doubt", f"{said}: as if the last 64 targets were scored 32 times, which was tolerated", *where)
    for ratio, why in WRONG_COUNTS:
        if abs(implied / VAL_BYTES / ratio - 1) < 2e-3:
            return Finding("bytes", "fail", f"{said}, {implied / VAL_BYTES:.4f} times those of the val split: {why}", *where)
    row = max(LONGEST_ROW, min(row or targets & -targets, ROWS))
    if VAL_BYTES - BYTES_PER_TOKEN * row - slack <= implied <= VAL_BYTES + slack:
        return Finding("bytes", "pass", f"{said}, within what a loader of rows of {row:,} may drop at the end of {VAL_BYTES:,}", *where)
    share = implied / VAL_BYTES
    if abs(implied / OLDER_BYTES - 1) < 5e-4:
        return Finding("bytes", "doubt", f"{said}, as an older and larger export of the val split has", *where)
    if any(abs(implied / targets / (total / known) - 1) < 2e-4 for known, total in EXPORTS.items()):
        what = "the bytes per token of a known export over another number of tokens, as of an older and larger export"
        if share > 1:
            return Finding("bytes", "doubt", f"{said}, {share:.4%} of the {VAL_BYTES:,} of the val split: {what}", *where)
    if share > 1:
        what = "more than the val split has, so the score is too low"
        return Finding("bytes", "fail", f"{said}, {share:.4%} of the {VAL_BYTES:,} of the val split: {what}", *where)
    if share > 0.95:
        what = "fewer than the val split has, as of another export; that makes the score higher and not lower"
        return Finding("bytes", "doubt", f"{said}, {share:.4%} of the {VAL_BYTES:,} of the val split: {what}", *where)
    return Finding(
        "bytes", "fail", f"{said}, {share:.4%} of the {VAL_BYTES:,} of the val split: a part of the val split was scored", *where
    )
