"""Take finished weights in the place of a training (train.adopt). What follows works as if they had been trained here.

The record of the files that this stage opened then says that it is incomplete, because nobody here knows what the training opened. So the
audit does not rule on the lineage, and no score of the artifact is legal. Not part of the one script.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stages.lib.node import access_log, command, files, launch, tensors
from stages.lib.node.params import require
from stages.lib.tokens import splits, window_score
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT
from stages.train import loop, published, reporting
from stages.train.settings import Adoption, TrainSettings

FINAL = "final"
SUFFIX = ".safetensors"
UNKNOWN = "trained elsewhere: not ruled, because nobody here knows what the training opened"


def checkpoints(path: Path) -> dict[str, Path]:
    """The files by the name of their average: `path` is one file, which is called final, or a folder with final.safetensors and others,
    such as ema_0.997.safetensors. ValueError if there is none, or one of another kind."""
    path = Path(path)
    require(path.exists(), f"train.adopt.path {path} is missing; check the spelling")
    found = {file.stem: file for file in sorted(path.iterdir()) if not file.name.startswith(".")} if path.is_dir() else {FINAL: path}
    for file in found.values():
        require(
            file.suffix == SUFFIX,
            f"{file} is no {SUFFIX} file; convert a .pt file with: python -m stages.adopt {file} --convert {file.with_suffix(SUFFIX)}",
        )
    require(FINAL in found, f"{path} has no {FINAL}{SUFFIX}; give the weights that the training ended with that name")
    return found


def sha256(path: Path) -> str:
    """The hash of the file, or of the names and hashes of the files of the folder."""
    found = checkpoints(path)
    if not path.is_dir():
        return files.sha256(path)
    return hashlib.sha256("".join(f"{name} {files.sha256(file)}\n" for name, file in found.items()).encode()).hexdigest()


def read(path: Path, stack: str, config: ModelConfig) -> dict[str, Tensor]:
    """Our parameters from one checkpoint. ValueError naming the file."""
    access_log.report(path)  # safetensors opens the file outside of Python
    try:
        return published.parameters(load_file(path), stack, config)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); convert the checkpoint again") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def hand_on(
    settings: TrainSettings,
    config: ModelConfig,
    text: splits.Split,
    holdout: splits.Split,
    weights: Path,
    averages: Path,
    snapshots: Path,
    curve: Path,
    metrics: Path,
) -> None:
    """Write what a training writes. ValueError for a checkpoint that is not the model's, before anything is written."""
    adopt = settings.adopt
    check(adopt)
    command.cannot_be_complete(UNKNOWN)
    states = {name: read(file, adopt.stack, config) for name, file in checkpoints(Path(adopt.path)).items()}
    facts = {"model": config.to_dict(), "text_sha256": text.text_sha256, "seed": settings.seed}
    model = GPT(config).eval()
    model.load_state_dict(states[FINAL])
    with launch.world(settings.device, threads=settings.threads) as world:
        score = window_score.chunked(model.to(world.device), holdout, window=settings.sequence_length, max_targets=loop.HOLDOUT_TARGETS)
    tensors.save(weights, states.pop(FINAL), facts)
    with files.atomic(averages) as partial:
        partial.mkdir()
        for name, state in states.items():
            tensors.save(partial / f"{name}{SUFFIX}", state, facts)
    with files.atomic(snapshots) as partial:
        partial.mkdir()
    row = {"step": 0, "train_loss": None, "learning_rate_scale": None, "holdout_bits_per_byte": score.bits_per_byte}
    reporting.write_curve(curve, [row])
    unknown = dict.fromkeys(("clock", "tokens_per_second", "training_flops_per_token", "matmul_flops_per_second", "loss_nats", "gpu"))
    files.write_json(
        metrics,
        unknown
        | {
            "trained_elsewhere": {"stack": adopt.stack, "sha256": adopt.sha256, "averages": sorted(states)},
            "steps": 0,
            "train_seconds": 0.0,
            "budget": 0,
            "spent": 0,
            "budget_unit": "steps here; it was trained elsewhere",
            "model_flops_utilisation": None,
            "holdout_bits_per_byte": score.bits_per_byte,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "seed": settings.seed,
            "processes": 1,
            "device": world.device.type,
            "torch": torch.__version__,
            "text_sha256": text.text_sha256,
            "precision": "unknown",
            "attention_backend": "unknown",
        },
    )
    print(f"{FINAL}: {score.bits_per_byte:.4f} bits per byte of holdout; adopted, and {UNKNOWN}")


def check(adopt: Adoption) -> None:
    """ValueError unless stack and hash are given, and the hash is that of the files: it tells DVC when they change."""
    require(
        adopt.stack is not None,
        f"train.adopt.stack is null; it takes the stack whose names the checkpoint has: {', '.join(published.stacks())}",
    )
    found = sha256(Path(adopt.path))
    require(
        adopt.sha256 == found,
        f"train.adopt.sha256 is {adopt.sha256}, but that of {adopt.path} is {found}; set it, as DVC knows the files by it alone",
    )
