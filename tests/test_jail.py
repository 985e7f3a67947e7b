"""The jail: programs that look for val anywhere but in their two pipes, and programs that a codec or a model honestly needs.

A liar is a tiny program that does its deeds when a session begins, and says in its first answer what came of each. It is told where the
secret lies (paths, ports, process ids), and never the secret itself, so an answer with the secret in it shows a hole.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import sys
import time
import zipfile
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from stages.lib.referee import artifact, jail

SECRET = "tokens-of-val-7f3a"
SERVE = """
import ctypes, json, os, struct, subprocess, sys
from pathlib import Path

out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # what a program prints
libc = ctypes.CDLL(None, use_errno=True)

def answer(content):
    out.write(struct.pack("<I", len(content)) + content)
    out.flush()

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def attempt(deed, about):
    names = globals() | about
    try:
        exec(deed, names)
        result = names["result"]
        return result.decode(errors="replace") if isinstance(result, bytes) else str(result)
    except BaseException as error:
        return f"refused: {type(error).__name__} {error}"

vocabulary = 4
while kind := sys.stdin.buffer.read(1):
    (size,) = struct.unpack("<I", sys.stdin.buffer.read(4))
    content = sys.stdin.buffer.read(size)
    if kind == b"B":
        about = json.loads(content)["options"]
        found = {name: attempt(deed, about) for name, deed in about["deeds"].items()}
        answer(json.dumps({"vocabulary": vocabulary, "carries": False, "claims": [], "found": found}).encode())
    elif kind == b"R":
        answer(struct.pack("<4d", 0.0, 0.0, 0.0, 0.0))
