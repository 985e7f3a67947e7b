"""The hardware and the software of this machine, as rows of (fact, value)."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from benchmarks.gpu.context import Context

PACKAGES = ("numpy", "triton", "flash-attn", "flash-attn-3", "flash-attn-4", "sentencepiece", "pydantic")


def measure(context: Context) -> None:
    import torch

    has_cuda = torch.cuda.is_available()
    facts = {
        "gpu": torch.cuda.get_device_name() if has_cuda else None,
        "gpus": torch.cuda.device_count(),
        "compute capability": ".".join(map(str, torch.cuda.get_device_capability())) if has_cuda else None,
        "gpu memory, GiB": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if has_cuda else None,
        "driver": driver() if has_cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if has_cuda else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_cuda else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "processor cores": os.cpu_count(),
        "C compiler": shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"),  # for Triton
        "C++ compiler": shutil.which("g++") or shutil.which("clang++"),  # for what torch.compile leaves on the CPU
    }
    for what, value in (facts | {name: version(name) for name in PACKAGES}).items():
        context.note(what, value)


def driver() -> str | None:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None  # the page then says that it is not known


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
