"""A rehearsal: a recipe at its published sizes, with so little work that a CPU takes it from text to a certificate in minutes.

What decides whether a run fits, in bytes, memory and code, stays: layers, widths, vocabulary, rows of the published length, quantizer,
codec, evaluator. What only repeats is cut: text, steps, sequences of calibration, windows per pass, tokens that the audit tries.

| amount                       | becomes                                                                                     |
|------------------------------|---------------------------------------------------------------------------------------------|
| text                         | documents of a local file in the order of the file; the first are val, the last are holdout |
| vocabulary                   | of the published size, trained on that text; or a given tokenizer                           |
| steps                        | 2; the recurrence and rounding in training keep their share of the run                      |
| a step                       | 8 rows, one at a time; none before the clock starts                                         |
| calibration                  | 2 sequences at most                                                                         |
| windows of an evaluator      | 2 per pass                                                                                  |
| phases of test-time training | after 2, 3, ... documents                                                                   |
| audit                        | 1 flip, 1 tried token, 4 replayed and 4 coded targets, probes of 512 targets                |
"""

import copy

from stages.lib.node.params import require
from stages.recipes import budget, shrink

STEPS, ROWS, WINDOWS, SEQUENCES = 2, 8, 2, 2
VAL_DOCUMENTS, HOLDOUT_DOCUMENTS = 5, 4
TEXT = "data/rehearsal.jsonl"
FIXED = {
    "prepare.source": "local",
    "prepare.path": TEXT,
    "prepare.split": "first",
    "prepare.max_bytes": None,
    "prepare.val_documents": VAL_DOCUMENTS,
    "prepare.holdout_documents": HOLDOUT_DOCUMENTS,
    "text_compressors.train_bytes": 1_000_000,
    "vocabulary.source": "bpe",
    "vocabulary.sample_documents": None,
    "tokenize.shard_tokens": 500_000,  # gives several shards, because the coprime loader mixes shards
    "train.steps": STEPS,
    "train.seconds": None,
    "train.reserve_seconds": 0.0,
    "train.clock": [],
    "train.holdout_every": STEPS,
    "train.priming_steps": 0,
    "train.processes": 1,
    "ema.tokens": 2048,
    "calibrate.processes": 1,
    "prequant_ttt.epochs": 1,
    "prequant_ttt.processes": 1,
    "audit.replayed": 16,
    "audit.round_trip": 4,
    "audit.memorization_tokens": 2048,
}


def values(tree: dict, *, tokenizer: str | None = None) -> dict:
    """Values by path that turn the parsed params.yaml of a recipe into its rehearsal. `tokenizer`: a .model file of the published
    vocabulary. ValueError if its number of steps is not known."""
    train = tree["train"]
    steps = budget.steps(train, tree["model"]["features"])
    require(
        steps is not None, "a recipe whose budget is real seconds has no number of steps to cut; set train.clock, or train.seconds to null"
    )
    runs = {run: settings | {"options": _cut(settings["options"])} for run, settings in tree["evaluate"]["runs"].items()}
    length = train["sequence_length"]
    return (
        FIXED
        | shrink.counted_in_steps(tree, steps, STEPS)
        | ({"vocabulary.source": "file", "vocabulary.path": tokenizer} if tokenizer else {})
        | {
            "train.batch_tokens": ROWS * length,
            "train.micro_batch_tokens": length,
            "calibrate.sequences": min(SEQUENCES, tree["calibrate"]["sequences"]),
            "package.options": _cut(tree["package"]["options"]),
            "package.other_options": {name: _cut(found) for name, found in tree["package"]["other_options"].items()},
            "evaluate.runs": runs,
        }
    )


def _cut(options: dict) -> dict:
    """An evaluator's options with fewer windows per pass, and with phases that start after a few documents."""
    out = copy.deepcopy(options)
    if "batch" in out:
        out["batch"] = min(WINDOWS, out["batch"])
    if "phases" in out:
        out["phases"] = [number + 2 for number in range(len(out["phases"]))]
    return out
