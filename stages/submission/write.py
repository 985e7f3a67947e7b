"""Write the folder that is submitted, from the kept runs: README, submission.json, logs, script, requirements."""

import csv
import datetime
import json
import math
import shutil
import statistics
from pathlib import Path

from stages.lib.node import closure, files, params
from stages.lib.referee import time_budget
from stages.lib.referee.significance import MARGIN_NATS, Significance, one_sample, welch
from stages.recipes import catalog
from stages.submission.collect import Run

READERS = ("submission", "report", "audit")  # packages that only read runs, so a change in them does not change a run


def folder(path: Path, name: str, runs: list[Run], *, command: str, record: list[float], threshold: float | None) -> None:
    """Write the whole folder; it replaces an older one."""
    tests = significance(runs, record, threshold)
    with files.atomic(path) as partial:
        partial.mkdir(parents=True)
        script = runs[0].folder / "script"
        shutil.copyfile(script / "train_gpt.py", partial / "train_gpt.py")
        shutil.copytree(script / "source", partial / "source")
        packages = runs[0].environment["packages"]
        (partial / "requirements.txt").write_text("".join(f"{key}=={packages[key].split('+')[0]}\n" for key in packages))
        for run in runs:
            (partial / f"train_seed{run.seed}.log").write_text(log(run), encoding="utf-8")
        files.write_json(partial / "submission.json", facts(name, runs, tests))
        (partial / "README.md").write_text(readme(name, runs, tests, command=command), encoding="utf-8")


def significance(runs: list[Run], record: list[float], threshold: float | None) -> dict[str, Significance]:
    """The tests against the record, in bits per byte. `threshold` is in nats per token and is converted by the bytes per token."""
    if not record:
        return {}
    scores = [run.score["bits_per_byte"] for run in runs]
    margin = (MARGIN_NATS if threshold is None else threshold) * runs[0].score["tokens"] / runs[0].score["bytes"] / math.log(2)
    if len(record) == 1:
        return {"one_sample": one_sample(scores, record[0], margin)}
    return {
        "one_sample": one_sample(scores, statistics.fmean(record), margin),
        "welch": welch(scores, record, margin),
        "welch_without_margin": welch(scores, record, 0.0),
    }


def mean(values: list[float]) -> float:
    return statistics.fmean(values)


def deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def facts(name: str, runs: list[Run], tests: dict[str, Significance]) -> dict:
    """The content of submission.json, with the key names of the contest."""
    scores, losses = [run.score["bits_per_byte"] for run in runs], [run.score["loss_nats"] for run in runs]
    first, test = runs[0], tests.get("one_sample")
    on = {evaluator: first.score["evaluator"] == evaluator for evaluator in ("slot", "lbfgs_slot", "etlb", "mixture", "memory")}
    return {
        "name": name,
        "date": datetime.date.today().isoformat(),
        "blurb": blurb(name),
        "track": "10min_16mb" if first.tree["prepare"]["source"] == "fineweb" else "own_text",
        "val_bytes": first.score["bytes"],
        "val_tokens": first.score["tokens"],
        "val_bpb": mean(scores),
        "val_bpb_std": deviation(scores),
        "val_loss": mean(losses),
        "val_loss_std": deviation(losses),
        "seeds": [run.seed for run in runs],
        "seed_results": {
            str(run.seed): {
                "val_loss": run.score["loss_nats"],
                "val_bpb": run.score["bits_per_byte"],
                "artifact_bytes": run.total_bytes,
                "steps": run.train["steps"],
                "train_time_ms": 1000 * run.train["train_seconds"],
                "step_avg_ms": 1000 * run.train["train_seconds"] / run.train["steps"],
                "eval_time_s": run.score["seconds"],
            }
            for run in runs
        },
        "bytes_total": max(run.total_bytes for run in runs),
        "artifact_bytes_mean": mean([run.total_bytes for run in runs]),
        "artifact_bytes_max": max(run.total_bytes for run in runs),
        "bytes_code": first.code_bytes,
        "bytes_model_max": max(run.blob_bytes for run in runs),
        "hardware": hardware(first),
        "pytorch_version": first.train["torch"],
        "technique_summary": ", ".join([*first.tree["model"]["features"], first.tree["train"]["optimizer"], first.score["evaluator"]]),
        "compliance": {
            # seconds of another machine say nothing about the budgets
            "train_under_600s": all(run.making_seconds <= time_budget.SECONDS for run in runs) if is_the_fields(first) else None,
            "eval_under_600s": all(run.score["seconds"] <= time_budget.SECONDS for run in runs) if is_the_fields(first) else None,
            "hardware_is_the_fields": is_the_fields(first),
            "artifact_under_16mb": all(run.total_bytes <= cap(run) for run in runs),
            "no_slot": not on["slot"] and not on["lbfgs_slot"],
            "no_etlb": not on["etlb"],
            "no_ngram_cache": not on["mixture"] and not on["memory"],
            "no_pre_quant_ttt": not (first.tree["prequant_ttt"]["enabled"] and first.tree["prequant_ttt"]["split"] == "val"),
            "score_first_ttt": first.score["evaluator"].startswith("ttt_"),
            "three_seeds": len(runs) >= 3,
            "certified_legal": all(run.is_legal for run in runs),
        },
        "attribution": source(name),
        "comparison_bpb": test and test.mean + test.gain,
        "t_statistic": test and test.t if test and test.t is not None and math.isfinite(test.t) else None,
        "p_value": test and test.p,
    }


