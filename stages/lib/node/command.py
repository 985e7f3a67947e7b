"""A stage as a command. `python -m stages.<name>` has one positional argument for the variant, one option for each path, and --help.

A user's mistake is reported in one sentence, with exit code 1.
"""

import argparse
import contextlib
import errno
import inspect
import json
import os
import re
import select
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from stages.lib.node import access_log, files, params, room
from stages.lib.node.stage import Input, Metrics, Output, Plot, Untracked, Variant, arguments_of, record_path

LEFT_OVER_SECONDS = 30 * 86400  # no run takes so long
RESERVED_BYTES = 1 << 16  # for a record
PATH_ERRORS = {
    errno.ENOENT: "is missing; check the spelling, or run the stage that makes it",
    errno.EACCES: "may not be read or written by this user; change its permissions",
    errno.EPERM: "may not be read or written by this user; change its permissions",
    errno.ENOTDIR: "needs a folder where there is a file; move that file away",
    errno.EISDIR: "is a folder where a file is needed; move it away",
    errno.EEXIST: "is a file where a folder is needed; move it away",
}
WRITE_ERRORS = {
    errno.ENOSPC: "free some space and run it again, finished stages are kept",
    errno.EDQUOT: "free some space and run it again, finished stages are kept",
    errno.EROFS: "run it in a checkout that may be written to, such as a copy on another disk",
    errno.EMFILE: "allow more open files, for example with: ulimit -n 4096, and run it again, finished stages are kept",
}


def run(main: Callable, argv: list[str] | None = None) -> None:
    """Parse the command line, read params.yaml and call `main`. A user's mistake is reported in one sentence, with exit code 1."""
    name = inspect.getmodule(main).__spec__.parent.removeprefix("stages.")
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}", description=inspect.getmodule(main).__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="params.yaml", metavar="FILE", help="parameters (default: params.yaml)")
    signature = inspect.signature(main)
    for parameter in signature.parameters.values():
        if parameter.annotation is Variant:
            parser.add_argument(parameter.name, help=f"which {parameter.name}; see params.yaml and dvc.yaml")
        elif parameter.annotation in (Input, Output, Metrics, Plot, Untracked):
            kind = parameter.annotation.__metadata__[0]
            option = "--" + parameter.name.replace("_", "-")
            parser.add_argument(option, default=parameter.default, metavar="PATH", help=f"{kind} (default: %(default)s)")
    with sentences(name):
        known, unknown = parser.parse_known_args(argv)
        chosen = vars(known)
        tree = params.read(Path(chosen.pop("params")))
        check_names(tree)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        check_threads(tree.get(name))
        variant = next((chosen.pop(p.name) for p in signature.parameters.values() if p.annotation is Variant), None)
        arguments = arguments_of(main, tree, variant=variant, paths=chosen)
        for parameter in signature.parameters.values():
            path = arguments[parameter.name]
            if parameter.annotation is Input and not path.exists():
                raise ValueError(f"{path} is missing; {_way_out(path)}")
            if parameter.annotation in (Output, Metrics, Plot):
                remove_left(path)
                if not access_log.is_worker():
                    files.check_writable(path, "--" + parameter.name.replace("_", "-"))
        outputs, metrics = (
            [str(arguments[parameter.name]) for parameter in signature.parameters.values() if parameter.annotation is kind]
            for kind in (Output, Metrics)
        )
        record = Path(record_path(outputs, metrics))
        if not access_log.is_worker():  # what started it has looked
            room.check(record.parent)
        with recorded(record):
            main(**arguments)


def check_names(tree: dict) -> None:
    """ValueError if a run has a name that DVC, a shell or YAML would read as something else."""
    for name, section in tree.items():
        for run in (section.get("runs") or {}) if isinstance(section, dict) else {}:
            if not (isinstance(run, str) and re.fullmatch(r"[A-Za-z][\w-]*", run, re.ASCII)):
                raise ValueError(
                    f"params.yaml: {name}.runs has the name {run!r}, as YAML reads it; a name is part of commands and paths, so it begins "
                    "with a letter and has only letters, digits, _ and -: rename it"
                )


