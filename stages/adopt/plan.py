"""The parameters of both ways: as the recipe publishes it, and ours. They share text, weights and calibration."""

import copy
from pathlib import Path

from stages.recipes import catalog

OURS = "covariance"  # the run of compress.runs that is ours
WEIGHTS = "weights"
WAYS = ("published", "ours")


def trees(tree: dict, recipe: dict, given: dict, *, stack: str, tokens: Path, sha256: str) -> dict[str, dict]:
    """params.yaml for each way, parsed. `tree` is params.yaml as it is, whose quantizer is ours; `recipe` are values by path, and `given`
    those of the user, which hold for ours alone where they are of quantize."""
    base = catalog.applied(recipe | shared(stack, tokens, sha256), tree)
    is_quantizer = {path: path.split(".")[0] == "quantize" for path in given}
    base = catalog.applied({path: value for path, value in given.items() if not is_quantizer[path]}, base)
    ours = copy.deepcopy(base) | {"quantize": copy.deepcopy(tree["quantize"])}
    name, run = scored(base)
    ours["compress"] = {"runs": {OURS: tree["compress"]["runs"][OURS]}}
    ours["package"] |= {
        "blob": f"compress/{OURS}",
        "evaluators": [run["evaluator"]],
        "evaluator": run["evaluator"],
        "options": run["options"],
    }
    ours["evaluate"] = {"runs": {name: run}}
    # steps of rows as GPTQ's clipping has them: the gradients for finer ones would double the calibration, and both ways share it
    ours["quantize"]["entropy"]["row_steps"] = "std"
    ours = catalog.applied({path: value for path, value in given.items() if is_quantizer[path]}, ours)
    published = base | {"evaluate": ours["evaluate"], "package": ours["package"] | {"blob": base["package"]["blob"]}}
    return {"published": published, "ours": ours}


def shared(stack: str, tokens: Path, sha256: str) -> dict:
    """Values by path that both ways have besides the recipe: the text, and weights in the place of a training."""
    return {
        "prepare.source": "local",
        "prepare.path": str(tokens.resolve()),
        "vocabulary.source": "shards",
        "vocabulary.path": str(tokens.resolve()),
        "train.adopt.path": WEIGHTS,
        "train.adopt.stack": stack,
        "train.adopt.sha256": sha256,
        "train.processes": 1,
        "ema.average": "final",
        "ema.candidates": [],
        "prequant_ttt.enabled": False,
        "calibrate.processes": 1,
        "memory.bytes": 0,
    }


def scored(tree: dict) -> tuple[str, dict]:
    """The run of evaluate.runs that is certified: sliding windows, which every recipe but the naive one has, else the first."""
    runs = tree["evaluate"]["runs"]
    name = "sliding" if "sliding" in runs else next(iter(runs))
    return name, runs[name]
