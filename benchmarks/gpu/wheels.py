"""Install the wheels of a folder beside this machine's Python, without network, and change nothing of that Python.

A new interpreter in the folder of the results sees the installed wheels first, then all packages of this one, torch among them. It is a
virtual environment and not a path in PYTHONPATH, because an isolated interpreter, in which the artifact runs, does not read that variable.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("wheels.txt")


def installed(wheels: Path, folder: Path) -> Path:
    """The interpreter in `folder`, made if it lacks these requirements. ValueError if a wheel is missing or does not fit."""
    python, mark = folder / "bin/python", folder / "installed.txt"
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    if mark.is_file() and mark.read_text() == key:
        return python
    if not wheels.is_dir():
        raise ValueError(f"{wheels} is no folder; docs/gpu-run.md has the command that fills it with the wheels of {REQUIREMENTS.name}")
    venv.create(folder, clear=True, symlinks=True)
    own = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (own / "machine.pth").write_text("\n".join(others) + "\n")
    options = ["--no-index", "--no-deps", "--quiet", "--disable-pip-version-check", "--find-links", str(wheels.absolute())]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(own), "--upgrade", "-r", str(REQUIREMENTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"the wheels in {wheels} cannot be installed: {' '.join(done.stderr.split())}")
    mark.write_text(key)
    return python
