"""The first program inside the jail (jail.py): it limits itself, and then becomes the artifact.

    python -I -B start.py SETTINGS PROGRAM ARGUMENT...          SETTINGS: JSON {packages, memory, landlock, execute}

Neither it nor the artifact can undo a limit. `landlock` is null, or {readable, writable}: paths, for machines without bubblewrap.
`execute`: PROGRAM is no Python program for this interpreter but one that takes its place.
"""

import ctypes
import json
import os
import resource
import runpy
import struct
import sys

FILE_BYTES, PROCESSES = 2 << 30, 512  # threads count as processes
READ, FILE = 0b1101, 0b1100000000000111  # execute, read a file, list a folder; the rights that a file can have
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, NO_NEW_PRIVILEGES = 444, 445, 446, 38  # three system calls, one word of prctl
KEYCTL, JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine), 1


def main() -> None:
    """Read the command line, set the limits, and run the artifact."""
    settings = json.loads(sys.argv[1])
    sys.argv = sys.argv[2:]
    sys.path.append(settings["packages"])
    for name, most in {"CORE": 0, "FSIZE": FILE_BYTES, "NPROC": PROCESSES, "DATA": settings["memory"]}.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        if most is None:
            continue
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    if KEYCTL:  # the kernel's keys, which all processes of a login share, would reach from one session to the next
        ctypes.CDLL(None).syscall(KEYCTL, JOIN_SESSION_KEYRING, None)
    if settings["landlock"]:
        restrict(**settings["landlock"])
    if settings["execute"]:
        os.environ["PYTHONPATH"] = settings["packages"]  # for the case that it is Python
        os.execv(sys.argv[0], sys.argv)
    runpy.run_path(sys.argv[0], run_name="__main__")


def restrict(readable: list[str], writable: list[str]) -> None:
    """Allow reading below `readable`, everything below `writable`, and no other file; no TCP, no signals to others where the kernel can do
    that. OSError if the kernel has no Landlock."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = _checked(call(CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    rights = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    fields = struct.pack("<QQQ", rights, 0b11, 0b11)[: 8 + 8 * (version >= 4) + 8 * (version >= 6)]  # files, TCP, scopes
    ruleset = _checked(call(CREATE_RULESET, fields, ctypes.c_size_t(len(fields)), 0))
    for paths, allowed in ((readable, READ), (writable, rights)):
        for path in filter(os.path.exists, paths):
            place = os.open(path, os.O_PATH)
            _checked(call(ADD_RULE, ruleset, 1, struct.pack("<Qi", allowed & rights & (rights if os.path.isdir(path) else FILE), place), 0))
            os.close(place)
    _checked(ctypes.CDLL(None, use_errno=True).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(call(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "the kernel refused Landlock; install bubblewrap")
    return result


if __name__ == "__main__":
    main()
