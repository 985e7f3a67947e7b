"""A training in a folder of its own, by the pipeline's stages as functions: the small pilot of a text, and every run of the rules' fit."""

import contextlib
import importlib
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.lib.node import files, stage, tensors
from stages.lib.tokens import splits, window_score
from stages.recipes.dial import sizes
from stages.runtime.base import plugin
from stages.runtime.scoring import harness
from stages.runtime.text import memory
from stages.runtime.text.tokenizer import BOS
from stages.runtime.weights import dequantize

TARGETS, MEMORY_TARGETS = 60_000, 30_000  # of val that are scored in plain windows, and by the evaluator `memory`
BYTES = 1_500_000  # of text that a run of the rules' fit is made with
MOST_BYTES, PIECES = 8_000_000, 512  # of text that a pilot is made with, and the fewest pieces of it: no document has more than its share
VAL_SHARE, VAL_PIECES, MOST_VAL = 0.06, 8, 0.25  # share that is val, unless so many documents are more, but never more than the last
PART = 8  # the text's influence on `memory` is measured between one of so many parts of it and the whole
FIXED = {"train.threads": 1, "train.device": "cpu", "train.checkpoint_seconds": 1e6}
SIZES = sizes.Sizes(layers=2, width=96, vocabulary=1024, context=128, batch_tokens=2048, steps=98, matrix_learning_rate=0.04)


@dataclass(frozen=True)
class Trained:
    """bits_per_byte of val in plain windows with the average of the weights, and of its beginning by the evaluator `memory`, which counts
    the train text and falls as (text)^-memory_power. `spread` is the standard error of that score as a share of it, because it has only
    `documents`; core_seconds are those of the whole stage. None: not measured."""

    bits_per_byte: float
    memory_bits_per_byte: float
    parameters: int
    train_tokens: int
    train_bytes: int
    val_bytes: int
    flops_per_token: int
    core_seconds: float | None = None
    memory_power: float | None = None
    spread: float = 0.0
    documents: int = 1


def values(documents: int) -> dict:
    """Values by path of a pilot, beside those of its text, which has so many documents."""
    shares = {f"prepare.{split}_fraction": min(MOST_VAL, max(VAL_SHARE, VAL_PIECES / documents)) for split in ("val", "holdout")}
    return sizes.values(SIZES) | shares | {"prepare.max_bytes": 2 * MOST_BYTES, "prepare.fraction": 1.0} | FIXED


def tokenized(folder: Path, tree: dict) -> Path:
    """The text of `tree` (a parsed params.yaml) split and tokenized below `folder`; unchanged if it is there already."""
    place = folder / "artifacts/tokenize"
    if not place.is_dir():
        for node, variant in (("prepare", None), ("vocabulary", None), *(("tokenize", split) for split in ("train", "holdout", "val"))):
            _run(folder, node, tree, variant)
    return place


def trained(folder: Path, tokens: Path, tree: dict, *, is_pilot: bool = False) -> Trained:
    """Train on `tokens` as `tree` says, and score val. `folder` is used for the weights. `is_pilot`: with memory_power and spread."""
    before = time.process_time()
    _run(folder, "train", tree, None, train_tokens=tokens / "train", holdout_tokens=tokens / "holdout")
    core_seconds = time.process_time() - before
    made = folder / "artifacts/train"
    facts = files.read_json(made / "metrics.json")
    state, about = tensors.load(made / f"averages/{tree['ema']['average']}.safetensors")
    train, val = splits.read(tokens / "train", "train"), splits.read(tokens / "val", "val", sidecar=True)
    net, window = dequantize.build(state, about["model"]), tree["plain_score"]["window"]
    score = window_score.chunked(net, val, window=window, max_targets=TARGETS)
    most = TARGETS if is_pilot else MEMORY_TARGETS
    beginning, counts = np.asarray(val.tokens[: most + 1], np.int64), val.byte_counts[1 : most + 1]

    def by_memory(number: int) -> np.ndarray:
        net.text = memory.pack(np.asarray(train.tokens[:number]))
        return harness.score(plugin.load("evaluators", "memory").Evaluator(net, **tree["package"]["options"]), beginning).nats

    nats, more = by_memory(len(train.tokens)), {}
    if is_pilot:
        power = math.log(by_memory(len(train.tokens) // PART).sum() / nats.sum()) / math.log(PART)
        starts = np.flatnonzero(beginning[:-1] == BOS)
        more = {"memory_power": power, "spread": _spread(nats, counts, starts), "documents": len(starts)}
    return Trained(
        score.bits_per_byte,
        float(nats.sum()) / math.log(2) / int(counts.sum()),
        facts["parameters"],
        len(train.tokens),
        train.facts["bytes"],
        val.facts["bytes"],
        facts["training_flops_per_token"],
        core_seconds,
        **more,
    )


def _spread(nats: np.ndarray, counts: np.ndarray, starts: np.ndarray) -> float:
    """Standard error of Σ nats / Σ bytes over documents that begin at `starts`, as a share of it: sqrt(Σ (n_i - r b_i)²) / Σ n_i."""
    of_documents, sizes_of = np.add.reduceat(nats, starts), np.add.reduceat(counts.astype(np.float64), starts)
    return float(np.sqrt(np.square(of_documents - nats.sum() / counts.sum() * sizes_of).sum()) / nats.sum())


def _run(folder: Path, node: str, tree: dict, variant: str | None, **paths: Path) -> None:
    """One stage as a function; declared paths other than the text lie below `folder`. What it prints is left out."""
    main = importlib.import_module(f"stages.{node}.__main__").main
    arguments = stage.arguments_of(main, tree, variant=variant)
    for name, path in arguments.items():
        if isinstance(path, Path) and path.parts[0] in ("artifacts", "scratch"):
            arguments[name] = folder / path
    with open(os.devnull, "w") as silent, contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        main(**arguments | paths)
    sys.stdout.flush()
