"""Parsed metrics in, tables out: what the page, the plots, the terminal and `dvc metrics show` all say.

Every table is a DataFrame of raw values (dtype object, so an absent number stays None and a count stays an int) and a
tuple of `Column`s that says which of them a reader sees and how they are written. Nothing here reads files (evidence.py does).
"""

import json
import textwrap
from dataclasses import dataclass

import pandas as pd

from stages.report.evidence import CLAIMS, CODED, COMPRESSED, PACKED, TRAINED, Evidence

WIDTH = 108
COMPARISON = """\
After: having read the training text first, as the model has; that is the fair comparison. Neither side counts
its own program: not the compressor's, and not the artifact's bytes."""
ABSENT = "-"
NUMBERS = ("score", "ratio", "signed", "count", "error", "seconds")
RULE_SECONDS = 600  # of training (calibration and adaptation included), and again of evaluation, on eight H100


@dataclass(frozen=True)
class Headline:
    """The result. `run` is the legal evaluator with the fewest bits per byte (None: none is legal)."""

    run: str | None
    bits_per_byte: float | None
    artifact_bytes: int
    cap_bytes: int
    lower_but_not_legal: tuple[str, ...]

    @property
    def bytes_left(self) -> int:
        return self.cap_bytes - self.artifact_bytes

    @property
    def room(self) -> str:
        """Where the artifact stands against the cap, as a phrase."""
        left = f"{self.bytes_left:,} bytes left" if self.bytes_left >= 0 else f"{-self.bytes_left:,} bytes too many"
        return f"{left} of {self.cap_bytes:,}"

    @property
    def is_valid(self) -> bool:
        return self.run is not None and self.bytes_left >= 0

    @property
    def verdict(self) -> str:
        """The verdict as a phrase."""
        if self.bytes_left < 0:
            return "not valid: the artifact is over the cap"
        if self.run is None:
            return "not valid: no evaluator is legal"
        return f"valid: {self.run} is legal and the artifact fits"


def headline(evidence: Evidence) -> Headline:
    """The best legal score. A score that is not legal is never the headline, however low it is."""
    scores = {run: metrics["bits_per_byte"] for run, metrics in evidence.evaluate.items()}
    legal = [run for run in scores if evidence.certificates[run]["legal"]]
    best = min(legal, key=scores.get, default=None)
    lower = tuple(run for run in scores if run not in legal and (best is None or scores[run] < scores[best]))
    package = evidence.package
    return Headline(best, scores.get(best), package["artifact_bytes"], package["cap_bytes"], lower)


def explain(certificate: dict) -> str:
    """Why a certificate says what it says: the failed checks and the claims that the evaluator does not make."""
    failed = [name for name, check in certificate["checks"].items() if check["verdict"] == "fail"]
    unclaimed = [claim for claim in CLAIMS if claim not in certificate["claims"]]
    parts = [f"failed: {', '.join(failed)}"] if failed else []
    if unclaimed and not certificate["legal"]:
        parts.append(f"does not claim {', '.join(unclaimed)}")
    return "; ".join(parts)


def notices(evidence: Evidence) -> list[str]:
    """Sentences about numbers on this page that do not belong together; empty after an ordinary `dvc repro`."""
    known, val_bytes = set(evidence.prepare["sha256"].values()), evidence.prepare["bytes"]["val"]
    sources = {"baseline": evidence.baseline, "train": evidence.train, "package": evidence.package}
    sources |= {f"measure@{name}": metrics for name, metrics in evidence.measure.items()}
    sources |= {f"evaluate@{run}": metrics for run, metrics in evidence.evaluate.items()}
    found = [f"{name} was made from text that prepare does not have now; run: dvc repro {name}"
             for name, metrics in sources.items() if metrics["text_sha256"] not in known]
    counted = {"baseline": evidence.baseline["val_bytes"]}
    counted |= {f"evaluate@{run}": metrics["raw_bytes"] for run, metrics in evidence.evaluate.items()}
    found += [f"{name} counted {count:,} bytes, the val split has {val_bytes:,}: not a score of the whole split"
              for name, count in counted.items() if count != val_bytes]
    shipped = evidence.package["sha256"]
    found += [f"evaluate@{run} scored another artifact than the one packaged; run: dvc repro evaluate@{run}"
              for run, metrics in evidence.evaluate.items() if metrics["artifact_sha256"] != shipped]
    return found


