"""Print the compress nodes whose recorded availability is no longer true on this machine, for `dvc repro --force`.

DVC does not see that a program was installed or removed since; `make repro` asks here. Prints nothing on a first run.
"""

import shutil
from pathlib import Path

from stages.lib import params, stage
from stages.runtime import plugin


def stale(tree: dict, folder: Path) -> list[str]:
    """Names `compress@<run>` whose metrics under `folder` contradict what is on PATH."""
    out = []
    for run, settings in params.lookup(tree, "compress.runs").items():
        metrics = folder / run / "metrics.json"
        program = plugin.load("codecs", settings["codec"]).PROGRAM
        if program and metrics.is_file() and stage.read_json(metrics, required=("available",))["available"] != bool(shutil.which(program)):
            out.append(f"compress@{run}")
    return out


if __name__ == "__main__":
    with stage.sentences("compress"):
        print("\n".join(stale(params.read(Path("params.yaml")), Path("artifacts/compress"))))
