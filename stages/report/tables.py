"""Turn parsed metrics into tables, which the page, the figures, the terminal, the CSV files and `dvc metrics` all show.

Every table is a DataFrame of raw values (dtype object, so an absent number stays None and a count stays an int). table_columns.py has the
columns that a reader sees and their formats. Nothing here reads files (results.py does).
"""

from dataclasses import dataclass

import pandas as pd

from stages.lib.referee import time_budget
from stages.report import lineage
from stages.report.results import CHECKED, CLAIMS, CODED, COMPRESSED, Results
from stages.report.table_columns import cell, phrase

COMPARISON = """\
After: having read the training text first, as the model has; that is the fair comparison. Neither side counts
its own program: not the compressor's, and not the artifact's bytes."""
TRAINED_WITH = ("torch", "device", "processes", "precision", "attention_backend", "seed")


@dataclass(frozen=True)
class Headline:
    """The result. `run` is the run with the lowest certified limit X among those whose score is legal (None: none is legal);
    `bits_per_byte` is X, `claimed` what the artifact claims."""

    run: str | None
    bits_per_byte: float | None
    claimed: float | None
    artifact_bytes: int
    cap_bytes: int
    lower_but_not_legal: tuple[str, ...]
    not_counted: tuple[str, ...]  # every run that is not legal, as `run, which is <verdict>`

    @property
    def bytes_left(self) -> int:
        return self.cap_bytes - self.artifact_bytes

    @property
    def room(self) -> str:
        """The bytes left below the cap, or above it, as a phrase."""
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
        others = f"; not counted: {'; '.join(self.not_counted)}" if self.not_counted else ""
        return f"valid: {self.run} is legal and the artifact fits{others}"


def headline(results: Results) -> Headline:
    """The best legal score. A score that is not legal is never the headline, however low it is."""
    scores = {run: metrics["bits_per_byte"] for run, metrics in results.evaluate.items()}
    most = {run: certificate["at_most_bits_per_byte"] for run, certificate in results.certificates.items() if certificate["legal"]}
    best = min(most, key=most.get, default=None)
    lower = tuple(run for run in scores if run not in most and (best is None or scores[run] < scores[best]))
    others = tuple(f"{run}, which is {verdict(results.certificates[run])}" for run in scores if run not in most)
    package = results.package
    return Headline(best, most.get(best), scores.get(best), package["artifact_bytes"], package["cap_bytes"], lower, others)


def verdict(certificate: dict) -> str:
    """legal | not legal | not ruled."""
    return certificate["verdict"]


def explain(certificate: dict) -> str:
    """The reasons for a certificate's verdict: the failed checks, and claims that the evaluator does not make."""
    failed = [name for name, check in certificate["checks"].items() if check["verdict"] == "fail"]
    unclaimed = [claim for claim in CLAIMS if claim not in certificate["claims"]]
    parts = [f"failed: {', '.join(failed)}"] if failed else []
    if unclaimed and not certificate["legal"]:
        parts.append(f"does not claim {', '.join(unclaimed)}")
    return "; ".join(parts)


def notices(results: Results) -> list[str]:
    """One sentence for each number on this page that does not match the others; empty after an ordinary `dvc repro`."""
    known, val_bytes = set(results.prepare["sha256"].values()), results.prepare["bytes"]["val"]
    sources = {"text_compressors": results.text_compressors, "train": results.train, "package": results.package}
    sources |= {f"plain_score@{name}": metrics for name, metrics in results.plain_score.items()}
    sources |= {f"evaluate@{run}": metrics for run, metrics in results.evaluate.items()}
    found = [
        f"{name} was made from text that prepare does not have now; run: dvc repro {name}"
        for name, metrics in sources.items()
        if metrics["text_sha256"] not in known
    ]
    counted = {"text_compressors": results.text_compressors["val_bytes"]}
    counted |= {f"evaluate@{run}": metrics["raw_bytes"] for run, metrics in results.evaluate.items()}
    found += [
        f"{name} counted {count:,} bytes, the val split has {val_bytes:,}: not a score of the whole split"
        for name, count in counted.items()
        if count != val_bytes
    ]
    shipped = results.package["sha256"]
    found += [
        f"evaluate@{run} scored another artifact than the one packaged; run: dvc repro evaluate@{run}"
        for run, metrics in results.evaluate.items()
        if metrics["artifact_sha256"] != shipped
    ]
    if (listed := int(results.byte_table["bytes"].sum())) != results.package["artifact_bytes"]:
        found.append(
            f"the table of bytes adds up to {listed:,}, the artifact has {results.package['artifact_bytes']:,}; run: dvc repro package"
        )
    said = {key for certificate in results.certificates.values() for check in certificate["checks"].values() for key in check}
    if unknown := said - set(CHECKED):
        found.append(
            f"the certificates say {', '.join(sorted(unknown))} of their checks, which this page does not show; add it to stages/report"
        )
    if spoiled := lineage.spoiled(results.graph):
        found.append(spoiled)
    return found