def stages(evidence: Evidence) -> pd.DataFrame:
    """Bits per byte after each stage, plain windows; `change` is against the row above."""
    rows, previous = [], None
    for name, metrics in evidence.measure.items():
        score = metrics["bits_per_byte"]
        rows.append({"name": name, "bits_per_byte": score, "change": None if previous is None else score - previous,
                     "loss_nats": metrics["loss_nats"], "seconds": metrics["seconds"]})
        previous = score
    return _frame(rows, ("name", "bits_per_byte", "change", "loss_nats", "seconds"))


def evaluators(evidence: Evidence) -> pd.DataFrame:
    """The packaged artifact under each evaluator; `gain` is bits per byte saved against the first sliding run."""
    sliding = next((m["bits_per_byte"] for m in evidence.evaluate.values() if m["evaluator"] == "sliding"), None)
    rows = []
    for run, metrics in evidence.evaluate.items():
        certificate = evidence.certificates[run]
        rows.append({"name": run, "bits_per_byte": metrics["bits_per_byte"], "loss_nats": metrics["loss_nats"],
                     "gain": None if sliding is None else sliding - metrics["bits_per_byte"],
                     "seconds": metrics["seconds"], "legal": certificate["legal"], "why": explain(certificate)})
    return _frame(rows, ("name", "bits_per_byte", "gain", "loss_nats", "seconds", "legal", "why"))


def codecs(evidence: Evidence) -> pd.DataFrame:
    """Every codec run, smallest blob first, the unavailable ones last with their reason."""
    rows = [{"name": run, "ships": run == evidence.package["compress_run"],
             "filters": ", ".join(metrics["filters"]),
             **{key: metrics[key] for key in ("codec", "available", "reason", *CODED)}}
            for run, metrics in evidence.compress.items()]
    for row in rows:
        row["note"] = "" if row["available"] else "not available"
        row["note"] = "ships" if row["ships"] else row["note"]
    rows.sort(key=lambda row: (not row["available"], row["blob_bytes"] or 0))
    return _frame(rows, ("name", "codec", "filters", *CODED, "note", "available", "reason", "ships"))


def groups(evidence: Evidence) -> pd.DataFrame:
    """Where the bytes of each blob are: its header and its groups; runs as in `codecs`."""
    rows = []
    for run in codecs(evidence).itertuples():
        if run.available:
            metrics = evidence.compress[run.name]
            rows.append((run.name, "header", None, metrics["header_bytes"]))
            rows += [(run.name, group, sizes["raw_bytes"], sizes["coded_bytes"]) for group, sizes in metrics["groups"].items()]
    return _frame(rows, ("name", "group", "raw_bytes", "coded_bytes"))


def entropy_note(evidence: Evidence) -> str:
    """What the entropy counts and what it leaves out."""
    if not evidence.compress:
        return ""
    metrics = next(iter(evidence.compress.values()))
    return (f"{metrics['entropy_bytes']:,} bytes for the codes of all quantized matrices, {metrics['quantized_weights']:,} weights; it "
            f"leaves out scales, steps and float16 tensors, {metrics['left_out_bytes']:,} bytes as stored")


def quantized(evidence: Evidence) -> pd.DataFrame:
    """The tensors of each group together, in the order of the table: bits with side information, error as the mean of its tensors."""
    rows = []
    for group, part in evidence.tensors.groupby("group", sort=False):
        weights = int(part["weights"].sum())
        bits = float((part["weights"] * part["bits_per_weight"]).sum())
        rows.append((group, ", ".join(dict.fromkeys(part["method"])), len(part), weights, bits / weights if weights else None,
                     round(bits / 8), None if (part["method"] == "none").all() else float(part["relative_error"].mean()),
                     int(part["max_code"].max()) or None))
    return _frame(rows, ("name", "method", "tensors", "weights", "bits_per_weight", "bytes", "relative_error", "max_code"))


def lost(evidence: Evidence) -> str:
    """What quantizing costs, in a line."""
    before, after = (evidence.measure[stage]["bits_per_byte"] for stage in ("prequant_ttt", "quantize"))
    return f"Quantizing costs {cell(after - before, 'signed')} bits per byte: {cell(before, 'score')} before, {cell(after, 'score')} after."


