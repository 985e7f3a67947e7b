"""Start the artifact where it can do no harm and can learn nothing: the jail.

    form          what it is                                                   what a certificate may say
    bubblewrap    namespaces of its own, by the program bwrap                  everything
    landlock      the kernel's rules for files, TCP and signals                nothing against an artifact that lies (docs/certification.md)
    none          an empty folder and a bare environment (macOS)               the same

In the first form the process sees the interpreter, the packages of PACKAGES with what they require, the codec programs, the artifact and an
empty folder in memory: no network, no other process, no shared memory, no device but null, zero and random, no environment, no descriptor
but its two pipes and stderr. On a GPU it also sees the GPUs, their libraries and /sys. Limits: memory, file size, number of processes.
"""

import atexit
import contextlib
import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Container, Iterator
from pathlib import Path

from stages.lib.referee import programs, start

PACKAGES = ("torch", "numpy", "sentencepiece", "brotli", "zstandard", "constriction", "zipnn")
PROGRAMS = ("lrzip", "zpaq")  # that a codec may start
MEMORY_BYTES = 16 << 30  # not on a GPU, whose driver reserves more
HOME_BYTES = 4 << 30
READ_AT_ONCE = 1 << 17  # the kernel reads no more ahead for one request
STORE, WEEK_SECONDS = "caddie-jail-", 7 * 86_400  # folders of copies, and the age at which nobody needs one
UNUSED = ("include", "test", "tests", "perl", "perl5", "perl-base")  # folders that no artifact needs, a third of all files
FORMS = ("bubblewrap", "landlock", "none")
# torch 2.13 can replace some of its GPU kernels by ones that it compiles on first use, and there is no compiler. Threads that wait for
# work keep a processor busy, those of torch unless they are told, those of numpy always: it gets only one. By itself glibc gives the pages
# of a freed tensor back to the system, which has to clear new ones for the next tensor.
ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "TORCH_DISABLE_NATIVE_JIT": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
}


@functools.cache
def form() -> str:
    """The strongest form that this machine has."""
    works = shutil.which("bwrap") and not subprocess.run([*_namespaces(), "/bin/true"], capture_output=True, check=False).returncode
    if works:
        return "bubblewrap"
    probe = [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, {str(Path(start.__file__).parent)!r}); import start; start.restrict([], [])",
    ]
    return "none" if subprocess.run(probe, capture_output=True, check=False).returncode else "landlock"


_preparing = threading.Lock()  # sessions start in several threads, and the first one makes what all use


