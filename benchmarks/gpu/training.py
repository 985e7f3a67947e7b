"""A training on random tokens: before its first step in this process, or as folders that the stage `train` reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stages.lib.node import files, launch, params
from stages.lib.tokens.stream import Stream
from stages.runtime.base import plugin
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT, initialise
from stages.runtime.tokens import shards
from stages.train import loop, numerics
from stages.train.prefetch import Prefetcher
from stages.train.settings import LOADERS, TrainSettings

BOS, DOCUMENT = 1, 1000  # every so many tokens a document begins


@dataclass
class Started:
    """A training before its first step, and what its steps take."""

    run: loop.Run
    batches: Prefetcher
    settings: TrainSettings
    world: launch.World
    precision: str


@contextmanager
def started(tree: dict, *, tokens: int) -> Iterator[Started]:
    """Initial weights, optimizers and loader of a parsed params.yaml, as the stage `train` makes them, on so many random tokens."""
    settings, config = params.section(tree, TrainSettings), model_config(tree)
    with launch.world(settings.device, threads=settings.threads) as world:
        precision = numerics.resolve(settings.precision, world.device.type)
        model = GPT(config)
        initialise(model, generator=torch.Generator().manual_seed(settings.seed))
        numerics.store(model, precision)
        model.attention_backend = tree["model"]["attention_backend"]
        run = loop.start(model.to(world.device), settings, world)
        loader = plugin.load_from(LOADERS, settings.loader).Loader(
            Stream([random_tokens(config.vocabulary_size, tokens)], name="random", vocabulary_size=config.vocabulary_size),
            sequence_length=settings.sequence_length,
            batch_tokens=settings.batch_tokens,
            seed=settings.seed,
            section="train",
        )
        yield Started(run, Prefetcher(loader, world, is_ahead=world.device.type == "cuda"), settings, world, precision)


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
