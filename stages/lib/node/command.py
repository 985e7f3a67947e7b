"""A stage as a command. `python -m stages.<name>` has one positional argument for the variant, one option for each path, and --help.

A user's mistake is reported in one sentence, with exit code 1.
"""

import argparse
import contextlib
import errno
import inspect
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from stages.lib.node import access_log, params
from stages.lib.node.stage import Input, Metrics, Output, Plot, Untracked, Variant, arguments_of, record_path

PATH_ERRORS = {
    errno.ENOENT: "is missing; check the spelling, or run the stage that makes it",
    errno.EACCES: "may not be read or written by this user; change its permissions",
    errno.EPERM: "may not be read or written by this user; change its permissions",
    errno.ENOTDIR: "needs a folder where there is a file; move that file away",
    errno.EISDIR: "is a folder where a file is needed; move it away",
    errno.EEXIST: "is a file where a folder is needed; move it away",
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
        chosen = vars(parser.parse_args(argv))
        tree = params.read(Path(chosen.pop("params")))
        variant = next((chosen.pop(p.name) for p in signature.parameters.values() if p.annotation is Variant), None)
        arguments = arguments_of(main, tree, variant=variant, paths=chosen)
        for parameter in signature.parameters.values():
            path = arguments[parameter.name]
            if parameter.annotation is Input and not path.exists():
                raise ValueError(f"{path} is missing; {_way_out(path)}")
        outputs, metrics = (
            [str(arguments[parameter.name]) for parameter in signature.parameters.values() if parameter.annotation is kind]
            for kind in (Output, Metrics)
        )
        with access_log.recorded(Path(record_path(outputs, metrics))):
            main(**arguments)


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
        path = error.filename2 or error.filename
        if error.errno in PATH_ERRORS and path is not None:
            _fail(name, f"{path} {PATH_ERRORS[error.errno]}")
        if error.errno in PATH_ERRORS:
            _fail(name, str(error))
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE):
            raise
        _fail(name, f"{error.strerror} while writing {path or 'an output'}; free some space and run it again, finished stages are kept")
    except KeyboardInterrupt:
        print(f"caddie {name}: interrupted; nothing half-written was left, run it again to continue", file=sys.stderr)
        raise SystemExit(130) from None


def _is_closed(descriptor: int) -> bool:
    """Whether nobody reads what is written to a pipe."""
    poll = select.poll()
    poll.register(descriptor, 0)  # poll always reports errors, also without an event mask
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _fail(name: str, sentence: str) -> None:
    print(f"caddie {name}: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(1) from None