"""


def program(folder: Path, code: str = SERVE) -> Path:
    """A submission that is nothing but this program."""
    path = folder / "submission.pyz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", code)
        archive.writestr("caddie/data/manifest.json", json.dumps({"protocol": artifact.PROTOCOL, "evaluators": ["one"]}))
        archive.writestr("caddie/data/model.blob", b"small")
    return path


def found(pyz: Path, deeds: dict[str, str], **about) -> dict[str, str]:
    """What came of the deeds, by name, in a session of its own."""
    with artifact.Session(pyz, evaluator="one", options=about | {"deeds": deeds}, num_targets=3, first=1) as session:
        return session.facts["found"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(artifact, "SILENCE", 60)


@pytest.fixture
def liar(tmp_path):
    return program(tmp_path)


def needs(form: str):
    here = jail.form()
    return pytest.mark.skipif(jail.FORMS.index(here) > jail.FORMS.index(form), reason=f"this machine has the form {here}, not {form}")


def in_form(monkeypatch, form: str) -> None:
    monkeypatch.setattr(jail, "form", lambda: form)


@pytest.fixture
def host(tmp_path):
    """A secret in every place of this machine that an artifact could know of."""
    folder = tmp_path / "host"
    folder.mkdir()
    (folder / "val.bin").write_text(SECRET)
    buffer, inherited = ctypes.create_string_buffer(SECRET.encode()), os.memfd_create("val", 0)
    os.write(inherited, SECRET.encode())
    os.set_inheritable(inherited, True)
    memory = shared_memory.SharedMemory(create=True, size=64)
    memory.buf[: len(SECRET)] = SECRET.encode()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    segment = libc.shmget(os.getpid(), 64, 0o1666)
    ctypes.memmove(libc.shmat(segment, None, 0), SECRET.encode(), len(SECRET))
    os.environ["CADDIE_SECRET"] = SECRET
    with contextlib.ExitStack() as stack:
        tcp, udp, unix, abstract = (
            stack.enter_context(socket.socket(family, kind))
            for family, kind in ((2, socket.SOCK_STREAM), (2, socket.SOCK_DGRAM), (1, socket.SOCK_STREAM), (1, socket.SOCK_STREAM))
        )
        for one, place in (
            (tcp, ("127.0.0.1", 0)),
            (udp, ("127.0.0.1", 0)),
            (unix, str(folder / "s")),
            (abstract, f"\0caddie{os.getpid()}"),
        ):
            one.bind(place)
            one.setblocking(False)
        for one in (tcp, unix, abstract):
            one.listen(8)
        yield {
            "path": str(folder / "val.bin"),
            "pid": os.getpid(),
            "address": ctypes.addressof(buffer),
            "shared": memory.name,
            "inherited": inherited,
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": str(folder / "s"),
            "abstract": f"caddie{os.getpid()}",
        }
        assert not any(_received(udp)), "a datagram reached the host"
    del os.environ["CADDIE_SECRET"]
    libc.shmctl(segment, 0, None)
    memory.close()
    memory.unlink()
    os.close(inherited)


def _received(udp: socket.socket):
    with contextlib.suppress(BlockingIOError):
        yield udp.recv(64)


READ = {
    "open": "result = open(path).read()",
    "climbing": "result = open(os.path.relpath(path)).read()",
    "a link": "os.symlink(path, 'link'); result = open('link').read()",
    "os.open beside a folder": "result = os.read(os.open(path[1:], os.O_RDONLY, dir_fd=os.open('/', os.O_RDONLY)), 99)",
    "open in C": "result = os.read(checked(libc.open(path.encode(), 0)), 99)",
    "mmap": "import mmap; result = mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ)[:]",
    "sqlite": "import sqlite3; result = sqlite3.connect(f'file:{path}?mode=ro', uri=True).execute('select 1').fetchall()",
    "a program": "result = subprocess.run(['/usr/bin/cat', path], capture_output=True, text=True).stdout",
    "a shell": "result = subprocess.run('read x < ' + path + '; echo $x', shell=True, capture_output=True, text=True).stdout",
    "a fork": "r, w = os.pipe(); os.fork() or (os.write(w, attempt('result = open(path).read()', globals()).encode()), os._exit(0)); "
    "result = os.read(r, 99)",
    "another process's root": "result = open(f'/proc/{pid}/root{path}').read()",
    "the first process's root": "result = open(f'/proc/1/root{path}').read()",
    "another process's environment": "result = open(f'/proc/{pid}/environ').read()",
    "another process's memory": "file = open(f'/proc/{pid}/mem', 'rb', 0); file.seek(address); result = file.read(18)",
    "another process's memory by system call": "import ctypes as c\nclass Vector(c.Structure):\n"
    "  _fields_ = [('b', c.c_void_p), ('n', c.c_size_t)]\n"
    "mine = c.create_string_buffer(18)\n"
    "checked(libc.process_vm_readv(pid, c.byref(Vector(c.addressof(mine), 18)), 1, c.byref(Vector(address, 18)), 1, 0)); result = mine.raw",
    "a trace of another process": "checked(libc.ptrace(16, pid, 0, 0)); result = 'attached'",
    "environment": "result = dict(os.environ)",
    "first environment": "result = open('/proc/self/environ').read()",
    "inherited descriptor": "result = os.pread(inherited, 99, 0)",
    "shared memory": "result = open('/dev/shm/' + shared).read(18)",
    "shared memory by its call": "import _posixshmem; result = os.read(_posixshmem.shm_open('/' + shared, os.O_RDONLY, 0), 18)",
}
REACH = {
    "TCP": "import socket; socket.create_connection(('127.0.0.1', tcp), 2); result = 'connected'",
    "a socket in a file": "import socket; socket.socket(socket.AF_UNIX).connect(unix); result = 'connected'",
    "an abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + abstract); result = 'connected'",
    "a name server": "import socket; socket.getaddrinfo('example.org', 80); result = 'resolved'",
    "a signal": "os.kill(pid, 0); result = 'signalled'",
    "System V shared memory": "checked(libc.shmget(pid, 64, 0)); result = 'found'",
}
SEND = {"UDP": "import socket; result = socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', udp))"}
KEEP = {
    "beside itself": "open('/artifact/note', 'w'); result = 'kept'",
    "in its own file": "open('/artifact/submission.pyz', 'ab'); result = 'kept'",
    "in the library": "open(os.__file__, 'a'); result = 'kept'",
    "in /tmp": "open('/tmp/caddie-note', 'w'); result = 'kept'",
    "in an attribute of the library": "os.setxattr(os.__file__, 'user.caddie', b'x'); result = 'kept'",
    "in an attribute of its file": "os.setxattr(sys.argv[0], 'user.caddie', b'x'); result = 'kept'",
    "in the time of the library": "os.utime(os.__file__, (1, 1)); result = 'kept'",
    "in the time of its file": "os.utime(sys.argv[0], (1, 1)); result = 'kept'",
    "in the mode of its file": "os.chmod(sys.argv[0], 0o600); result = 'kept'",
    "by a link to the library": "os.link(os.__file__, '/home/l'); result = 'kept'",
    "in a disk of its own": "os.mknod('/home/disk', 0o60600, os.makedev(254, 0)); result = open('/home/disk', 'rb').read(9)",
}
HIDDEN = f"{os.path.dirname(os.__file__)}/site-packages"
NEW_NAMESPACES = "checked(libc.unshare(0x10000000 | 0x20000)); "
UNCOVER = {
    "unmounting": "checked(libc.umount2(hidden.encode(), 2)); result = os.listdir(hidden) or 'empty'",
    "remounting": "checked(libc.mount(None, b'/artifact/submission.pyz', None, 32 | 4096, None)); result = 'writable'",
    "namespaces of its own": NEW_NAMESPACES + "checked(libc.umount2(hidden.encode(), 2)); result = os.listdir(hidden) or 'empty'",
    "a root of its own": NEW_NAMESPACES + "os.chroot('/proc/1/root'); result = os.listdir('/root') or 'entered'",
}


def untouched(found: dict[str, str]) -> bool:
    return all(result.startswith("refused") for result in found.values())


@needs("bubblewrap")
def test_jail_shows_nothing_of_this_machine_and_lets_nothing_out(liar, host):
    """Files, programs, other processes and their memory, environment, descriptors, shared memory, sockets of every kind, signals."""
    said = found(liar, READ | REACH | SEND, **host)
    assert not [name for name, result in said.items() if SECRET in result], said
    assert untouched({name: said[name] for name in REACH}), said
    quiet = ("environment", "first environment", "a program", "a shell", "a fork", *SEND)  # they answer, and have found nothing
    assert untouched({name: result for name, result in said.items() if name not in quiet}), said


@needs("bubblewrap")
def test_nothing_can_be_kept_for_another_session_or_uncovered(liar, host):
    before = liar.stat()
    said = found(liar, KEEP | UNCOVER, hidden=HIDDEN)
    assert untouched(said), {name: result for name, result in said.items() if not result.startswith("refused")}
    after = liar.stat()
    assert (before.st_mtime_ns, before.st_mode, before.st_nlink) == (after.st_mtime_ns, after.st_mode, after.st_nlink)


@needs("bubblewrap")
def test_next_session_finds_an_empty_folder_and_no_process(liar):
    leave = (
        "import time; [open(f'{place}/note', 'w').write('x') for place in ('/home', '/dev/shm')]; os.fork() or time.sleep(60); result = 1"
    )
    look = "result = [os.listdir('/home'), os.listdir('/dev/shm'), sorted(n for n in os.listdir('/proc') if n.isdigit())]"
    first, second = (found(liar, {"leave": leave, "look": look}), found(liar, {"look": look}))
    assert first["look"].startswith("[['note'], ['note'], ") and second["look"] == "[[], [], ['1', '2']]", (first, second)


@needs("bubblewrap")
def test_what_the_process_sees_is_a_short_list(liar):
    """No descriptor but its pipes, no name of this machine or user, no packages but those that are named."""
    deeds = {
        "descriptors": "result = sorted(int(n) for n in os.listdir('/proc/self/fd'))[:3] + [len(os.listdir('/proc/self/fd'))]",
        "root": "result = sorted(os.listdir('/'))",
        "devices": "result = sorted(os.listdir('/dev'))",
        "interfaces": "import socket; result = [name for _, name in socket.if_nameindex()]",
        "packages": "result = sorted(os.listdir('/packages'))",
        "covered": "result = os.listdir(hidden)",
        "powers": "result = [line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')]",
        "environment": "result = sorted(os.environ)",
    }
    said = found(liar, deeds, hidden=HIDDEN)
    assert said["descriptors"] == "[0, 1, 2, 5]"  # the fourth is our copy of stdout, the fifth the listing itself
    assert not {"tmp", "work", "mnt", "opt", "srv", "var"} & set(eval(said["root"]))
    assert "vda" not in said["devices"] and said["interfaces"] == "['lo']"
    assert said["covered"] == "[]" or "No such file" in said["covered"]
    assert set(eval(said["packages"])) == set(jail._packages()) and "pandas" not in said["packages"]
    assert set(eval(said["powers"])) == {"0" * 16}
    assert eval(said["environment"]) == sorted({*jail.ENVIRONMENT, "HOME", "TMPDIR", "PWD"})


@needs("bubblewrap")
def test_memory_processes_and_file_sizes_are_limited(liar, monkeypatch):
    """With smaller limits than the real ones, so that a hole costs this machine nothing."""
    monkeypatch.setattr(jail, "MEMORY_BYTES", 1 << 30)
    monkeypatch.setattr(jail, "HOME_BYTES", 1 << 20)
    deeds = {
        "memory": "result = len(bytearray(2 << 30))",
        "home": "result = open('/home/much', 'wb').write(bytes(2 << 20))",
        "limits": "import resource; result = [resource.getrlimit(k) for k in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)]",
        "raise": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999)); result = 'raised'",
        "processes": "import time; count = 0\ntry:\n  while count < 800: count += 1; os.fork() or (time.sleep(30), os._exit(0))\n"
        "except OSError: pass\nresult = count",
    }
    said = found(liar, deeds)
    assert said["memory"].startswith("refused: MemoryError") and "No space left" in said["home"]
    assert said["limits"] == f"[({2 << 30}, {2 << 30}), (0, 0)]"
    assert said["raise"].startswith("refused"), said
    if os.getuid():  # the kernel does not count the processes of root
        assert int(said["processes"]) <= 512, said
    time.sleep(0.5)
    here = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(liar).encode() in _read(path)]
    assert not here, "a fork bomb survives the session"


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


HONEST = {
    "own folder": "Path('note').write_text('x'); result = Path('note').read_text() and 'ok'",
    "temporary files": "import tempfile; result = tempfile.NamedTemporaryFile().write(b'x') and 'ok'",
    "numpy": "import numpy; result = 'ok' if (numpy.eye(3) @ numpy.ones(3)).sum() == 3 else 'wrong'",
    "threads": "import threading; t = threading.Thread(target=len, args=('',)); t.start(); t.join(); result = 'ok'",
    "sentencepiece": "import sentencepiece; result = sentencepiece.SentencePieceProcessor().piece_size() == 0 and 'ok'",
    "brotli": "import brotli; result = 'ok' if brotli.decompress(brotli.compress(b'x' * 99)) == b'x' * 99 else 'wrong'",
    "zstandard": "import zstandard; result = 'ok' if zstandard.decompress(zstandard.compress(b'x')) == b'x' else 'wrong'",
    "lzma": "import lzma; result = 'ok' if lzma.decompress(lzma.compress(b'x')) == b'x' else 'wrong'",
    "entropy": "result = len(os.urandom(4)) == 4 and 'ok'",
}
LRZIP = {"lrzip": "Path('in').write_bytes(b'x' * 9999); result = subprocess.run(['lrzip', '-q', '-o', 'out', 'in'], check=True) and 'ok'"}
TORCH = {
    "torch": "import torch; result = 'ok' if float((torch.ones(64, 64) @ torch.ones(64, 64)).sum()) == 64**3 else 'wrong'",
    "val by torch": "import torch; result = bytes(torch.from_file(path, size=18, dtype=torch.uint8).tolist())",
    "val by torch.load": "import torch; result = torch.load(path)",
}


@pytest.mark.parametrize("form", [pytest.param(form, marks=needs(form)) for form in jail.FORMS])
def test_what_codecs_and_models_need_works_in_every_form(liar, monkeypatch, form):
    in_form(monkeypatch, form)
    programs = LRZIP if shutil.which("lrzip", path="/usr/bin:/bin") else {}
    said = found(liar, HONEST | programs)
    assert set(said.values()) == {"ok"}, said


@pytest.mark.slow
@pytest.mark.parametrize("form", [pytest.param(form, marks=needs(form)) for form in jail.FORMS])
def test_torch_works_in_every_form_and_opens_val_only_in_the_weakest(liar, monkeypatch, host, form):
    in_form(monkeypatch, form)
    said = found(liar, TORCH, **host)
    assert said["torch"] == "ok", said
    assert (said["val by torch"] == SECRET) == (form == "none") and SECRET not in said["val by torch.load"]


LOCK = "import fcntl; sys.kept = open(os.__file__); fcntl.flock(sys.kept, fcntl.LOCK_EX | fcntl.LOCK_NB); result = 'locked'"
PAGES = """
size, path = max((os.path.getsize(place), place) for root, _, names in os.walk('/packages/torch/include') for place in
                 (os.path.join(root, name) for name in names))