def stages(results: Results) -> pd.DataFrame:
    """Bits per byte after each stage, scored in plain windows; `change` is the difference to the row above."""
    rows, previous = [], None
    for name, metrics in results.plain_score.items():
        score = metrics["bits_per_byte"]
        rows.append(
            {
                "name": name,
                "bits_per_byte": score,
                "change": None if previous is None else score - previous,
                "loss_nats": metrics["loss_nats"],
                "seconds": metrics["seconds"],
            }
        )
        previous = score
    return _frame(rows, ("name", "bits_per_byte", "change", "loss_nats", "seconds"))


def evaluators(results: Results) -> pd.DataFrame:
    """The packaged artifact's score in each run; `gain` is the bits per byte saved compared with the first sliding run."""
    sliding = next((m["bits_per_byte"] for m in results.evaluate.values() if m["evaluator"] == "sliding"), None)
    rows = []
    for run, metrics in results.evaluate.items():
        certificate = results.certificates[run]
        rows.append(
            {
                "name": run,
                "bits_per_byte": metrics["bits_per_byte"],
                "at_most": certificate["at_most_bits_per_byte"],
                "loss_nats": metrics["loss_nats"],
                "gain": None if sliding is None else sliding - metrics["bits_per_byte"],
                "seconds": metrics["seconds"],
                "verdict": verdict(certificate),
                "why": explain(certificate),
            }
        )
    return _frame(rows, ("name", "bits_per_byte", "at_most", "gain", "loss_nats", "seconds", "verdict", "why"))


def codecs(results: Results) -> pd.DataFrame:
    """Every codec run, smallest blob first; unavailable ones come last, with the reason."""
    rows = [
        {
            "name": run,
            "ships": run == results.package["compress_run"],
            "filters": ", ".join(metrics["filters"]),
            **{key: metrics[key] for key in ("codec", "available", "reason", *CODED)},
        }
        for run, metrics in results.compress.items()
    ]
    for row in rows:
        row["note"] = "" if row["available"] else "not available"
        row["note"] = "ships" if row["ships"] else row["note"]
    rows.sort(key=lambda row: (not row["available"], row["blob_bytes"] or 0))
    return _frame(rows, ("name", "codec", "filters", *CODED, "note", "available", "reason", "ships"))


def groups(results: Results) -> pd.DataFrame:
    """The bytes of each blob by its header and groups; runs are in the order of `codecs`."""
    rows = []
    for run in codecs(results).itertuples():
        if run.available:
            metrics = results.compress[run.name]
            rows.append((run.name, "header", None, metrics["header_bytes"]))
            rows += [(run.name, group, sizes["raw_bytes"], sizes["coded_bytes"]) for group, sizes in metrics["groups"].items()]
    return _frame(rows, ("name", "group", "raw_bytes", "coded_bytes"))


def entropy_note(results: Results) -> str:
    """A sentence that says what the entropy counts and what it leaves out."""
    if not results.compress:
        return ""
    metrics = next(iter(results.compress.values()))
    return (
        f"{metrics['entropy_bytes']:,} bytes for the codes of all quantized matrices, {metrics['quantized_weights']:,} weights; it "
        f"leaves out scales, steps and float16 tensors, {metrics['left_out_bytes']:,} bytes as stored"
    )


def quantized(results: Results) -> pd.DataFrame:
    """One row per group of tensors, in the order of the table: bits include side information; the error is the mean over the tensors."""
    rows = []
    for group, part in results.tensors.groupby("group", sort=False):
        weights = int(part["weights"].sum())
        bits = float((part["weights"] * part["bits_per_weight"]).sum())
        rows.append(
            (
                group,
                ", ".join(dict.fromkeys(part["method"])),
                len(part),
                weights,
                bits / weights if weights else None,
                round(bits / 8),
                None if (part["method"] == "none").all() else float(part["relative_error"].mean()),
                int(part["max_code"].max()) or None,
            )
        )
    return _frame(rows, ("name", "method", "tensors", "weights", "bits_per_weight", "bytes", "relative_error", "max_code"))


