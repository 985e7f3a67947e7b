"""Print `text_compressors` if a program that it calls was installed or removed since it ran, for `dvc repro --force`.

DVC does not notice that, so `make repro` calls this. On a first run it prints nothing.
"""

from pathlib import Path

from stages.lib.node import command, files, params
from stages.text_compressors import compressors


def is_stale(tree: dict, metrics: Path) -> bool:
    """Whether `metrics` leaves out other compressors than those whose program is absent now."""
    names = params.lookup(tree, "text_compressors.compressors")
    return metrics.is_file() and set(files.read_json(metrics, required=("absent",))["absent"]) != set(compressors.absent(names))


if __name__ == "__main__":
    with command.sentences("text_compressors"):
        if is_stale(params.read(Path("params.yaml")), Path("artifacts/text_compressors/metrics.json")):
            print("text_compressors")