file, seen = os.open(path, os.O_RDONLY), ''
if write:
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    for page, bit in enumerate(bits):
        bit == '1' and os.pread(file, 1, 4096 * page)
else:
    for page in range(length):
        try:
            seen += str(os.preadv(file, [bytearray(1)], 4096 * page, os.RWF_NOWAIT))
        except BlockingIOError:
            seen += '0'
result = seen
"""


@needs("bubblewrap")
def test_no_form_stops_locks_on_files_that_jails_share_so_sessions_at_the_same_time_could_talk(liar):
    told = {"evaluator": "one", "options": {"deeds": {"lock": LOCK}}, "num_targets": 3, "first": 1}
    with artifact.Session(liar, **told) as session:
        other = found(liar, {"lock": LOCK})
    assert session.facts["found"]["lock"] == "locked" and other["lock"].startswith("refused: BlockingIOError")
    assert found(liar, {"lock": LOCK})["lock"] == "locked", "no lock outlives its session"


FILES = ("open", "climbing", "a link", "os.open beside a folder", "open in C", "mmap", "a program", "a shell", "a fork")
OTHERS = ("another process's root", "another process's environment", "another process's memory", "a trace of another process")
MEMORY = ("shared memory", "shared memory by its call", "another process's memory by system call")
SCRUBBED = ("environment", "first environment", "inherited descriptor")


@needs("landlock")
def test_landlock_stops_files_processes_and_tcp(liar, monkeypatch, host):
    in_form(monkeypatch, "landlock")
    said = found(liar, READ | {name: REACH[name] for name in ("TCP", "an abstract socket", "a signal")}, **host)
    assert not [name for name in (*FILES, *OTHERS, *MEMORY, *SCRUBBED) if SECRET in said[name]], said
    assert untouched({name: said[name] for name in ("TCP", "an abstract socket", "a signal")}), said


@needs("landlock")
def test_landlock_does_not_stop_system_v_memory_nor_attributes_so_a_liar_is_not_ruled(liar, monkeypatch, host):
    """What another process left in these places can be found; that is why such a certificate says nothing against an artifact that lies."""
    in_form(monkeypatch, "landlock")
    said = found(
        liar, {name: REACH[name] for name in ("System V shared memory",)} | {"attribute": KEEP["in an attribute of its file"]}, **host
    )
    assert said["System V shared memory"] == "found" and (said["attribute"] == "kept" or "not supported" in said["attribute"]), said


def test_form_none_only_gives_a_bare_environment_and_no_descriptors_so_val_is_in_reach(liar, monkeypatch, host):
    in_form(monkeypatch, "none")
    said = found(liar, {name: READ[name] for name in (*SCRUBBED, "open")}, **host)
    assert not [name for name in SCRUBBED if SECRET in said[name]], said
    assert said["open"] == SECRET


def test_folder_of_a_session_is_gone_afterwards_in_every_form(liar, monkeypatch):
    in_form(monkeypatch, "none")
    place = found(liar, {"where": "result = os.environ['HOME']"})["where"]
    assert place.startswith("/") and not Path(place).exists()


def test_form_is_the_strongest_that_works(monkeypatch):
    """Without bwrap it is Landlock, and without Landlock none."""
    real, refusing = jail.form.__wrapped__, shutil.which("false")
    monkeypatch.setattr(jail.shutil, "which", lambda name: None)
    assert real() in ("landlock", "none")
    monkeypatch.setattr(jail.sys, "executable", refusing)
    assert real() == "none"


def test_session_that_is_left_by_an_error_leaves_no_process(liar):
    with (
        pytest.raises(KeyboardInterrupt),
        artifact.Session(liar, evaluator="one", options={"deeds": {}}, num_targets=3, first=1) as session,
    ):
        process = session.process
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL
    if sys.platform == "linux":
        assert not Path(f"/proc/{process.pid}").exists()


def test_what_a_killed_referee_left_goes_after_a_week(monkeypatch, tmp_path):
    """Not sooner: another referee may still use it."""
    monkeypatch.setattr(jail.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(jail, "_packages", lambda: {"here": tmp_path})
    for name, days in (("old", 8), ("new", 1)):
        (tmp_path / f"caddie-jail-{name}/copy").mkdir(parents=True)
        os.utime(tmp_path / f"caddie-jail-{name}", (time.time() - days * 86_400,) * 2)
    made = jail._store.__wrapped__()
    assert made.parent == tmp_path and sorted(path.name for path in tmp_path.iterdir()) == sorted(["caddie-jail-new", made.name])