def cap(run: Run) -> int:
    return run.tree["package"]["cap_bytes"]


def over_cap(runs: list[Run]) -> str:
    """A warning if a seed's artifact is over the cap."""
    over = max(run.total_bytes - cap(run) for run in runs)
    return f", {over:,} OVER THE CAP: this is no valid submission" if over > 0 else ""


def hardware(run: Run) -> str:
    gpus = run.environment["gpus"]
    return f"{len(gpus)}x {gpus[0]}" if gpus else f"{run.environment['cores']} CPU cores ({run.environment['machine']}), no GPU"


def is_the_fields(run: Run) -> bool:
    return time_budget.is_the_fields(train=run.train, evaluate=run.score)


def blurb(name: str) -> str:
    return catalog.read_header(name).stack if name in catalog.stacks() else "the default of params.yaml"


def source(name: str) -> str:
    return catalog.read_header(name).source if name in catalog.stacks() else "caddie"


def log(run: Run) -> str:
    """The log of a seed, in the contest's wording: the source that ran, its environment and settings, and the results of the stages."""
    steps, seconds = run.train["steps"], run.train["train_seconds"]
    source = run.folder / "script/source"
    modules = [f"# {path.relative_to(source)}\n{path.read_text(encoding='utf-8').rstrip()}" for path in sorted(source.rglob("*.py"))]
    lines = [
        "=" * 100,
        "\n\n".join(modules),
        "=" * 100,
        json.dumps(run.environment),
        "params: " + json.dumps(run.tree, sort_keys=True),
        f"seed: {run.seed}",
        f"hardware: {hardware(run)}",
        f"world_size:{run.train['processes']}",
        f"val_tokens:{run.score['tokens']}",
        f"model_params:{run.train['parameters']}",
    ]
    with open(run.folder / "train/loss.csv", newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            lines.append(f"step:{row['step']}/{steps} train_loss:{row['train_loss']}")
    prequant, calibrated = run.prequant_ttt["seconds"], run.calibrate["seconds"]
    lines += [f"stopping_early: {run.train['budget_unit']} used up train_time:{1000 * seconds:.0f}ms step:{steps}/{steps}"]
    lines += [f"prequant_ttt: done in {prequant}s"] * bool(run.prequant_ttt["enabled"])
    lines += [
        f"GPTQ: {run.calibrate['tokens']} calibration tokens in {calibrated}s",
        *([f"tuning: calibration of scales on train text done in {tuned['seconds']}s"] if (tuned := run.quantize.get("tuning")) else []),
        f"Code size: {run.code_bytes} bytes",
        f"Serialized model: {run.blob_bytes} bytes",
        f"Total submission size code+model: {run.total_bytes} bytes",
        f"final_{run.name} val_loss:{run.score['loss_nats']} val_bpb:{run.score['bits_per_byte']} "
        f"eval_time:{1000 * run.score['seconds']:.0f}ms",
        f"total_eval_time:{run.score['seconds']}s",
        "certificate: " + json.dumps(run.certificate),
    ]
    return "\n".join(lines) + "\n"


def readme(name: str, runs: list[Run], tests: dict[str, Significance], *, command: str) -> str:
    """The text of README.md: results per seed, budgets, certificate, components, and how to reproduce them."""
    scores = [run.score["bits_per_byte"] for run in runs]
    spread = f", s.d. {deviation(scores):.6f}" if len(runs) > 1 else ""
    first = runs[0]
    parts = [
        f"# {name}",
        "",
        f"{blurb(name)}",
        "",
        f"**{mean(scores):.6f} bits per byte**{spread}, n = {len(runs)}; at most {max(run.total_bytes for run in runs):,} of "
        f"{cap(first):,} bytes{over_cap(runs)}; {'certified legal' if all(run.is_legal for run in runs) else 'NOT certified as legal'}.",
        "",
        "Written by `python -m stages.submission`: every number is from a file of a run, nothing is typed.",
        "",
        "## Seeds",
        "",
        "| seed | val_bpb | val_loss | code bytes | model bytes | total | steps | making s | evaluation s | certificate |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for run in runs:
        parts.append(
            f"| {run.seed} | {run.score['bits_per_byte']:.6f} | {run.score['loss_nats']:.6f} | {run.code_bytes:,} | "
            f"{run.blob_bytes:,} | {run.total_bytes:,} | {run.train['steps']:,} | {run.making_seconds:.1f} | "
            f"{run.score['seconds']:.1f} | {verdict(run)} |"
        )
    parts.append(
        f"| mean | {mean(scores):.6f} | {mean([run.score['loss_nats'] for run in runs]):.6f} | | | "
        f"{mean([run.total_bytes for run in runs]):,.0f} | | | | |"
    )
    parts += ["", "Making is training, adapting and calibrating. All seeds of the command below are here, whatever they scored.", ""]
    parts += [f"* {key.replace('_', ' ')} test against {test.mean + test.gain:.6f}: {test.sentence}" for key, test in tests.items()]
    parts += [
        "## Budgets",
        "",
        f"Hardware: {hardware(first)}. "
        + (
            "Training and evaluation are to take 600 s each on 8 H100."
            if is_the_fields(first)
            else "This is not the field's 8 H100: the seconds say nothing about the field's two budgets of 600 s."
        ),
        "",
        "## Certificate",
        "",
        "| check | " + " | ".join(f"seed {run.seed}" for run in runs) + " |",
        "|---|" + "---|" * len(runs),
    ]
    parts += [f"| {check} | " + " | ".join(_check(run, check) for run in runs) + " |" for check in first.certificate["checks"]]
    parts += [
        "",
        "## Components",
        "",
        f"Source of the stack: {source(name)}",
        "",
        "| setting | value | published | |",
        "|---|---|---|---|",
        *components(name, first),
        "",
        "## Again",
        "",
        "```sh",
        "make setup",
        command,
        "torchrun --standalone --nproc-per-node=8 train_gpt.py     # alone, beside data/ with train, holdout and val",
        "```",
        "",
        f"Torch {first.train['torch']}, Python {first.environment['python']}, text sha256 {first.score.get('text_sha256', '')}.",
    ]
    return "\n".join(parts) + "\n"


def verdict(run: Run) -> str:
    return str(run.certificate.get("verdict", "legal" if run.is_legal else "not legal"))


def _check(run: Run, check: str) -> str:
    found = run.certificate["checks"].get(check)
    return found["verdict"] if isinstance(found, dict) else str(found)


def components(name: str, run: Run) -> list[str]:
    """Every setting of the recipe: what ran, what was published, and whether they are the same."""
    tree = params.read(closure.ROOT / "params.yaml")
    published = catalog.values(name, tree) if name in catalog.names() else {}
    rows = []
    for path, value in published.items():
        if path == "train.seed" or path.startswith(("prepare.path", "evaluate.runs")):
            continue
        ran = params.lookup(run.tree, path)
        mark = "as run" if ran == value else "changed"
        rows.append(f"| `{path}` | `{json.dumps(ran)}` | `{json.dumps(value)}` | {mark} |")
    return rows or ["| | all of params.yaml | | |"]
