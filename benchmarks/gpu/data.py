"""Make the text of the part `pipeline`: tokens and a tokenizer in a folder of at most 20 MB, to be carried to a machine with a GPU.

    python -m benchmarks.gpu.data data/gpu                          the built-in text
    python -m benchmarks.gpu.data data/gpu --text my_texts --vocabulary 8192

It runs prepare, vocabulary and tokenize with the settings of pr1855 (CaseOps), but on this text, with a vocabulary that is trained on it.
This needs the whole environment of `make setup`; the machine with the GPU does not.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from stages.lib.node import stage

MOST_BYTES = 20_000_000
NODES = (("prepare", None), ("vocabulary", None), ("tokenize", "train"), ("tokenize", "holdout"), ("tokenize", "val"))
SAMPLE_BYTES = 8_000_000  # of train text, for the vocabulary


def make(folder: Path, *, text: Path | None, vocabulary: int, max_bytes: int | None) -> int:
    """Bytes of the folder, which replaces an older one. ValueError if it would be larger than 20 MB."""
    from benchmarks.gpu import trees

    more = {
        "prepare.source": "local" if text else "builtin",
        "prepare.path": str(text.absolute()) if text else "data",
        "prepare.max_bytes": max_bytes,
        "prepare.split": "hash",
        "vocabulary.source": "bpe",
        "vocabulary.size": vocabulary,
        "vocabulary.sample_bytes": SAMPLE_BYTES,
    }
    tree, before, folder = trees.of("pr1855", "cpu", small=False, more=more), Path.cwd(), folder.absolute()
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        try:
            Path("data").mkdir()  # prepare.path must exist, also where it is not read
            for node, variant in NODES:
                call = importlib.import_module(f"stages.{node}.__main__").main
                call(**stage.arguments_of(call, tree, variant=variant))
        finally:
            os.chdir(before)
        made = [path for name in ("tokenize", "vocabulary") for path in (Path(work) / "artifacts" / name).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in made)
        if size > MOST_BYTES:
            raise ValueError(f"{folder} would have {size:,} bytes, more than {MOST_BYTES:,}; give less with --max-bytes (BYTES=)")
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            place = folder / path.relative_to(Path(work) / "artifacts")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the tokens go")
    parser.add_argument("--text", type=Path, help="a file or folder of text (default: the built-in text)")
    parser.add_argument("--vocabulary", type=int, default=8192, help="pieces (default: %(default)s, as published)")
    parser.add_argument("--max-bytes", type=int, default=30_000_000, help="of text (default: %(default)s)")
    chosen = parser.parse_args()
    size = make(chosen.folder, text=chosen.text, vocabulary=chosen.vocabulary, max_bytes=chosen.max_bytes)
    print(f"{chosen.folder}: {size:,} bytes")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"caddie gpu-data: {error}")
