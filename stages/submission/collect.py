"""Keep and read finished runs: copies of the pipeline's files, with the environment that made them."""

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.lib.node import files, params
from stages.lib.node.params import require
from stages.lib.referee import time_budget

DONE = "done.json"
PACKAGES = ("torch", "numpy", "safetensors", "brotli", "zstandard", "constriction", "sentencepiece", "zipnn")
TAKEN = (
    "prepare/metrics.json",
    "train/metrics.json",
    "train/loss.csv",
    "ema/metrics.json",
    "prequant_ttt/metrics.json",
    "calibrate/metrics.json",
    "quantize/metrics.json",
    "package/metrics.json",
    "package/bytes.csv",
    "script/metrics.json",
    "script/bytes.csv",
    "script/train_gpt.py",
    "script/source",
)


@dataclass(frozen=True)
class Run:
    """One seed's run as it was kept. `blob_bytes` and `code_bytes` are the sizes of the submitted files."""

    folder: Path
    seed: int
    name: str  # of the run in evaluate.runs
    tree: dict  # params.yaml as it ran
    score: dict
    certificate: dict
    train: dict
    calibrate: dict
    quantize: dict
    prequant_ttt: dict
    environment: dict
    blob_bytes: int
    code_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.code_bytes + self.blob_bytes

    @property
    def making_seconds(self) -> float:
        """Seconds of everything that the contest counts as training: training, adaptation, calibration, tuning of the quantized weights."""
        parts = time_budget.making(train=self.train, prequant_ttt=self.prequant_ttt, calibrate=self.calibrate, quantize=self.quantize)
        return sum(parts.values())

    @property
    def is_legal(self) -> bool:
        return bool(self.certificate["legal"])


def run_of(tree: dict) -> str:
    """The run of evaluate.runs with the evaluator and options of `package`. ValueError if there is none."""
    wanted = {"evaluator": tree["package"]["evaluator"], "options": tree["package"]["options"]}
    found = [name for name, run in tree["evaluate"]["runs"].items() if {key: run[key] for key in wanted} == wanted]
    require(
        bool(found),
        "no run of evaluate.runs is what package.evaluator and package.options name; add one, it is the score that is submitted",
    )
    return found[0]


def keep(folder: Path, run: str, *, key: str, experiment: str) -> None:
    """Copy to `folder` the files that a submission needs of the run that is in artifacts/ now."""
    artifacts = Path("artifacts")
    shipped = files.read_json(artifacts / "package/metrics.json", required=("compress_run",))["compress_run"]
    with files.atomic(folder) as partial:
        partial.mkdir(parents=True)
        for name in (*TAKEN, f"evaluate/{run}/metrics.json", f"audit/{run}/certificate.json", f"compress/{shipped}/model.blob"):
            source, copy = artifacts / name, partial / name
            require(source.exists(), f"{source} is missing; run: dvc repro")
            copy.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
        shutil.copyfile("params.yaml", partial / "params.yaml")
        files.write_json(partial / DONE, {"key": key, "run": run, "experiment": experiment, "environment": environment()})


def environment() -> dict:
    """The software versions and hardware of this machine."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "packages": versions,
    }


def read(folder: Path) -> Run:
    """Read a kept run. ValueError if its files disagree with each other."""
    package = files.read_json(folder / "package/metrics.json", required=("compress_run",))
    done, tree = files.read_json(folder / DONE, required=("run", "environment")), params.read(folder / "params.yaml")
    run = done["run"]
    score = files.read_json(folder / f"evaluate/{run}/metrics.json", required=("bits_per_byte", "loss_nats", "tokens", "bytes", "seconds"))
    certificate = files.read_json(folder / f"audit/{run}/certificate.json", required=("legal", "checks", "bits_per_byte"))
    require(
        certificate["bits_per_byte"] == score["bits_per_byte"],
        f"the certificate in {folder} is of another score; remove the folder, and give the same command again",
    )
    return Run(
        folder,
        tree["train"]["seed"],
        run,
        tree,
        score,
        certificate,
        files.read_json(folder / "train/metrics.json"),
        files.read_json(folder / "calibrate/metrics.json"),
        files.read_json(folder / "quantize/metrics.json"),
        files.read_json(folder / "prequant_ttt/metrics.json"),
        done["environment"],
        (folder / "compress" / package["compress_run"] / "model.blob").stat().st_size,
        (folder / "script/train_gpt.py").stat().st_size,
    )


def check_alike(runs: list[Run]) -> None:
    """ValueError unless the runs differ only in their seed."""
    first = runs[0]
    for run in runs[1:]:
        same = run.tree | {"train": run.tree["train"] | {"seed": first.seed}} == first.tree
        require(
            same and (run.folder / "script/train_gpt.py").read_bytes() == (first.folder / "script/train_gpt.py").read_bytes(),
            f"seed {run.seed} ran with other parameters or code than seed {first.seed}; remove {run.folder.parent} and give the same "
            "command again",
        )