class Jail:
    """One process, with pipes to its stdin and stdout, and its stderr kept by the caller's `stderr`. A context manager.

    `alone`: it is told everything at once and nothing runs beside or before it that it should not know of, so it gets the folders
    themselves, which saves two seconds; a later process that makes copies finds no trace of it.
    """

    def __init__(
        self,
        program: Path | programs.Program,
        arguments: list[str],
        *,
        stderr: int,
        extra: dict[str, Path],
        environment: dict[str, str],
        gpu: bool,
        alone: bool = False,
    ):
        self.program, self.arguments, self.stderr, self.extra = programs.of(program), arguments, stderr, extra
        self.environment, self.gpu, self.place = ENVIRONMENT | environment, gpu, (lambda source: source) if alone else _private

    def __enter__(self) -> subprocess.Popen:
        self.holder = tempfile.TemporaryDirectory(prefix="caddie-")
        home = os.path.join(self.holder.name, "home")
        if form() == "bubblewrap":
            with _preparing:
                shown = self._shown(Path(self.holder.name) / "program")
                if self.place == _private:
                    settle(*([shown] if self.program.is_packed else []), *self._started_by(), *self.extra.values())
                command = self._bubblewrap(shown)
        else:
            command = self._beside(Path(self.holder.name))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            cwd=self.holder.name if form() == "bubblewrap" else home,
            env={} if form() == "bubblewrap" else self.environment | dict.fromkeys(("HOME", "TMPDIR"), home),
        )
        return self.process

    def __exit__(self, *exception) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.holder.cleanup()

    def _shown(self, place: Path) -> Path:
        """What the jail shows: a submission.pyz itself, of anything else a copy, which only this session sees."""
        return self.program.ships.resolve() if self.program.is_packed else self.program.copied(place)

    def _started_by(self) -> list[Path]:
        return [self.program.interpreter] if self.program.interpreter else []

    def _settings(self, packages: str, landlock: dict | None) -> str:
        memory = None if self.gpu else MEMORY_BYTES
        return json.dumps({"packages": packages, "memory": memory, "landlock": landlock, "execute": not self.program.is_packed})

    def _bubblewrap(self, shown: Path) -> list[str]:
        words = _namespaces(self.place)
        # as root, bwrap leaves the kernel's settings writable; one of them names a program to start outside
        words += ["--ro-bind", "/proc/sys", "/proc/sys"] if self.gpu else ["--tmpfs", "/proc/sys", "--remount-ro", "/proc/sys"]
        for source in _folders():
            words += ["--ro-bind", str(self.place(source)), str(source)]
        for hidden in (
            path for path in _hidden() if any(path.is_relative_to(source) for source in _folders() if self.place(source) == source)
        ):
            words += ["--tmpfs", str(hidden)]
        for name, source in _packages().items():
            words += ["--ro-bind", str(self.place(source)), f"/packages/{name}"]
        if self.gpu:
            words += ["--ro-bind", "/sys", "/sys"]
            for device in sorted(Path("/dev").glob("nvidia*")):
                words += ["--dev-bind", str(device), str(device)]
        place = programs.PACKED if self.program.is_packed else programs.PLACE
        words += ["--ro-bind", start.__file__, "/artifact/start.py", "--ro-bind", str(shown), place]
        for path in self._started_by():
            words += ["--ro-bind", os.path.realpath(path), str(path)]
        for place, source in self.extra.items():
            words += ["--ro-bind", str(source), place]
        words += ["--size", str(HOME_BYTES), "--tmpfs", "/home", "--remount-ro", "/", "--chdir", "/home"]
        for name, value in (self.environment | {"HOME": "/home", "TMPDIR": "/home"}).items():
            words += ["--setenv", name, value]
        started = self.program.words or (programs.PACKED,)
        return [*words, interpreter(), "-I", "-B", "/artifact/start.py", self._settings("/packages", None), *started, *self.arguments]

    def _beside(self, folder: Path) -> list[str]:
        packages, home = folder / "packages", folder / "home"
        packages.mkdir()
        home.mkdir()
        for name, source in _packages().items():
            (packages / name).symlink_to(source)
        shown = self.program.copied(folder / Path(programs.PACKED if self.program.is_packed else programs.PLACE).name)
        landlock = None
        if form() == "landlock":
            readable = [*_folders(), *_packages().values(), packages, shown, *self._started_by(), *self.extra.values(), start.__file__]
            readable += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]  # what libraries and programs load
            readable += ["/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/dev/urandom", *(["/sys", "/dev"] if self.gpu else [])]
            landlock = {"readable": [str(path) for path in readable], "writable": [str(home), "/dev/null"]}
        arguments = [str(self.extra[word]) if word in self.extra else word for word in self.arguments]
        started = [word.replace(programs.PLACE, str(shown), 1) if word.startswith(programs.PLACE) else word for word in self.program.words]
        return [interpreter(), "-I", "-B", start.__file__, self._settings(str(packages), landlock), *(started or [str(shown)]), *arguments]


def settle(*more: Path) -> None:
    """Bring all that a jail can see into memory. Else, what is there would tell a session what an earlier one has read: a bit for each page
    of 4,096 bytes."""
    if form() != "bubblewrap":
        return
    own = [(str(path), path.stat().st_size) for path in more]
    for path, size in (*_visible(), *own) if hasattr(os, "posix_fadvise") else ():
        place = os.open(path, os.O_RDONLY)
        for first in range(0, size, READ_AT_ONCE):
            os.posix_fadvise(place, first, READ_AT_ONCE, os.POSIX_FADV_WILLNEED)
        os.close(place)


@functools.cache
def _visible() -> list[tuple[str, int]]:
    """The files that a jail can see, and their bytes."""
    found = {}
    for place in map(_private, (*_folders(), *_packages().values(), *_libraries())):
        if place.is_file() and os.access(place, os.R_OK):
            found[str(place)] = place.stat().st_size
        for _, entry in _below(place) if place.is_dir() else ():
            if entry.is_file(follow_symlinks=False) and os.access(entry.path, os.R_OK):
                found[entry.path] = entry.stat().st_size
    return [(path, size) for path, size in found.items() if size]


def _below(folder: Path, unseen: Container[str] = ()) -> Iterator[tuple[str, os.DirEntry]]:
    """All that is in a folder and in those below it, each folder before its content: path from `folder`, and entry. Links are not followed,
    and folders whose path or name is in `unseen` are left out. 30,000 files: os.walk and pathlib take four times as long."""
    places = [""]
    while places:
        place = places.pop()
        with contextlib.suppress(PermissionError), os.scandir(os.path.join(folder, place)) as entries:
            for entry in entries:
                path = f"{place}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name in unseen or entry.path in unseen:
                        continue
                    places.append(f"{path}/")
                yield path, entry


