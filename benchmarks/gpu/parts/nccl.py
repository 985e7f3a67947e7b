"""NCCL starts with one process, and its collectives return what they are given; in the CPU form it is gloo.

These are the collectives that training and calibration use, with their types. That several processes agree needs several GPUs.
"""

import time

import torch
import torch.distributed as dist

from benchmarks.gpu.context import Context
from stages.train.optim import muon


def measure(context: Context) -> None:
    backend = "gloo" if context.is_small else "nccl"
    started = time.perf_counter()
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    for name, call, dtype in (
        ("all_reduce, sum", lambda x: dist.all_reduce(x), torch.float32),
        ("all_reduce, sum", lambda x: dist.all_reduce(x), torch.bfloat16),
        ("all_reduce, largest", lambda x: dist.all_reduce(x, dist.ReduceOp.MAX), torch.float64),
        ("reduce_scatter", scattered, torch.float32),
        ("all_gather", gathered, torch.bfloat16),
    ):
        x = torch.arange(4096, device=context.device).view(4, 32, 32).to(dtype)
        wanted = x.clone()
        call(x)
        context.note(f"{name}, {dtype}", "equal" if torch.equal(x, wanted) else "differs", goal="equal", holds=torch.equal(x, wanted))
    dist.destroy_process_group()
    context.note(f"{backend}: start, calls and end", round(time.perf_counter() - started, 2), "s")


def scattered(x: torch.Tensor) -> None:
    muon.reduce_scatter(x, x.clone(), op=dist.ReduceOp.SUM, async_op=True).wait()


def gathered(x: torch.Tensor) -> None:
    muon.all_gather(x, x.clone(), async_op=True).wait()
