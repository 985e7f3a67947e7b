"""Train a GPT on the train shards, with Muon for the matrices and AdamW for the rest. Several averages of the weights are kept.

It runs in one process, or several through torchrun (train.processes). If it is killed at any moment, the same command continues from its
last checkpoint under scratch/. With train.adopt, finished weights take the place of the training (adoption.py).
"""

import contextlib
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch

from stages.lib.node import closure, files, launch, tensors
from stages.lib.node.scratch import key
from stages.lib.node.stage import Input, Metrics, Output, Plot, Untracked
from stages.lib.tokens import splits
from stages.runtime.base import plugin
from stages.runtime.network import backends
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT, initialise
from stages.train import checkpoints, loop, numerics, techniques
from stages.train.prefetch import Prefetcher
from stages.train.settings import LOADERS, TrainSettings, check


@dataclass(frozen=True)
class Model:
    SECTION: ClassVar[str] = "model"
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    mlp_width: int
    mlp_negative_slope: float
    rope_dims: int
    rope_base: float
    rope_trained_length: int
    query_gain: float
    logit_softcap: float
    tied_head: bool
    embedding_std: float
    initialisation: Literal["published", "naive"]
    attention_backend: Literal["auto", "plain", "sdpa", "varlen", "flash2", "flash3", "flash4"]  # not part of the architecture
    features: dict


def main(
    settings: TrainSettings,
    architecture: Model,
    *,
    train_tokens: Input = "artifacts/tokenize/train",
    holdout_tokens: Input = "artifacts/tokenize/holdout",
    weights: Output = "artifacts/train/model.safetensors",
    averages: Output = "artifacts/train/averages",
    snapshots: Output = "artifacts/train/snapshots",
    curve: Plot = "artifacts/train/loss.csv",
    metrics: Metrics = "artifacts/train/metrics.json",
    scratch: Untracked = "scratch/train",
    live: Untracked = "dvclive",
) -> None:
    check(settings)
    text, holdout = splits.read(train_tokens, "train"), splits.read(holdout_tokens, "holdout", sidecar=True)
    sizes = asdict(architecture)
    asked = sizes.pop("attention_backend")
    config = ModelConfig(vocabulary_size=text.vocabulary_size, **sizes)
    if settings.adopt.path is not None:
        from stages.train import adoption  # not part of the one script

        return adoption.hand_on(settings, config, text, holdout, weights, averages, snapshots, curve, metrics)
    precision = numerics.resolve(settings.precision, launch.device_type(settings.device))
    batches = plugin.load_from(LOADERS, settings.loader).Loader(
        text.tokens, sequence_length=settings.sequence_length, batch_tokens=settings.batch_tokens, seed=settings.seed, section="train"
    )
    batches.set_context(settings.context, settings.context_warmup_steps)
    batches.check_processes(settings.processes)
    batches.check_parts(settings.micro_batch_tokens, settings.processes)
    with torch.device("meta"):
        net = GPT(config)  # raises a clear error if a feature's settings are wrong
    programs = loop.programs(settings, launch.device_type(settings.device), net)
    backend = _backend(asked, settings, precision, config, compiled=programs["compiled"])
    chosen = {"precision": precision, "attention_backend": backend, **programs}
    if launch.relaunched(settings.processes, "stages.train", settings.device):  # after the checks, so one process reports errors
        return
    with launch.world(settings.device, threads=settings.threads) as world:
        model = GPT(config)
        initialise(model, generator=torch.Generator().manual_seed(settings.seed))
        numerics.store(model, precision)
        model.attention_backend = asked
        for feature in model.hooks.having["vocabulary"]:
            feature.vocabulary(text.facts)
        run = loop.start(model.to(world.device), settings, world, text.tokens)
        source = Prefetcher(batches, world, part_tokens=settings.micro_batch_tokens, is_ahead=world.device.type == "cuda")
        folder = checkpoints.Folder(scratch / _key(settings, config, text, holdout, world, chosen))
        with folder.locked() if world.is_main else contextlib.nullcontext():
            if saved := folder.latest():
                loop.restore(run, source, *saved)
            if world.is_main:
                folder.drop_snapshots_after(run.step)
                print(
                    f"{num_parameters(model):,} parameters on {world.device.type} ({precision}, attention by "
                    f"{chosen['attention_backend']}{', compiled' * chosen['compiled']}{', fused loss' * chosen['fused_loss']}, "
                    f"{world.size} processes), from step {run.step}",
                    file=sys.stderr,
                )
            launch.require_same(
                run.step,
                world,
                "the processes found checkpoints of different steps, as happens when several machines do "
                "not share scratch/; share it, or remove scratch/train on all of them",
            )
            curves = None
            if settings.live and metrics and world.is_main:
                from stages.train.live import Curves  # not part of the one script

                curves = Curves(live, run.curve, steps=settings.steps).add
            loop.train(run, source, holdout, settings, world=world, precision=precision, folder=folder, seen=curves)
            if world.is_main:
                facts = {"model": config.to_dict(), "text_sha256": text.text_sha256, "seed": settings.seed}
                tensors.save(weights, numerics.leaving(model, run.weights()), facts)
                with files.atomic(averages) as partial:
                    partial.mkdir()
                    for average, weights_of in (run.averages.finished() | run.optimizers.averages()).items():
                        tensors.save(partial / f"{average}.safetensors", numerics.leaving(model, weights_of), facts)
                with files.atomic(snapshots) as partial:
                    partial.mkdir()
                    for path in sorted(folder.snapshots.glob("step_*.safetensors")):
                        shutil.copyfile(path, partial / path.name)
                if metrics:
                    from stages.train import reporting  # not part of the one script

                    reporting.write(metrics, curve, run, settings, world, chosen, text_sha256=text.text_sha256)
                folder.remove()


