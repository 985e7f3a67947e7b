"""The bytes that a score was divided by, from its loss and its bits per byte: bytes = loss · targets / (ln 2 · bits per byte)."""

import math

from stages.audit.submission import logs
from stages.audit.submission.findings import Finding, Submission, decimals, number
from stages.lib.text.accounting import VAL_BYTES

OWN_TEXT = "own_text"  # the track of a submission that is scored on another text than the contest's
LONGEST_ROW = 4096  # tokens that a loader may drop at the end of the split
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
    (1.0895, "piece tables are applied to CaseOps ids instead of the sidecar"),
)
TAIL_TARGETS, TAIL_BYTES = 31 * 64, 31 * 143  # early lists of windows score the last 64 targets of sp1024 32 times


def check(submission: Submission, readme: str) -> None:
    """Check the identity for every log that states its tokens, and for submission.json by the ratio of its loss and bits per byte."""
    if submission.claims.get("track") == OWN_TEXT:
        submission.findings += [
            _of_own_text(log, number(submission.claims, "val_bytes")) for log in submission.logs if log.score and log.val_tokens
        ]
        return
    checked = False
    for log in submission.logs:
        if log.score and log.val_tokens:
            submission.findings.append(_implied(log.score, log.val_tokens, log.seed))
            checked = True
    loss, bits = number(submission.claims, "val_loss"), number(submission.claims, "val_bpb")
    if loss and bits:
        ratio = loss / math.log(2) / bits
        slack = ratio * (10.0 ** -decimals(loss) / loss + 10.0 ** -decimals(bits) / bits) / 2
        near = [targets for targets, total in EXPORTS.items() if abs(total / targets - ratio) <= slack + 3e-5]
        if not near:
            submission.findings.append(
                Finding(
                    "bytes",
                    "doubt",
                    f"submission.json's val_loss and val_bpb imply {ratio:.5f} bytes per token, which no known export has "
                    f"({', '.join(sorted({f'{total / targets:.5f}' for targets, total in EXPORTS.items()}))})",
                )
            )
        elif not checked:
            submission.findings.append(
                Finding(
                    "bytes", "unknown", f"{ratio:.5f} bytes per token, as a known export has; no log states how many tokens were scored"
                )
            )
    elif not checked:
        submission.findings.append(Finding("bytes", "unknown", "neither a log nor submission.json has loss, tokens and bits per byte"))


def _of_own_text(log: logs.Log, stated: float | None) -> Finding:
    """For another text than the contest's, submission.json states the bytes. Its score cannot be compared with the contest's scores."""
    implied = log.score.loss_nats * log.val_tokens / (math.log(2) * log.score.bits_per_byte)
    if stated is None or abs(implied - stated) > 2 + 1e-4 * implied:
        return Finding(
            "bytes",
            "fail",
            f"{implied:,.0f} bytes over {log.val_tokens:,} targets, where submission.json states {stated or 'nothing'} as val_bytes",
            log.seed,
        )
    return Finding(
        "bytes",
        "doubt",
        f"{implied:,.0f} bytes, as submission.json states; a text of its own, so the score is none of the field's",
        log.seed,
    )


def _implied(run: logs.Pass, targets: int, seed: int | None) -> Finding:
    implied = run.loss_nats * targets / (math.log(2) * run.bits_per_byte)
    slack = 2 + implied * (10.0**-run.loss_digits / run.loss_nats + 10.0**-run.bits_digits / run.bits_per_byte) / 2
    said = f"{run.name or 'the score'}: {implied:,.0f} ± {slack:,.0f} bytes over {targets:,} targets"
    expected = EXPORTS.get(targets)
    if expected is not None:
        if abs(implied - expected) <= slack:
            return Finding("bytes", "pass", f"{said}, as this export of the val split has", seed)
        repeated = expected + TAIL_BYTES, targets + TAIL_TARGETS
        if abs(implied / targets - repeated[0] / repeated[1]) * targets <= slack + 4:
            return Finding("bytes", "doubt", f"{said}: as if the last 64 targets were scored 32 times, which was tolerated", seed)
    for ratio, why in WRONG_COUNTS:
        if abs(implied / VAL_BYTES / ratio - 1) < 2e-3:
            return Finding("bytes", "fail", f"{said}, {implied / VAL_BYTES:.4f} times those of the val split: {why}", seed)
    if VAL_BYTES - BYTES_PER_TOKEN * LONGEST_ROW - slack <= implied <= VAL_BYTES + slack:
        return Finding("bytes", "pass", f"{said}, within what a loader may drop at the end of {VAL_BYTES:,}", seed)
    share = implied / VAL_BYTES
    what = "a part of the val split was scored" if share < 0.99 else "the bytes are not those of the val split"
    return Finding("bytes", "fail", f"{said}, {share:.4%} of the {VAL_BYTES:,} of the val split: {what}, or another export", seed)