def check_threads(section: dict | None) -> None:
    """ValueError if the environment lets OpenMP take fewer threads than the stage asks for, because the last bits of the weights depend on
    their number."""
    asked = section.get("threads", 2) if isinstance(section, dict) else 2
    limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
    if limit.isdecimal() and isinstance(asked, int) and int(limit) < asked:
        raise ValueError(
            f"OMP_THREAD_LIMIT is {limit} in the environment, fewer than the {asked} threads of this stage; unset OMP_THREAD_LIMIT"
        )
    if os.environ.get("OMP_DYNAMIC", "").strip().lower() in ("true", "1"):
        raise ValueError("OMP_DYNAMIC is set in the environment, and OpenMP then takes fewer threads on a busy machine; unset OMP_DYNAMIC")


@contextlib.contextmanager
def recorded(record: Path) -> Iterator[None]:
    """Record the files that are opened inside the block into `record`. If the block fails, the older record stays with the older outputs.

    A worker that `torchrun` started adds to the run of the process that did so. If torchrun was started by hand, each worker
    begins a run, and `launch.world` gives the lines of all of them to rank 0, which writes the record.
    """
    if access_log.is_worker() and access_log.JOURNAL in os.environ:
        access_log.join()
        try:
            yield
        finally:
            access_log.leave()
        return
    record, folder = Path(record).absolute(), Path("scratch/opened").absolute() / uuid.uuid4().hex
    partial = record.with_name(f".{record.name}.{files.place()}.{os.getpid()}.{folder.name}.partial")
    for new in (folder, record.parent):
        new.mkdir(parents=True, exist_ok=True)
    remove_old(folder.parent.glob("*"))
    remove_left(record)
    partial.write_bytes(bytes(RESERVED_BYTES))  # a disk that is full when the stage ends has room for the record all the same
    _incomplete.clear()
    os.environ[access_log.JOURNAL] = f"{folder}\n{os.getcwd()}"
    access_log.begin(os.getcwd())
    try:
        yield
        if os.environ.get("RANK", "0") == "0" or not access_log.is_worker():
            _write_record(record, partial, folder)
    finally:
        access_log.leave()
        del os.environ[access_log.JOURNAL]
        partial.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


_incomplete: list[str] = []


def cannot_be_complete(why: str) -> None:
    """What the stage hands on was not made here alone, so its record says `why` in place of the files, and the audit cannot rule on it."""
    _incomplete[:] = [why]


def remove_left(path: Path) -> None:
    """Remove what killed processes left of `path`, which may be as large as the text: at once where their number means something, which is
    under the same kernel and among the same process numbers, else by age."""
    partials = list(path.parent.glob(f".{path.name}.*.partial"))
    for partial in partials:
        place, _, owner = partial.name.removeprefix(f".{path.name}.").partition(".")
        owner = owner.partition(".")[0]
        if place == files.place() and owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            files.remove(partial)
    remove_old(partials)


def remove_old(left: Iterable[Path]) -> None:
    """Remove files and folders that nothing was written to for longer than any run takes: killed runs left them."""
    for path in left:
        with contextlib.suppress(OSError):  # another process removes it too
            newest = max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
            if time.time() - newest > LEFT_OVER_SECONDS:
                files.remove(path)


def _write_record(record: Path, partial: Path, folder: Path) -> None:
    """Write the record. If the run's folder was removed from outside, the record says so and the audit does not rule on it: the outputs are
    good all the same, and must not be lost with their record."""
    try:
        parts = [part.read_bytes().decode(errors="surrogateescape") for part in folder.iterdir()]
        content = sorted(access_log.lines().union(*(part.splitlines() for part in parts)))
        if _incomplete:
            content = {"incomplete": _incomplete.pop()}
    except OSError as error:
        content = {"incomplete": f"{folder.name}: {error.strerror}"}
        print(
            f"caddie: {record} is incomplete, as {folder} is gone; the outputs are complete, but the audit cannot rule on them",
            file=sys.stderr,
        )
    with open(partial, "r+b") as handle:
        handle.write((json.dumps(content, indent=1) + "\n").encode(errors="surrogateescape"))
        handle.truncate()
    os.replace(partial, record)


