"""Audit a folder in a process of its own, which ends at a limit of CPU seconds, wall seconds and memory.

Everything in the audit has bounds of its own; the fence is for what they do not foresee. The result is a JSON text; nothing is unpickled.
"""

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable

CPU_SECONDS, WALL_SECONDS, MEMORY = 3, 30, 400 << 20
END = b"\n"


def run(audit: Callable[[], dict], seconds: int = CPU_SECONDS) -> tuple[dict | None, str]:
    """(the result, "") or (None, why there is none), within so many seconds of CPU time. JSON must be able to write the result."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(reading)
        _child(audit, writing, seconds)
    os.close(writing)
    received, until, stopped = bytearray(), time.monotonic() + WALL_SECONDS, ""
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            stopped = f"more than {WALL_SECONDS} s"
            os.kill(child, signal.SIGKILL)
            break
        part = os.read(reading, 1 << 16)
        if not part:
            break
        received += part
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) or not received.endswith(END):
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        out_of_time = ended in (signal.SIGXCPU, signal.SIGKILL)
        return None, f"it was stopped: {stopped or (f'more than {seconds} s of CPU time' if out_of_time else 'too much memory')}"
    result = json.loads(received.removesuffix(END))
    return (None, result["refused"]) if "refused" in result else (result, "")


def _child(audit: Callable[[], dict], writing: int, seconds: int) -> None:
    """Audit, write the result, and end the process."""
    try:
        _limit(seconds)
        try:
            result = audit()
        except ValueError as error:
            result = {"refused": str(error)}
        except MemoryError:
            result = {"refused": "it was stopped: too much memory"}
        except RecursionError:
            result = {"refused": "it was stopped: nested too deeply"}
        except OSError as error:
            result = {"refused": f"it cannot be read ({error.strerror})"}
        except Exception as error:  # a mistake of this program must not cost the other folders
            result = {
                "refused": f"a mistake of this program ({type(error).__name__}: {str(error)[:200]}); please report it with the folder"
            }
        with os.fdopen(writing, "wb") as out:
            out.write(json.dumps(result).encode() + END)
    finally:
        os._exit(0)


def _limit(seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    if sys.platform == "linux":  # elsewhere the kernel does not keep this limit
        with open("/proc/self/statm") as handle:
            now = int(handle.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
