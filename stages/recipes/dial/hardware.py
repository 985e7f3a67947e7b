"""What this machine can do, measured in a second; and what a GPU that is not here is assumed to do.

The rate is that of square matrix products (lib/node/launch.py). A training reaches a share of it, which rules.py knows. CARDS has the peak
of dense products in bfloat16, that of float32, and the memory, from NVIDIA's data sheets. Half of the float32 peak is what scoring is
assumed to reach, as in projection.py.
"""

import os
from dataclasses import dataclass

import torch

from stages.lib.node import launch
from stages.recipes import projection

CARDS = {  # FLOPs a second in bfloat16 (T4: float16) and in float32, bytes of memory
    "H200": (989e12, 67e12, 141e9),
    "H100": (989e12, 67e12, 80e9),
    "A100": (312e12, 19.5e12, 80e9),
    "L40S": (362e12, 91.6e12, 48e9),
    "L4": (121e12, 30.3e12, 24e9),
    "RTX 4090": (165e12, 82.6e12, 24e9),
    "RTX 3090": (71e12, 35.6e12, 24e9),
    "T4": (65e12, 8.1e12, 16e9),
}
THREADS = 2  # of a training on a processor; more gain little in networks of this size (docs/log.md)
ASSUMED = "H100"  # the contest's


@dataclass(frozen=True)
class Hardware:
    """`rate` in FLOPs a second of one device with `threads` threads, measured or assumed; `fp32_rate` of scoring;
    `memory` in bytes of one device. `gpus` 0: the processor."""

    name: str
    gpus: int
    threads: int
    rate: float
    fp32_rate: float
    memory: float
    is_measured: bool

    @property
    def devices(self) -> int:
        return max(1, self.gpus)


def found(gpus: int | None, card: str | None = None) -> Hardware:
    """This machine with so many of its GPUs (None: all that are here), or, if it has not that many, as many of `card`."""
    here = torch.cuda.device_count()
    gpus = here if gpus is None else gpus
    if card is not None and card not in CARDS:
        raise ValueError(f"--card {card!r} is not known; there are {', '.join(CARDS)}")
    if gpus and gpus <= here and card is None:
        device, half = torch.device("cuda"), torch.bfloat16
        measured = (launch.matmul_rate(device, kind) for kind in (half, torch.float32))
        return Hardware(launch.gpu_name(device), gpus, 1, *measured, torch.cuda.mem_get_info()[1], is_measured=True)
    if gpus:
        rate, fp32_rate, memory = CARDS[card or ASSUMED]
        return Hardware(card or ASSUMED, gpus, 1, rate, projection.SHARE * fp32_rate, memory, is_measured=False)
    threads = min(THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rate = launch.matmul_rate(torch.device("cpu"), torch.float32)
    finally:
        torch.set_num_threads(before)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware("processor", 0, threads, rate, rate, memory, is_measured=True)
