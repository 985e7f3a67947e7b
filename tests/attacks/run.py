"""Decode mutated blobs in processes of their own, under a limit on memory, and count how it ended.

    python -m tests.attacks.run [--count 100000] [--seed 1] [--slow]        `make test-attacks`

Each must end in ArtifactError or CodecError with a sentence, or give the content that was coded; within 5 seconds, and without more memory
than the process had, twice the declared bytes and what the codec itself works in. `--slow` takes the codecs that are external programs, a
process for each blob; without it they are left out, and the full run gives them a fiftieth of the count.
"""

import argparse
import collections
import contextlib
import ctypes
import json
import resource
import subprocess
import sys
import time
import traceback
from pathlib import Path

from stages.lib.blob.grouping import Run
from stages.runtime.base import plugin
from stages.runtime.base.errors import ArtifactError
from stages.runtime.blob import container
from stages.runtime.blob.codecs import CodecError, MissingProgram, is_available
from tests.attacks import mutations
from tests.golden import make

SECONDS = 5.0
M_ARENA_MAX = -8  # of malloc.h
BUSY = 20  # how much slower than its CPU seconds a process may be
WORKING_BYTES = 192 << 20  # a dictionary of lzma (64 MiB), brotli's window, a header of a MiB as Python objects, constriction's tables
SLOW = ("lrzip", "zpaq")


def blobs(*, slow: bool) -> list[bytes]:
    """One sound blob for each codec, filter and coder that is to be attacked."""
    found = []
    for values in make.runs().values():
        run = Run.from_params(values, "attack")
        names = {how.rpartition("/")[2] for how in run.plugins()}
        is_installed = all(is_available(plugin.load(*how.split("/"))) for how in run.plugins())
        if is_installed and "zipnn" not in names and bool(names & set(SLOW)) == slow:
            found.append(container.pack(make.model(), list(run.codings(make.model()).values())))
    return found


def cpu() -> float:
    """CPU seconds of this process and of the programs that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def attack(*, count: int, seed: int, slow: bool) -> dict:
    """How `count` mutants ended, and what must not have happened: a list of sentences."""
    sound = blobs(slow=slow)
    wanted = make.content(make.model())
    with contextlib.suppress(AttributeError, OSError):  # glibc reserves 64 MiB of addresses for each thread that decodes, which would count
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    for blob in sound:  # everything is imported and warm before memory is limited
        assert make.content(container.unpack(blob)) == wanted
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 0
    if now:
        resource.setrlimit(resource.RLIMIT_AS, (now + WORKING_BYTES, resource.RLIM_INFINITY))
    ended, bad, slowest = collections.Counter(), [], 0.0
    stream = mutations.endless(sound, seed)
    for number in range(count):
        which, name, mutant = next(stream)
        where = f"seed {seed}, mutant {number}, blob {which}, {name}"
        started = time.perf_counter(), cpu()
        try:
            model = container.unpack(mutant)
            end = "same" if make.content(model) == wanted else "changed header"
            if end != "same" and name not in ("lie", "tree"):  # a header that was forged whole may say other things of the same bytes
                bad.append(f"{where}: decoded to something else")
        except (ArtifactError, CodecError) as error:
            end = "refused"
            if len(str(error)) < 20 or "\n" in str(error):
                bad.append(f"{where}: no sentence: {error}")
        except MissingProgram:
            end = "refused"
        except BaseException as error:
            end = "crash"
            bad.append(f"{where}: {type(error).__name__}: {error}: {traceback.format_exc().splitlines()[-3].strip()}")
        # On a busy machine the clock goes on while nothing is done: what counts is work, or a wait without any.
        seconds = max(cpu() - started[1], (time.perf_counter() - started[0]) / BUSY)
        slowest = max(slowest, seconds)
        if seconds > SECONDS:
            bad.append(f"{where}: {seconds:.1f} s")
        ended[end] += 1
    return {
        "count": count,
        "seed": seed,
        "blobs": len(sound),
        "ended": dict(ended),
        "slowest_seconds": round(slowest, 3),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "bad": bad,
    }


def in_process(*, count: int, seed: int, slow: bool) -> dict:
    """`attack` in a process of its own: a crash of the interpreter is a finding too."""
    command = [sys.executable, "-m", "tests.attacks.run", "--worker", "--count", str(count), "--seed", str(seed)] + ["--slow"] * slow
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        return {"count": count, "seed": seed, "bad": [f"seed {seed}: the process ended with {done.returncode}: {last}"]}
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--worker", action="store_true", help="attack in this process and print one JSON object")
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(attack(count=arguments.count, seed=arguments.seed, slow=arguments.slow)))
        return 0
    part = 10_000
    parts = [(min(part, arguments.count - start), arguments.seed + start // part, False) for start in range(0, arguments.count, part)]
    parts.append((max(1, arguments.count // 50), arguments.seed, True))
    found = []
    for count, seed, slow in parts:
        found.append(in_process(count=count, seed=seed, slow=slow))
        print(json.dumps(found[-1]), flush=True)
    bad = [sentence for result in found for sentence in result["bad"]]
    print(f"{sum(result['count'] for result in found)} mutants, {len(bad)} findings")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
