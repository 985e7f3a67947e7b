"""Decode a coded file with the artifact, in a process that sees only the artifact, the bits and the declared number of targets.

    python -m stages.audit.decoder ARTIFACT CODE OUTPUT EVALUATOR OPTIONS NUM_TARGETS FIRST COUNT

`run` starts it in an empty folder. It writes the first COUNT tokens after FIRST (the token every stream begins with) as int64 to OUTPUT.
The artifact is told only the tokens that were decoded before. A killed decoder continues from OUTPUT.partial.npz, which is saved meanwhile.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from stages.lib.node import closure
from stages.lib.referee import artifact
from stages.runtime.text import arithmetic

KEEP_EVERY = 1024  # tokens between two saved states from which a killed decoder can continue


def run(submission: Path, code: bytes, *, count: int, **told) -> np.ndarray | str:
    """Decode `code` in another process and an empty folder. Returns the tokens, or its last line if it fails. `told` as for `start`."""
    with tempfile.TemporaryDirectory(prefix="caddie-") as name:
        folder = Path(name)
        (folder / "code").write_bytes(code)
        with start(submission, folder, count=count, **told) as process:
            process.stdout.read()
        if process.returncode:
            return ((folder / "stderr").read_text(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return np.load(folder / "ids.npy", allow_pickle=False)


def start(submission: Path, folder: Path, *, count: int, evaluator: str, options: dict, num_targets: int, first: int) -> subprocess.Popen:
    """Start the process that decodes `folder`/code to `folder`/ids.npy; it prints from time to time how many tokens it has decoded."""
    arguments = [Path(submission).resolve(), "code", "ids.npy", evaluator, json.dumps(options), num_targets, first, count]
    with open(folder / "stderr", "wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", __spec__.name, *map(str, arguments)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": str(closure.ROOT)},
        )


def main(argv: list[str]) -> None:
    """Decode; see the module's docstring."""
    pyz, code, output, evaluator, options, num_targets, first, count = argv
    decoder, found, partial = arithmetic.Decoder(Path(code).read_bytes()), [], Path(output + ".partial.npz")
    if partial.is_file():
        with np.load(partial, allow_pickle=False) as kept:
            found = kept["ids"].tolist()
            decoder.place, decoder.code, decoder.range = (int(kept[name]) for name in ("place", "code", "range"))
    told = {"evaluator": evaluator, "options": json.loads(options), "num_targets": int(num_targets), "first": int(first)}
    with artifact.Stream(Path(pyz), **told) as stream:
        stream.push(found)
        while len(found) < int(count):
            found.append(decoder.get(arithmetic.frequencies(stream.dist())))
            stream.push(found[-1:])
            if len(found) % KEEP_EVERY == 0:
                _keep(partial, found, decoder)
                print(len(found), flush=True)
    with open(output, "wb") as handle:
        np.save(handle, np.array(found, np.int64), allow_pickle=False)
    partial.unlink(missing_ok=True)


def _keep(path: Path, found: list[int], decoder: arithmetic.Decoder) -> None:
    new = path.with_name(f".{path.name}")
    with open(new, "wb") as handle:
        np.savez(handle, ids=np.array(found, np.int64), place=decoder.place, code=np.uint64(decoder.code), range=np.uint64(decoder.range))
    new.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