def _way_out(path: Path) -> str:
    if "artifacts" in path.parts[:-1]:
        return f"run the stage that makes it: dvc repro {path.parts[path.parts.index('artifacts') + 1]}"
    return "check the spelling on the command line and in params.yaml"


@contextlib.contextmanager
def sentences(name: str) -> Iterator[None]:
    """Turn an error that a user can cause into `caddie <name>: <one sentence>` and exit code 1. Our own bugs keep their traceback.

    If the reader closes the pipe, as `head` does, the command ends without a message and with the exit code of SIGPIPE.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # flushed here, because at Python's exit a closed pipe would print a traceback
    except BrokenPipeError:
        if not _is_closed(1):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(128 + signal.SIGPIPE) from None
    except ValueError as error:
        _fail(name, str(error))
    except OSError as error:
        number, path = _reason(error)
        if number in PATH_ERRORS and path is not None:
            _fail(name, f"{path} {PATH_ERRORS[number]}")
        if number in PATH_ERRORS:
            _fail(name, str(error))
        if number not in WRITE_ERRORS:
            raise
        _fail(name, f"{os.strerror(number)} while writing {path or 'an output'}; {WRITE_ERRORS[number]}")
    except KeyboardInterrupt:
        print(f"caddie {name}: interrupted; nothing half-written was left, run it again to continue", file=sys.stderr)
        raise SystemExit(130) from None


def _reason(error: OSError) -> tuple[int | None, str | None]:
    """The number and the path of an error. shutil hides both in a list of copies that failed, and numpy says only how much it wrote."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        _, path, said = error.args[0][0]
        found = re.search(r"\[Errno (\d+)\]", str(said))
        return int(found[1]) if found else None, path
    if error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error)):
        return errno.ENOSPC, None
    return error.errno, error.filename2 or error.filename


def _is_closed(descriptor: int) -> bool:
    """Whether nobody reads what is written to a pipe."""
    poll = select.poll()
    poll.register(descriptor, 0)  # poll always reports errors, also without an event mask
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _fail(name: str, sentence: str) -> None:
    print(f"caddie {name}: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(1) from None


def torchrun(processes: int, module: str, device: str) -> None:
    """Run torchrun with `processes` workers of `python -m module` on this machine. ValueError if one of them fails.

    torchrun runs in this process, so that a signal to it reaches the workers, and so that this process can end what it has begun.
    """
    from torch.distributed import run  # half a second, as what follows
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from stages.lib.node import launch

    section = module.removeprefix("stages.")
    if launch.device_type(device, section=section) == "cuda" and processes > launch.torch.cuda.device_count():
        raise ValueError(
            f"{section}.processes is {processes}, but torch sees {launch.torch.cuda.device_count()} GPUs; set it to at most that"
        )
    # by number, because a machine need not know its own name
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", f"--rdzv-id={uuid.uuid4()}", "--local-addr=127.0.0.1"]
    sys.stdout.flush()
    print(f"caddie {section}: starting {processes} processes, which meet at 127.0.0.1", file=sys.stderr, flush=True)
    try:
        run.run(run.parse_args([*meeting, f"--nproc-per-node={processes}", "-m", module, *sys.argv[1:]]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise ValueError(f"process {rank} of {processes} ended with exit code {failure.exitcode}; what it said is above") from None
    except SignalException:
        raise KeyboardInterrupt from None


def give_opened(store, section: str, rank: int, size: int) -> None:
    """Give rank 0 what the other processes have opened, because it alone writes a record."""
    names = [f"{section} opened {other}" for other in range(1, size)]
    if rank:
        store.set(names[rank - 1], "\n".join(access_log.lines()).encode(errors="surrogateescape"))
        return
    while not store.check(names):  # `get` would keep the thread that watches for failures from the store
        time.sleep(0.01)
    for name in names:
        access_log.add(store.get(name).decode(errors="surrogateescape").splitlines())