def compressors(evidence: Evidence) -> pd.DataFrame:
    """General-purpose compressors on the val split, alone and after the training text; last, the model's score."""
    rows = [{"name": name, **{key: entry[key] for key in COMPRESSED}}
            for name, entry in evidence.baseline["compressors"].items()]
    if (best := headline(evidence).run) is not None:
        scored = evidence.evaluate[best]
        rows.append({"name": f"model, {best}", "bits_per_byte_after_train": scored["bits_per_byte"],
                     "seconds": scored["seconds"]})
    return _frame(rows, ("name", *COMPRESSED))


def checks(evidence: Evidence) -> pd.DataFrame:
    """Every check of every certificate."""
    rows = [{"name": run, "check": name, "verdict": check["verdict"], "evidence": phrase(check["evidence"])}
            for run, certificate in evidence.certificates.items() for name, check in certificate["checks"].items()]
    return _frame(rows, ("name", "check", "verdict", "evidence"))


def splits(evidence: Evidence) -> pd.DataFrame:
    """Documents, bytes and hash of each split."""
    prepare = evidence.prepare
    rows = [{"name": split, "documents": prepare["documents"][split], "bytes": prepare["bytes"][split],
             "sha256": prepare["sha256"][split]} for split in prepare["documents"]]
    return _frame(rows, ("name", "documents", "bytes", "sha256"))


def averages(evidence: Evidence) -> pd.DataFrame:
    """Holdout bits per byte of the averages that were tried, in the order of params.yaml."""
    chosen = evidence.spent["ema"]["average"]
    rows = [(row.average, float(row.holdout_bits_per_byte), row.profile_error or None, "goes on" if row.average == chosen else "")
            for row in evidence.averages.itertuples()]
    return _frame(rows, ("name", "bits_per_byte", "profile_error", "note"))


def budget(evidence: Evidence) -> pd.DataFrame:
    """What counts against the field's two times 600 seconds, here: `seconds` are those of this machine."""
    spent = evidence.spent
    rows = [("train", spent["train"]["train_seconds"], f"{spent['train']['spent']:,.5g} of {spent['train']['budget']:,.5g} "
             f"{spent['train']['budget_unit']}"),
            ("prequant_ttt", spent["prequant_ttt"]["seconds"], "" if spent["prequant_ttt"]["enabled"] else "off"),
            ("calibrate", spent["calibrate"]["seconds"], f"{spent['calibrate']['tokens']:,} tokens")]
    total = sum(seconds for _, seconds, _ in rows)
    rows.append(("training, together", total, _against_rule(total)))
    rows += [(f"evaluate, {run}", metrics["seconds"], _against_rule(metrics["seconds"])) for run, metrics in evidence.evaluate.items()]
    return _frame(rows, ("name", "seconds", "note"))


def _against_rule(seconds: float) -> str:
    return f"{'within' if seconds <= RULE_SECONDS else 'OVER'} {RULE_SECONDS} s"


def bits_per_byte(evidence: Evidence) -> pd.DataFrame:
    """All bits per byte in one long table, for `dvc plots`; `legal` is empty where the question does not arise."""
    rows = [(name, "stage", metrics["bits_per_byte"], "") for name, metrics in evidence.measure.items()]
    rows += [(run, "evaluator", metrics["bits_per_byte"], str(evidence.certificates[run]["legal"]).lower())
             for run, metrics in evidence.evaluate.items()]
    for name, entry in evidence.baseline["compressors"].items():
        rows.append((name, "compressor", entry["bits_per_byte"], ""))
        if entry["bits_per_byte_after_train"] is not None:
            rows.append((f"{name}_after_train", "compressor", entry["bits_per_byte_after_train"], ""))
    return _frame(rows, ("name", "kind", "bits_per_byte", "legal"))


def sizes(evidence: Evidence) -> pd.DataFrame:
    """The codecs that ran, for `dvc plots`."""
    rows = [(row.name, row.blob_bytes, row.bits_per_weight, row.encode_seconds, row.decode_seconds)
            for row in codecs(evidence).itertuples(index=False) if row.available]
    return _frame(rows, ("codec", "bytes", "bits_per_weight", "encode_seconds", "decode_seconds"))


