"""Tasks for processes that are started anew: such a process imports the module of its task, and torch would take it three seconds."""

import os
import signal
import time
from pathlib import Path


def square(n: int) -> int:
    if n == 13:
        raise ValueError("thirteen")
    return n * n


def report_and_sleep(folder: str) -> None:
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(60)


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
