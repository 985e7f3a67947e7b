"""Print the compress nodes whose recorded availability is no longer true on this machine, for `dvc repro --force`.

DVC does not notice that a program was installed or removed, so `make repro` calls this. On a first run it prints nothing.
"""

from pathlib import Path

from stages.lib.blob.grouping import Run
from stages.lib.node import command, files, params
from stages.runtime.base import plugin
from stages.runtime.blob.codecs import is_available


def stale(tree: dict, folder: Path) -> list[str]:
    """Names `compress@<run>` whose metrics under `folder` contradict what is installed."""
    command.check_names(tree)
    out = []
    for run in params.lookup(tree, "compress.runs"):
        metrics, settings = folder / run / "metrics.json", params.section(tree, Run, variant=run)
        available = all(is_available(plugin.load(*how.split("/"))) for how in settings.plugins())
        if metrics.is_file() and files.read_json(metrics, required=("available",))["available"] != available:
            out.append(f"compress@{run}")
    return out


if __name__ == "__main__":
    with command.sentences("compress"):
        print("\n".join(stale(params.read(Path("params.yaml")), Path("artifacts/compress"))))