def _backend(asked: str, settings: TrainSettings, precision: str, config: ModelConfig, *, compiled: bool) -> str:
    """The back end that training will use. ValueError if it cannot, or if auto finds only sdpa for packed rows on a GPU and the loss is
    compiled: then sdpa builds a mask, 9.7 GB in each layer of #1855. What is not compiled goes through the segments instead."""
    dtype, packed = torch.bfloat16 if precision == "bf16" else torch.float32, settings.loader in ("packed", "progressive")
    generation, installed = backends.machine(dtype) if launch.device_type(settings.device) == "cuda" else (0, ())
    found = backends.choose(asked, generation=generation, dtype=dtype, head_width=config.head_width, packed=packed, installed=installed)
    if asked == "auto" and found == "sdpa" and packed and generation and compiled:
        raise ValueError(
            "model.attention_backend auto finds no kernel for packed documents, which needs compute capability 8.0, train.precision bf16, "
            "a head width that 8 divides, and torch 2.12 or flash-attn; set train.compile to never, or model.attention_backend to sdpa, "
            "which stores T² numbers for a row of T tokens"
        )
    return found


def num_parameters(model: GPT) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _key(settings: TrainSettings, config: ModelConfig, text: splits.Split, holdout: splits.Split, world: launch.World, chosen: dict) -> str:
    """Everything that decides the weights and the curve; not the pace of checkpoints, the number of processes, nor who watches."""
    named = {name: value for name, value in asdict(settings).items() if name not in ("checkpoint_seconds", "processes", "live")}
    code = closure.paths(
        "stages.train.__main__",
        f"{LOADERS}.{settings.loader}",
        *(f"{techniques.__name__}.{name}" for name in settings.techniques),
        *(f"{plugin.package('features')}.{name}" for name in config.features),
    )
    return key(named, config.to_dict(), text.facts, holdout.facts, world.device.type, chosen, torch.__version__, *code)


if __name__ == "__main__":
    from stages.lib.node import command

    launch.keep_freed_memory()  # only here, where the process is a training and nothing else
    command.run(main)
