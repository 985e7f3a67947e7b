"""A training on random tokens: before its first step in this process, or as folders that the stage `train` reads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from stages.lib.node import files, launch, params, stage
from stages.lib.tokens.loader import Loader
from stages.lib.tokens.stream import Stream
from stages.runtime.base import plugin
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT, initialise
from stages.runtime.tokens import shards
from stages.train import __main__ as train
from stages.train import loop, numerics
from stages.train.settings import LOADERS, TrainSettings

BOS, DOCUMENT = 1, 1000  # every so many tokens a document begins


@contextmanager
def started(tree: dict) -> Iterator[tuple[loop.Run, Loader]]:
    """Initial weights and optimizers of a parsed params.yaml, as the stage `train` makes them, and its loader on random tokens."""
    settings, config = params.section(tree, TrainSettings), model_config(tree)
    with launch.world(settings.device, threads=settings.threads) as world:
        model = GPT(config)
        initialise(model, generator=torch.Generator().manual_seed(settings.seed))
        numerics.store(model, numerics.resolve(settings.precision, world.device.type))
        model.attention_backend = tree["model"]["attention_backend"]
        run = loop.start(model.to(world.device), settings, world)
        tokens = random_tokens(config.vocabulary_size, 4 * settings.batch_tokens + 4096)
        loader = plugin.load_from(LOADERS, settings.loader).Loader(
            Stream([tokens], name="random", vocabulary_size=config.vocabulary_size),
            sequence_length=settings.sequence_length,
            batch_tokens=settings.batch_tokens,
            seed=settings.seed,
            section="train",
        )
        yield run, loader


def stage_metrics(tree: dict, folder: Path) -> dict:
    """The metrics of the stage `train`, run in `folder` on random tokens. Only lengths of cu_seqlens that the text has are compiled."""
    write_tokens(folder, tree["vocabulary"]["size"], train=2 * tree["train"]["batch_tokens"] + 4096, holdout=40_000)
    before = Path.cwd()
    os.chdir(folder)
    try:
        loop.PRIMED_LENGTHS = 0
        train.main(**stage.arguments_of(train.main, tree))
        return files.read_json(Path("artifacts/train/metrics.json"))
    finally:
        os.chdir(before)


def model_config(tree: dict) -> ModelConfig:
    sizes = {name: value for name, value in tree["model"].items() if name != "attention_backend"}
    return ModelConfig(vocabulary_size=tree["vocabulary"]["size"], **sizes)


def random_model(tree: dict, device: str) -> GPT:
    """A model of normal weights with nothing at zero, for scoring: speed does not ask what the weights are."""
    model, generator = GPT(model_config(tree)), torch.Generator().manual_seed(0)
    initialise(model, generator=generator)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return model.eval().to(device)


def random_tokens(vocabulary: int, count: int, *, document: int = DOCUMENT) -> np.ndarray:
    """uint16 ids of equal probability, in documents of `document` tokens."""
    ids = np.random.default_rng(0).integers(4, vocabulary, count).astype(np.uint16)
    ids[::document] = BOS
    return ids


def write_tokens(folder: Path, vocabulary: int, *, train: int, holdout: int) -> None:
    """artifacts/tokenize/{train, holdout} of random tokens in `folder`, each of which stands for one byte."""
    for split, count in (("train", train), ("holdout", holdout)):
        place = folder / f"artifacts/tokenize/{split}"
        place.mkdir(parents=True)
        shards.write(place / f"random_{split}_000000.bin", random_tokens(vocabulary, count))
        shards.write(place / f"random_{split}_bytes_000000.bin", np.ones(count, np.uint16))
        facts = {"tokens": count, "bytes": count, "vocabulary_size": vocabulary, "text_sha256": "random", "tokenizer_sha256": "random"}
        files.write_json(place / "meta.json", facts)
