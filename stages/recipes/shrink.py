"""Shrink a recipe: every feature stays on, only sizes change, and the built-in text leads to a certificate in minutes on a CPU.

Sizes shrink and choices stay. Layers, ratios of heads and of the feed-forward part, wiring, loader, optimizer, schedule, rates,
averages, codec, evaluator and epochs stay. A number of steps keeps its share of the run (also first steps and decays), a number of
tokens keeps its share of a row, and a number of features keeps its share of the width.

| size                                           | becomes                                                    |
|------------------------------------------------|------------------------------------------------------------|
| width, and what is measured in it              | 64; rotary dimensions at least 4                           |
| vocabulary, tables                             | 512 pieces; tables a sixteenth as high and an eighth as wide |
| rows, batches                                  | 64 tokens, 16 rows                                         |
| steps                                          | 24; a budget in seconds and its clock are off              |
| evaluation windows                             | 64 tokens, a quarter of it per pass unless they do not overlap |
| test-time training                             | as many windows a chunk; for adapters 48 targets, ranks by share, a pass per document |
| quantize.min_elements, quantize.awq            | the same share of a matrix                                 |
| train.context                                  | the same share of a row                                    |
| documents at once                              | 8 slots in 2 shares, 4 a pass                              |
| package.cap_bytes, if the quantizer fills it   | the same bytes per weight beside 95,000 for the script     |
| text                                           | 240,000 bytes of the built-in text                         |
"""

import copy
import re

from stages.lib.node.params import require
from stages.lib.training import averages
from stages.recipes import budget

WIDTH, VOCABULARY, LENGTH, ROWS, STEPS = 64, 512, 64, 16, 24
SCRIPT_BYTES = 95_000
TABLE_SHARE = 16  # hashed tables have this many times fewer rows
SMALLEST_ROTATION = 4  # rope_trained_length needs more than 2 dimensions
FIXED = {
    "prepare.source": "builtin",
    "prepare.split": "hash",
    "prepare.max_bytes": 240_000,
    "text_compressors.train_bytes": 100_000,
    "vocabulary.source": "bpe",
    "vocabulary.size": VOCABULARY,
    "vocabulary.sample_documents": None,
    "tokenize.shard_tokens": 20_000,  # gives several shards, because the coprime loader mixes shards
    "train.steps": STEPS,
    "train.seconds": None,
    "train.reserve_seconds": 0.0,
    "train.clock": [],
    "train.sequence_length": LENGTH,
    "train.batch_tokens": ROWS * LENGTH,
    "train.micro_batch_tokens": ROWS * LENGTH // 2,
    "train.holdout_every": STEPS // 2,
    "train.device": "cpu",
    "train.processes": 1,
    "train.threads": 1,  # two threads are no faster at this size, and 40 times slower when other programs use the cores
    "prequant_ttt.sequence_length": LENGTH,
    "prequant_ttt.batch_tokens": ROWS * LENGTH // 4,
    "prequant_ttt.device": "cpu",
    "prequant_ttt.processes": 1,
    "prequant_ttt.threads": 1,
    "calibrate.device": "cpu",
    "calibrate.processes": 1,
    "calibrate.threads": 1,
    "calibrate.sequences": ROWS,
    "calibrate.sequence_length": LENGTH,
    "ema.window": LENGTH,
    "plain_score.after": ["quantize"],
    "plain_score.window": LENGTH,
    "audit.replayed": 100,
    "audit.round_trip": 16,
}


def values(tree: dict) -> dict:
    """Values by path that shrink the parsed params.yaml of a recipe. ValueError if its number of steps is not known."""
    steps = budget.steps(tree["train"], tree["model"]["features"])
    require(
        steps is not None,
        "a recipe whose budget is real seconds has no number of steps to shrink; set train.clock, or train.seconds to null",
    )
    length = tree["train"]["sequence_length"]
    runs = {run: copy.deepcopy(settings) for run, settings in tree["evaluate"]["runs"].items()}
    for settings in runs.values():
        settings["options"] = _windows(settings["options"])
    options = _windows(tree["package"]["options"])
    others = {name: _windows(found) for name, found in tree["package"]["other_options"].items()}
    return (
        FIXED
        | counted_in_steps(tree, steps, STEPS)
        | _model(tree, steps)
        | {"package.options": options, "package.other_options": others, "evaluate.runs": runs}
        | {"quantize.min_elements": _min_elements(tree["quantize"]["min_elements"], tree), "quantize.awq": _awq(tree)}
        | {"train.context": [[round(LENGTH * tokens / length), end] for tokens, end in tree["train"]["context"]]}
        | _cap(tree)
    )


def _cap(tree: dict) -> dict:
    """A cap that a small model reaches: its matrices grow with the square of the width, its tables with the width and the vocabulary."""
    if tree["quantize"]["entropy"]["target_bytes"] != "auto":
        return {}
    share, model = WIDTH / tree["model"]["width"], tree["model"]
    attention = 2 * model["width"] * (1 + model["num_kv_heads"] / model["num_heads"])
    matrices = model["num_layers"] * model["width"] * (attention + 2 * model["mlp_width"])
    weights, table = VOCABULARY * WIDTH + share**2 * matrices, tree["vocabulary"]["size"] * model["width"]
    return {"package.cap_bytes": SCRIPT_BYTES + round(tree["package"]["cap_bytes"] * weights / (table + matrices))}