def flat(evidence: Evidence) -> dict:
    """The summary under dotted keys, scalars only: `dvc metrics diff` and `dvc exp show` print it as it is."""
    top = headline(evidence)
    out = {"score.bits_per_byte": top.bits_per_byte, "score.evaluator": top.run, "score.is_valid": top.is_valid}
    scored = evidence.measure | evidence.evaluate
    out |= {f"bits_per_byte.{name}": metrics["bits_per_byte"] for name, metrics in scored.items()}
    out |= {f"legal.{run}": certificate["legal"] for run, certificate in evidence.certificates.items()}
    out |= {f"evaluate.{run}.seconds": metrics["seconds"] for run, metrics in evidence.evaluate.items()}
    out |= {f"package.{key}": evidence.package[key] for key in PACKED} | {"package.bytes_left": top.bytes_left}
    for run, metrics in evidence.compress.items():
        out |= {f"compress.{run}.{key}": metrics[key] for key in ("available", *CODED)}
    for name, entry in evidence.baseline["compressors"].items():
        out |= {f"baseline.{name}.{key}": entry[key] for key in COMPRESSED}
    out |= {f"train.{key}": evidence.train[key] for key in TRAINED}
    for row in splits(evidence).itertuples(index=False):
        out |= {f"text.{row.name}_documents": row.documents, f"text.{row.name}_bytes": row.bytes,
                f"text.sha256.{row.name}": row.sha256}
    return out | {"notices": len(notices(evidence))}


def _frame(rows: list, columns: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(columns), dtype=object)
    return table.where(table.notna(), None)


@dataclass(frozen=True)
class Column:
    """One column as a reader sees it: the key in the frame, its title, and the format of its values."""

    key: str
    title: str
    kind: str = "text"


STAGE_COLUMNS = (Column("name", "stage"), Column("bits_per_byte", "bits per byte", "score"),
                 Column("change", "change", "signed"), Column("loss_nats", "nats per token", "score"),
                 Column("seconds", "seconds", "seconds"))
EVALUATOR_COLUMNS = (Column("name", "evaluator"), Column("bits_per_byte", "bits per byte", "score"),
                     Column("gain", "gain over sliding", "signed"), Column("seconds", "seconds", "seconds"),
                     Column("legal", "verdict", "legal"))
CODEC_COLUMNS = (Column("name", "codec run"), Column("blob_bytes", "bytes", "count"),
                 Column("bits_per_weight", "bits per weight", "ratio"),
                 Column("entropy_bits_per_weight", "entropy per weight", "ratio"),
                 Column("encode_seconds", "encode s", "seconds"), Column("decode_seconds", "decode s", "seconds"))
QUANTIZED_COLUMNS = (Column("name", "group"), Column("method", "method"), Column("tensors", "tensors", "count"),
                     Column("weights", "weights", "count"), Column("bits_per_weight", "bits per weight", "ratio"),
                     Column("bytes", "bytes", "count"), Column("relative_error", "output error", "error"),
                     Column("max_code", "max code", "count"))
GROUP_COLUMNS = (Column("group", "group"), Column("raw_bytes", "bytes before", "count"), Column("coded_bytes", "bytes", "count"))
COMPRESSOR_COLUMNS = (Column("name", "compressor"), Column("bytes", "bytes alone", "count"),
                      Column("bits_per_byte", "bits per byte", "score"),
                      Column("bytes_after_train", "bytes after train", "count"),
                      Column("bits_per_byte_after_train", "bits per byte after", "score"),
                      Column("seconds", "seconds", "seconds"))
AVERAGE_COLUMNS = (Column("name", "average"), Column("bits_per_byte", "holdout bits per byte", "score"),
                   Column("profile_error", "profile error", "ratio"), Column("note", ""))
BUDGET_COLUMNS = (Column("name", "stage"), Column("seconds", "seconds here", "seconds"), Column("note", ""))
SPLIT_COLUMNS = (Column("name", "split"), Column("documents", "documents", "count"),
                 Column("bytes", "bytes", "count"), Column("sha256", "sha256", "hash"))

