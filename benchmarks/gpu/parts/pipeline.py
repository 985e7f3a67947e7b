"""A training of pr1855 on the given text for the time that is left, and every stage behind it up to the score of the artifact.

The stages' main()s run in their order, without DVC. It differs from the published run in what a short time asks for: the running average
is short, few sequences calibrate, sliding windows have a long stride, and the coder `ans`, which needs no program, packs the weights. As
that coder is weaker than the published one, the feed-forward weights get steps as coarse as those of attention, so that the cap holds.
"""

import importlib
import json
import shutil
import time
from pathlib import Path

import yaml

from benchmarks.gpu import trees
from benchmarks.gpu.context import Context
from stages.lib.node import files, params, stage
from stages.train import loop

STAGES = (
    "script",
    "train",
    "ema",
    "prequant_ttt",
    "calibrate",
    "sensitivity",
    "memory",
    "fill_cap",
    "quantize",
    "compress@ans",
    "package",
    "evaluate@sliding",
)
PLAIN = "plain_score@quantize"  # the same weights in plain windows, by the pipeline instead of the artifact
AFTER_TRAINING = 100.0  # seconds that the stages behind the training, and compiling before it, may take
LEAST_TRAINING, TOLERANCE = 10.0, 0.01  # seconds; bits per byte


def measure(context: Context) -> None:
    params.require(context.data is not None, "no text was given; make some with `make gpu-data DATA=folder` and name it with DATA=folder")
    for name in ("tokenize", "vocabulary"):
        shutil.copytree(context.data / name, Path("artifacts") / name)
    facts = files.read_json(Path("artifacts/tokenize/train/meta.json"), required=("tokens", "vocabulary_size"))
    context.note("train tokens in the text", facts["tokens"])
    tree = parameters(context, facts["vocabulary_size"])
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    loop.PRIMED_LENGTHS = 0  # lengths that this text does not have would take minutes to compile
    for node in (*STAGES, PLAIN):
        name, _, variant = node.partition("@")
        if context.seconds_left() < 0:
            raise TimeoutError(f"no time was left for {node}")
        started = time.perf_counter()
        call = importlib.import_module(f"stages.{name}.__main__").main
        call(**stage.arguments_of(call, tree, variant=variant or None))
        context.note(f"{node}", round(time.perf_counter() - started, 1), "s")
        for what, value, unit in found(node):
            context.note(what, value, unit)
    made = files.read_json(Path("artifacts/package/metrics.json"))
    holds = made["artifact_bytes"] <= made["cap_bytes"]
    context.note("the artifact is within the cap", made["artifact_bytes"], "bytes", goal=f"{made['cap_bytes']:,}", holds=holds)
    sliding, plain = (
        files.read_json(Path(f"artifacts/{place}/metrics.json"))["bits_per_byte"] for place in ("evaluate/sliding", "plain_score/quantize")
    )
    # longer contexts can only help; the tolerance is for a training that has just begun
    goal, holds = f"at most {plain:.4f}, that of plain windows", sliding <= plain + TOLERANCE
    context.note("the artifact's score of val", sliding, "bits per byte", goal=goal, holds=holds)


def parameters(context: Context, vocabulary: int) -> dict:
    """The tree of this run. A training in small has the sizes and the few steps of trees.of instead of a time."""
    small = context.is_small
    published, ours = trees.of("pr1855", context.device, small=small), params.read(trees.ROOT / "params.yaml")
    window = 64 if small else 2048
    options = {"window": window, "stride": window // 2, "batch": 32}
    sliding = {"evaluator": "sliding", "options": options}
    more = {
        "vocabulary.size": vocabulary,
        "train.averages.ema": [0.9],
        "ema.average": "ema_0.9",
        "calibrate.sequences": 16 if small else 64,
        "quantize.groups.mlp.clip": published["quantize"]["groups"]["attention"]["clip"],
        "compress.runs": {"ans": ours["compress"]["runs"]["ans"]},
        "package.blob": "compress/ans",
        "package.evaluators": ["sliding"],
        "package.evaluator": "sliding",
        "package.options": options,
        "package.other_options": {},
        "evaluate.runs": {"sliding": sliding},
    }
    timed = {
        "train.seconds": max(LEAST_TRAINING, context.seconds_left() - AFTER_TRAINING),
        "train.steps": 1_000_000,
        "train.clock": [],
        "train.reserve_seconds": 0.0,
        "train.priming_steps": 3,  # their parts have nearly all lengths of cu_seqlens that this text has
        "train.compile": "always",
        "train.holdout_every": 1_000_000,
        "train.checkpoint_seconds": 3600.0,
    }
    return trees.of("pr1855", context.device, small=small, more=more | ({} if small else timed))


def found(node: str) -> list[tuple[str, float, str]]:
    """What a stage's metrics say."""
    place = Path("artifacts") / node.replace("@", "/") / "metrics.json"
    figures = json.loads(place.read_text(encoding="utf-8"))
    return {
        "train": lambda: [
            ("training", figures["train_seconds"], "s"),
            ("steps", figures["steps"], ""),
            ("speed", figures["tokens_per_second"], "tokens/s"),
            ("utilisation of the measured product", figures["model_flops_utilisation"], "MFU"),
            ("loss of the last steps", figures["loss_nats"], "nats"),
            ("holdout, plain windows", figures["holdout_bits_per_byte"], "bits per byte"),
            ("parameters", figures["parameters"], ""),
        ],
        "quantize": lambda: [("quantized", figures["bits_per_weight"], "bits per weight")],
        "compress@ans": lambda: [("blob", figures["blob_bytes"], "bytes")],
        "package": lambda: [("code", figures["code_bytes"], "bytes")],
        "evaluate@sliding": lambda: [
            ("val, sliding, scored by the artifact", figures["bits_per_byte"], "bits per byte"),
            ("speed of the artifact", figures["tokens"] / figures["seconds"], "targets/s"),
        ],
    }.get(node, list)()