def lost(results: Results) -> str:
    """One sentence: what quantizing costs in bits per byte."""
    scored = list(results.plain_score)
    if "quantize" not in scored[1:]:
        return "What quantizing costs was not measured: plain_score.after must name quantize and a stage before it."
    before, after = (results.plain_score[stage]["bits_per_byte"] for stage in scored[scored.index("quantize") - 1 :][:2])
    return f"Quantizing costs {cell(after - before, 'signed')} bits per byte: {cell(before, 'score')} before, {cell(after, 'score')} after."


def compressors(results: Results) -> pd.DataFrame:
    """General-purpose compressors on the val split, alone and after the training text; the last row is the model's score."""
    rows = [{"name": name, **{key: entry[key] for key in COMPRESSED}} for name, entry in results.text_compressors["compressors"].items()]
    if (best := headline(results).run) is not None:
        scored = results.evaluate[best]
        rows.append({"name": f"model, {best}", "bits_per_byte_after_train": headline(results).bits_per_byte, "seconds": scored["seconds"]})
    return _frame(rows, ("name", *COMPRESSED))


def strongest_compressor(results: Results) -> dict | None:
    """`name` and `bits_per_byte` of the compressor that needs the fewest for val after the train text; None if none was measured so."""
    scores = {name: entry["bits_per_byte_after_train"] for name, entry in results.text_compressors["compressors"].items()}
    scores = {name: score for name, score in scores.items() if score is not None}
    best = min(scores, key=scores.get, default=None)
    return None if best is None else {"name": best, "bits_per_byte": scores[best]}


def against_compressors(results: Results) -> str:
    """The strongest compressor, and how far the best legal score is below or above it, as a phrase. Empty if none was measured."""
    best, score = strongest_compressor(results), headline(results).bits_per_byte
    if best is None:
        return ""
    line = (
        f"strongest general-purpose compressor after the train text: {best['name']}, {cell(best['bits_per_byte'], 'score')} bits per byte"
    )
    if score is not None:
        line += (
            f"; the score is {cell(abs(score - best['bits_per_byte']), 'score')} {'below' if score < best['bits_per_byte'] else 'above'}"
        )
    return line


def checks(results: Results) -> pd.DataFrame:
    """Every check of every certificate."""
    rows = [
        {"name": run, "check": name, **check, "evidence": phrase(check["evidence"])}
        for run, certificate in results.certificates.items()
        for name, check in certificate["checks"].items()
    ]
    return _frame(rows, ("name", "check", *CHECKED))


def splits(results: Results) -> pd.DataFrame:
    """Documents, bytes and hash of each split."""
    prepare = results.prepare
    rows = [
        {"name": split, "documents": prepare["documents"][split], "bytes": prepare["bytes"][split], "sha256": prepare["sha256"][split]}
        for split in prepare["documents"]
    ]
    return _frame(rows, ("name", "documents", "bytes", "sha256"))


def averages(results: Results) -> pd.DataFrame:
    """Holdout bits per byte of the averages that were tried, in the order of params.yaml."""
    chosen = results.spent["ema"]["average"]
    rows = [
        (row.average, float(row.holdout_bits_per_byte), row.profile_error or None, "goes on" if row.average == chosen else "")
        for row in results.averages.itertuples()
    ]
    return _frame(rows, ("name", "bits_per_byte", "profile_error", "note"))


def goes_on(results: Results) -> str:
    """One sentence: which average the later stages got."""
    chosen = results.spent["ema"]["average"]
    measured = "" if chosen in set(results.averages["average"]) else ", which is not among ema.candidates and so was not measured here"
    return f"Goes on: {chosen}{measured}."


