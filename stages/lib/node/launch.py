"""Run a stage in one process or several. torchrun starts them; gloo (CPU) or NCCL (GPU) connects them."""

import contextlib
import ctypes
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from stages.lib.node import access_log
from stages.lib.node.access_log import is_worker

POLL_SECONDS = 1.0  # time between two looks at whether another process has failed
MEETING = timedelta(minutes=1)  # to reach the store: torchrun has made it before it starts a worker
WAITING = timedelta(minutes=30)  # for the last process, which may still check its text
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # options of mallopt in glibc's malloc.h
THREADS = 2  # fixed, because the last bits of CPU matrix products depend on the number of threads


@dataclass(frozen=True)
class World:
    """This process among all processes. Rank 0 writes files and prints."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def relaunched(processes: int, module: str, device: str) -> bool:
    """Run `processes` processes of `python -m module`, unless this is one of them or one is enough. True once they are done."""
    if processes == 1 or is_worker():
        return False
    from stages.lib.node import command  # not part of the one script

    command.torchrun(processes, module, device)
    return True


def device_type(device: str, *, section: str = "train") -> str:
    """cpu, cuda or mps (the GPU of a Mac), for one of these or auto, which is cuda or cpu. The error names `section` of params.yaml."""
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"{section}.device is mps, but torch sees no GPU of a Mac; set it to auto or cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{section}.device is cuda, but torch sees no GPU; set it to auto or cpu, or install a CUDA build of torch")
    return "cuda" if device in ("auto", "cuda") and torch.cuda.is_available() else device.replace("auto", "cpu")


def gpu_name(device: torch.device) -> str | None:
    """The GPU's name, by which a certificate tells machines apart. None on a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of the fastest of a few square matrix products here. A model's hardware utilisation is measured against it."""
    size, best = 8192 if device.type == "cuda" else 1024, math.inf
    # as random as weights are: a GPU multiplies equal numbers faster, because it draws less power for them
    a, b = torch.randn(2, size, size, device=device, dtype=dtype, generator=torch.Generator(device).manual_seed(0))
    for _ in range(6):
        started = time.perf_counter()
        product = a @ b
        product[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


@contextlib.contextmanager
def world(device: str, *, threads: int = THREADS, section: str = "train") -> Iterator[World]:
    """Join the process group if torchrun started one. `device` is auto, cpu, cuda or mps."""
    kind = device_type(device, section=section)
    cuda = kind == "cuda"
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(
        "error" if kind == "cpu" else "default"
    )  # use_deterministic_algorithms would import the compiler (1 s)
    torch.utils.deterministic.fill_uninitialized_memory = False  # this debugging aid costs 3 % of a step
    size, rank, place = (
        int(os.environ[name]) if is_worker() else single for name, single in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
    )
    local = torch.device("cuda", place) if cuda else torch.device(kind)
    if cuda:
        torch.cuda.set_device(local)
    if size == 1:
        try:
            yield World(rank, size, local)
        except (NotImplementedError, TypeError) as error:
            if kind != "mps":
                raise
            raise ValueError(f"torch lacks a kernel on mps ({str(error).splitlines()[0]}); set {section}.device to cpu") from None
        return
    if kind == "mps":
        raise ValueError(f"{section}.device is mps, which takes {section}.processes 1; set one of them")
    _join("nccl" if cuda else "gloo", section)
    with _all_or_none(section) as store:
        yield World(rank, size, local)
        if access_log.JOURNAL in os.environ:
            from stages.lib.node import command  # not part of the one script

            command.give_opened(store, section, rank, size)
    dist.destroy_process_group()  # not after an error, because on GPUs it would wait for the others


def keep_freed_memory() -> None:
    """Freed memory stays with this process. By itself glibc gives a large tensor's pages back to the system, which clears new ones for the
    next tensor: a quarter of a step of 8,192 tokens. Other C libraries have no mallopt, and nothing changes there."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _join(backend: str, section: str) -> None:
    """Join the process group, with the members' addresses under a name of its own. A script of several stages joins one group after the
    other; an early process must not take the addresses of the last group for those of this one, because both would then hang. ValueError if
    the place where the processes meet cannot be reached."""
    place, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    if os.environ["LOCAL_RANK"] == "0":
        print(f"caddie {section}: {os.environ['WORLD_SIZE']} processes meet at {place}:{port}", file=sys.stderr, flush=True)
    try:
        socket.getaddrinfo(place, port)
        store, rank, size = next(dist.rendezvous("env://", timeout=MEETING))
        store.set_timeout(WAITING)
        dist.init_process_group(backend, store=dist.PrefixStore(section, store), rank=rank, world_size=size)
    except (OSError, dist.DistError) as error:
        raise ValueError(
            f"the processes could not meet at {place}:{port} ({str(error).splitlines()[0]}); start torchrun on each machine with "
            "--local-addr=<the address by which the others reach it>"
        ) from None


@contextlib.contextmanager
def _all_or_none(section: str) -> Iterator[dist.Store]:
    """If the block fails in one process, all processes end, each with the same sentence. Otherwise the others would wait on their GPUs for
    ten minutes, which is NCCL's own limit. A process that is killed can tell nobody; torchrun then ends the others of its machine. Yields a
    connection to the store."""
    store, rank, _ = next(dist.rendezvous("env://"))  # a second connection, because the group waits with the first one
    key, over = f"{section} failed", threading.Event()

    def watch() -> None:
        """End this process as soon as another one has failed, even if the main thread waits for a GPU."""
        with contextlib.suppress(RuntimeError):  # the store is gone: torchrun itself is ending
            while not over.wait(POLL_SECONDS):
                if store.check([key]):
                    print(f"caddie {section}: {store.get(key).decode()}", file=sys.stderr, flush=True)
                    os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield store
    except Exception as error:
        over.set()
        own = f"process {rank} failed, and all others end with it: {type(error).__name__}: {error}"
        first = store.compare_set(key, "", own).decode()
        if first != own:
            raise ValueError(first) from None
        time.sleep(2 * POLL_SECONDS)  # until the others have read it, because the store may end with this process
        raise
    finally:
        over.set()


def require_same(number: int, world: World, sentence: str) -> None:
    """ValueError(sentence) on every process unless all of them have the same number."""
    if world.size > 1:
        extremes = torch.tensor([number, -number], dtype=torch.int64, device=world.device)
        dist.all_reduce(extremes, dist.ReduceOp.MAX)
        if extremes[0] != -extremes[1]:
            raise ValueError(sentence)