def counted_in_steps(tree: dict, steps: budget.Steps, into: int) -> dict:
    """Values by path of everything that is counted in steps, for a run of `into` steps: each keeps its share of the run."""
    features = {name: _recurrence(name, dict(options), steps, into) for name, options in tree["model"]["features"].items()}
    return _train(tree["train"], steps, into) | _averages(tree, steps, into) | {"model.features": features}


def _recurrence(name: str, options: dict, steps: budget.Steps, into: int) -> dict:
    """A feature's options; a recurrence starts at the same share of the steps, whether steps or seconds started it."""
    if name == "depth_recurrence" and steps.plain:
        options |= {"start_step": _steps(steps.plain, steps, into), "start_fraction": 0.0}
    return options


def _min_elements(number: int, tree: dict) -> int:
    """The threshold that the same matrices as at full size reach."""
    return round((number - 1) * (WIDTH / tree["model"]["width"]) ** 2) + 1


def _awq(tree: dict) -> dict:
    awq = tree["quantize"]["awq"]
    return awq | {
        "columns": max(1, awq["columns"] * WIDTH // tree["model"]["width"]),
        "min_elements": _min_elements(awq["min_elements"], tree),
    }


def _windows(options: dict) -> dict:
    """An evaluator's options with small windows; options that depend on the window or on the model's width shrink too."""
    out = options | {"window": LENGTH}
    if "stride" in options:
        out["stride"] = LENGTH if options["stride"] == options["window"] else LENGTH // 4
    if "epochs" in options:  # score-first training of all weights: whole windows per chunk
        out["chunk"] = options["chunk"] // options["window"] * LENGTH
    elif "chunk" in options:  # adapters
        out |= {"chunk": 3 * LENGTH // 4, "rank": max(4, options["rank"] * WIDTH // 512)}
    if "slots" in options:
        out |= {"slots": 8, "shares": 2, "group": 4}
    if "precision" in options:
        out["precision"] = "float32"  # a CPU has no other
    if "phases" in options:
        out |= {
            "phases": [number + 1 for number in range(len(options["phases"]))],
            "phase_chunk": options["phase_chunk"] // options["window"] * LENGTH,
        }
    return out


def _model(tree: dict, steps: budget.Steps) -> dict:
    model = tree["model"]
    share = WIDTH / model["width"]
    rotated = max(SMALLEST_ROTATION, 2 * round(share * model["rope_dims"] / 2))
    longer = LENGTH / tree["train"]["sequence_length"]
    return {
        "model.width": WIDTH,
        "model.mlp_width": round(share * model["mlp_width"]),
        "model.rope_dims": rotated,
        "model.rope_trained_length": round(longer * model["rope_trained_length"]),
        "model.features": {name: _feature(name, options, share, steps) for name, options in model["features"].items()},
    }


def _feature(name: str, options: dict, share: float, steps: budget.Steps) -> dict:
    """A feature's options: the widths and heights of its tables, windows that would not fit, and when its recurrence starts."""
    out = dict(options)
    if "width" in options:
        out["width"] = round(share * options["width"])
    if "buckets" in options:
        out["buckets"] = options["buckets"] // TABLE_SHARE
    if "window" in options:
        out["window"] = min(options["window"], WIDTH)
    return _recurrence(name, out, steps, STEPS)


def _train(train: dict, steps: budget.Steps, into: int) -> dict:
    """All settings of `train` that are counted in steps, shrunk."""
    out = {
        path: _steps(value, steps, into)
        for path, value in {
            "train.muon.momentum_warmup_steps": train["muon"]["momentum_warmup_steps"],
            "train.priming_steps": train["priming_steps"],
            "train.context_warmup_steps": train["context_warmup_steps"],
            "train.qat.earliest_step": train["qat"]["earliest_step"],
            "train.qat.ramp_steps": train["qat"]["ramp_steps"],
            "train.averages.swa_every": train["averages"]["swa_every"],
            "train.averages.lawa_every": train["averages"]["lawa_every"],
        }.items()
    }
    if train["schedule"] == "iterations":
        out["train.warmdown"] = float(_steps(train["warmdown"], steps, into))
    return out


def _averages(tree: dict, steps: budget.Steps, into: int) -> dict:
    """Decays with the same effective length relative to the run, and the averages' names that follow from them."""
    decays = tree["train"]["averages"]["ema"]
    section = tree["ema"]
    return {
        "train.averages.ema": [_decay(decay, steps, into) for decay in decays],
        "ema.average": _renamed(section["average"], steps, into),
        "ema.candidates": [_renamed(name, steps, into) for name in section["candidates"]],
    }


def _decay(decay: float, steps: budget.Steps, into: int) -> float:
    """The decay per step whose product over the small run equals that of `decay` over the full run."""
    return round(decay ** (steps.total / into), 4)


def _renamed(name: str, steps: budget.Steps, into: int) -> str:
    """The name of an exponential average, kept or post-hoc, with the decay of the small run. Names of power averages stay: their exponent
    does not depend on the number of steps."""
    found = re.fullmatch(r"(posthoc_|)ema_([0-9.e-]+)", name)
    return found[1] + averages.name(_decay(float(found[2]), steps, into)) if found else name


def _steps(number: float, steps: budget.Steps, into: int) -> int:
    """`number` of steps as the same share of a run of `into` steps; at least 1 unless `number` is 0."""
    return max(1, round(number * into / steps.total)) if number else 0