def _libraries() -> list[Path]:
    """The system's shared libraries, alone where they have a folder of their own: beside them, other programs keep copies of packages."""
    return sorted(Path("/usr/lib").glob("*-linux-*")) or [Path("/usr/lib")]


def _namespaces(place=lambda path: path) -> list[str]:
    """The command's beginning. `place` says where what a folder has is found."""
    words = ["bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for path in ("/bin", "/lib", "/lib64"):
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", str(place(Path(path))), path]
    for path in (*_libraries(), Path("/usr/lib64")):
        if path.is_dir():
            words += ["--ro-bind", str(place(path)), str(path)]
    for path in ("/usr/bin/true", "/etc/ld.so.cache", *(f"/sys/devices/system/cpu/{name}" for name in ("online", "possible", "present"))):
        words += ["--ro-bind-try", path, path]
    return words


@functools.cache
def _store() -> Path:
    device = os.stat(next(iter(_packages().values()))).st_dev  # links cannot lead to another file system
    places = (place for place in (tempfile.gettempdir(), sys.prefix) if os.stat(place).st_dev == device and os.access(place, os.W_OK))
    place = Path(next(places, tempfile.gettempdir()))
    for left in place.glob(f"{STORE}*"):  # by a referee that was killed; no audit takes a week
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > WEEK_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    holder = tempfile.TemporaryDirectory(prefix=STORE, dir=place)
    atexit.register(holder.cleanup)
    return Path(holder.name)


def shared_folders() -> list[str]:
    """Folders that could not be copied by links, as this user or on this file system. Through the names that are looked for in them, which
    the kernel remembers, an artifact that lies could leave bits for a later session."""
    sources = {*_folders(), *_packages().values(), *_libraries()}
    with _preparing:
        return sorted(str(source) for source in sources if source.is_dir() and _private(source) == source)


@functools.cache
def _private(source: Path) -> Path:
    """A copy of a folder that no other process of the referee shows to an artifact: new folders, with links to the same files where that
    can be done, else the folder itself. The kernel remembers which names were looked for in a folder and not found. So a session that knows
    val could leave it there as names, and one of a later process would find it by the time that looking takes. A file is its own copy."""
    if not source.is_dir():
        return source
    copy = tempfile.mkdtemp(dir=_store())
    for path, entry in _below(source, {*map(str, _hidden()), *UNUSED}):
        own = f"{copy}/{path}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), own)
        elif entry.is_dir():
            os.mkdir(own)
        elif entry.is_file() and os.access(entry.path, os.R_OK):
            try:
                os.link(entry.path, own)
            except OSError:  # another file system, or a file of another user
                shutil.rmtree(copy)
                return source
    return Path(copy)


def interpreter() -> str:
    """The interpreter itself, not the virtual environment's link to it."""
    return os.path.realpath(sys.executable)


def _folders() -> list[Path]:
    """The interpreter with its standard library, and the programs that a codec may start."""
    python, base = Path(interpreter()), Path(sys.base_prefix).resolve()
    library = Path(os.__file__).resolve().parent
    shared = [path for path in base.glob("lib/libpython*.so*")]
    return [python, library, *shared, *(Path(path) for name in PROGRAMS if (path := shutil.which(name, path="/usr/bin:/bin")))]


def _hidden() -> list[Path]:
    """Folders inside those that are visible that hold other packages, whose texts the artifact must not read."""
    library = Path(os.__file__).resolve().parent
    found = [library / "site-packages", library / "dist-packages", Path("/usr/lib/python3/dist-packages")]
    return [path for path in found if path.is_dir()]


@functools.cache
def _packages() -> dict[str, Path]:
    """The top-level files and folders of PACKAGES and of all that they require, by name."""
    found: dict[str, Path] = {}
    for distribution in _required():
        # a line of RECORD begins with the path; to make a path of each of torch's 20,000 lines takes a quarter of a second
        record = (distribution.read_text("RECORD") or "").splitlines() or map(str, distribution.files or [])
        for top in sorted({line.split(",", 1)[0].split("/", 1)[0] for line in record}):
            if top not in ("", "..") and not top.endswith((".pth", ".dist-info", "__pycache__")) and top not in found:
                found[top] = Path(distribution.locate_file(top)).resolve()
    return {name: path for name, path in sorted(found.items()) if path.exists()}


def _required() -> Iterator[importlib.metadata.Distribution]:
    names, seen = list(PACKAGES), set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield distribution
        names += [re.match(r"[\w.-]+", word)[0] for word in distribution.requires or [] if "extra ==" not in word]