FORMATS = {
    "text": str,
    "hash": str,
    "score": "{:.4f}".format,
    "ratio": "{:.3f}".format,
    "signed": lambda value: "0" if value == 0 else f"{value:+.4f}",
    "count": "{:,}".format,
    "error": "{:.2e}".format,
    "seconds": lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}",
    "legal": lambda value: "legal" if value else "not legal",
}


def cell(value, kind: str) -> str:
    """One value as text; an absent one is a dash."""
    return ABSENT if value is None else FORMATS[kind](value)


def counted_on(evidence: Evidence) -> str:
    """The text whose bytes the scores are divided by."""
    return ", ".join(sorted({metrics["bytes_counted_on"] for metrics in evidence.evaluate.values()})) or "none"


def phrase(value) -> str:
    """Any JSON value as one line of words: a dict becomes `key value; key value`, a list `item, item`."""
    if isinstance(value, dict):
        return "; ".join(f"{key.replace('_', ' ')} {phrase(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) if isinstance(item, int) else phrase(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)


def markdown(table: pd.DataFrame, columns: tuple[Column, ...]) -> str:
    """`table` as a Markdown table whose source is aligned too, numbers to the right."""
    texts = [[cell(value, column.kind).replace("|", "\\|") for value in table[column.key]] for column in columns]
    titles = [column.title for column in columns]
    widths = [max(map(len, [title, *column])) for title, column in zip(titles, texts, strict=True)]
    is_right = [column.kind in NUMBERS for column in columns]

    def line(cells) -> str:
        padded = [text.rjust(width) if right else text.ljust(width)
                  for text, width, right in zip(cells, widths, is_right, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, is_right, strict=True)]
    return "\n".join(line(cells) for cells in [titles, rule, *zip(*texts, strict=True)])


def summary(evidence: Evidence) -> str:
    """The report as Markdown that also reads as plain text in a terminal."""
    top, package = headline(evidence), evidence.package
    score = "no legal score" if top.run is None else f"{top.bits_per_byte:.4f} bits per byte with `{top.run}`"
    blocks = ["# Caddie report", _list([
        f"score: {score}",
        f"artifact: {top.artifact_bytes:,} bytes, {top.room} "
        f"({package['code_bytes']:,} code, {package['model_bytes']:,} model by {package['compress_run']})",
        f"verdict: {top.verdict}",
        *[f"`{run}` is lower, {evidence.evaluate[run]['bits_per_byte']:.4f}, but not legal"
          for run in top.lower_but_not_legal],
        *[f"**{notice}**" for notice in notices(evidence)],
    ])]
    blocks += ["## Bits per byte after each stage", markdown(stages(evidence), STAGE_COLUMNS)]
    blocks += ["## Bits per byte of the artifact, by evaluator", markdown(evaluators(evidence), EVALUATOR_COLUMNS)]
    blocks += ["## Quantization", markdown(quantized(evidence), QUANTIZED_COLUMNS), lost(evidence)]
    table = codecs(evidence)
    blocks += ["## Codecs", markdown(table, (*CODEC_COLUMNS, Column("note", "note")))]
    if note := entropy_note(evidence):
        blocks.append(textwrap.fill(f"Order-0 entropy: {note}.", WIDTH, break_long_words=False))
    if absent := [f"{row.name} is not available: {row.reason}" for row in table.itertuples() if not row.available]:
        blocks.append(_list(absent))
    blocks += ["## General-purpose compressors on the same text",
               markdown(compressors(evidence), COMPRESSOR_COLUMNS), COMPARISON]
    blocks += ["## Budget", markdown(budget(evidence), BUDGET_COLUMNS)]
    blocks += ["## Certificates", _list([verdict_line(*item) for item in evidence.certificates.items()])]
    return "\n\n".join(blocks) + "\n"


def verdict_line(run: str, certificate: dict) -> str:
    """One line per certificate: verdict, how many checks passed, what stands against it."""
    verdicts = [check["verdict"] for check in certificate["checks"].values()]
    counts = f"{verdicts.count('pass')} of {len(verdicts)} checks passed"
    if skipped := verdicts.count("not_applicable"):
        counts += f", {skipped} not applicable"
    return "; ".join(filter(None, [f"{run}: {cell(certificate['legal'], 'legal')}", counts, explain(certificate)]))


def _list(items: list[str]) -> str:
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    return "\n".join(wrap.fill(f"- {item}") for item in items)
