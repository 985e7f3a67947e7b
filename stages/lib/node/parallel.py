"""Spread work over processes. Results come in order, and only a bounded number of them waits, so memory does not grow with the work."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from stages.lib.node import access_log


class WorkerKilled(ValueError):
    """A worker process was ended from outside."""


def workers() -> int:
    """The number of processes to use: CADDIE_WORKERS, else the cores that this process may run on. No result depends on it."""
    chosen = os.environ.get("CADDIE_WORKERS", "")
    if chosen:
        if not chosen.isdecimal() or int(chosen) < 1:
            raise ValueError(f"CADDIE_WORKERS is {chosen!r}; it takes a number of processes, 1 or more")
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has no such function


def _begin(initializer: Callable | None, arguments: tuple) -> None:
    """End this process together with the one that started it: a worker whose parent was killed would wait for tasks forever."""
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    access_log.join()
    if initializer:
        initializer(*arguments)


def in_order(
    function: Callable, tasks: Iterable, *, processes: int, initializer: Callable | None = None, arguments: tuple = ()
) -> Iterator:
    """`map(function, tasks)` over `processes`, with at most two tasks per process in progress. With one process, no other is started.

    `initializer(*arguments)` runs once in each process that does the work. An exception in a task is raised here, when its result is due.
    """
    if processes == 1:
        if initializer:
            initializer(*arguments)
        yield from map(function, tasks)
        return
    # spawn: a forked child inherits the locks of a progress bar's thread
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (initializer, arguments))
    waiting: deque = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise WorkerKilled(
            "a worker process was killed, as happens when memory runs out; free some or set CADDIE_WORKERS to fewer, "
            "and run it again: what was finished is kept"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