def budget(results: Results) -> pd.DataFrame:
    """What counts toward the contest's two budgets of 600 seconds each (`limit`); `seconds` were measured on this machine."""
    spent = results.spent
    notes = {
        "train": f"{spent['train']['spent']:,.5g} of {spent['train']['budget']:,.5g} {spent['train']['budget_unit']}",
        "prequant_ttt": "" if spent["prequant_ttt"]["enabled"] else "off",
        "calibrate": f"{spent['calibrate']['tokens']:,} tokens",
        "tuning": f"{(spent['quantize']['tuning'] or {}).get('steps')} steps",  # a row only if there was any
    }
    making = time_budget.making(**{name: spent[name] for name in ("train", "prequant_ttt", "calibrate", "quantize")})
    total = sum(making.values())
    rows = [(name, seconds, notes[name]) for name, seconds in making.items()]
    rows.append(("training, together", total, _against_rule(results, total, list(results.evaluate.values()))))
    rows += [
        (f"evaluate, {run}", metrics["seconds"], _against_rule(results, metrics["seconds"], [metrics]))
        for run, metrics in results.evaluate.items()
    ]
    return _frame([(*row, time_budget.SECONDS) for row in rows], ("name", "seconds", "note", "limit"))


def _against_rule(results: Results, seconds: float, evaluations: list[dict]) -> str:
    if not all(time_budget.is_the_fields(train=results.spent["train"], evaluate=metrics) for metrics in evaluations):
        return f"not eight H100, so nothing follows for the rule's {time_budget.SECONDS} s"
    return f"{'within' if seconds <= time_budget.SECONDS else 'OVER'} {time_budget.SECONDS} s"


def bits_per_byte(results: Results) -> pd.DataFrame:
    """All bits per byte in one long table, for the figure. `before` is the score before: for a stage that of the stage above it, for an
    evaluator that of the last stage. Only evaluators have a `verdict`; elsewhere it is empty."""
    rows, before = [], None
    for name, metrics in results.plain_score.items():
        rows.append((name, "stage", metrics["bits_per_byte"], before or metrics["bits_per_byte"], ""))
        before = metrics["bits_per_byte"]
    rows += [
        (run, "evaluator", metrics["bits_per_byte"], before, verdict(results.certificates[run]))
        for run, metrics in results.evaluate.items()
    ]
    for name, entry in results.text_compressors["compressors"].items():
        rows.append((name, "compressor", entry["bits_per_byte"], None, ""))
        if entry["bits_per_byte_after_train"] is not None:
            rows.append((f"{name}_after_train", "compressor", entry["bits_per_byte_after_train"], None, ""))
    return _frame(rows, ("name", "kind", "bits_per_byte", "before", "verdict"))


def counted_on(results: Results) -> str:
    """The name of the text whose bytes the scores are divided by."""
    return ", ".join(sorted({metrics["bytes_counted_on"] for metrics in results.evaluate.values()})) or "none"


def environment(results: Results) -> pd.DataFrame:
    """Software and hardware that made the numbers, as far as the stages recorded it, and the machine that made this page."""
    rows = [("train", key.replace("_", " "), str(results.train[key])) for key in TRAINED_WITH]
    packages = results.prepare.get("packages", {})
    rows += [("prepare", name, packages[name]) for name in ("numpy", "torch") if name in packages]
    return _frame([*rows, *[("report", name, value) for name, value in results.machine.items()]], ("stage", "name", "value"))


def hashes(results: Results) -> pd.DataFrame:
    """The sha256 of the artifact, of the blob and the weights in it, of each ledger and of each split."""
    rows = [("artifact, submission.pyz", results.package["sha256"])]
    rows += [
        (f"{what} of {results.package['compress_run']}", metrics[key])
        for run, metrics in results.compress.items()
        if run == results.package["compress_run"]
        for what, key in (("blob", "blob_sha256"), ("quantized weights", "model_sha256"))
    ]
    rows += [(f"ledger of {run}", metrics["ledger_sha256"]) for run, metrics in results.evaluate.items()]
    rows += [(f"text, {split}", digest) for split, digest in results.prepare["sha256"].items()]
    return _frame(rows, ("name", "sha256"))


def everything(results: Results) -> dict[str, pd.DataFrame]:
    """Every table of the page by the name of its CSV file."""
    return {
        "stages": stages(results),
        "evaluators": evaluators(results),
        "bits_per_byte": bits_per_byte(results),
        "compressors": compressors(results),
        "codecs": codecs(results),
        "groups": groups(results),
        "quantized": quantized(results),
        "tensors": results.tensors,
        "bytes": results.byte_table,
        "averages": averages(results),
        "loss": results.loss,
        "budget": budget(results),
        "checks": checks(results),
        "lineage": lineage.table(results.graph),
        "splits": splits(results),
        "environment": environment(results),
        "hashes": hashes(results),
    }


def _frame(rows: list, columns: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(columns), dtype=object)
    return table.where(table.notna(), None)
