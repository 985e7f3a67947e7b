"""Bits per byte of general-purpose compressors on the validation text, for comparison with the language model.

Each compressor is measured on val alone. Those of `after_train` are also measured on val after train, as what val adds to the compressed
train text. The text is the documents' own bytes in order, without separators: exactly the bytes that every score is divided by. A
compressor whose program is not installed is left out, and the metrics say so.

`python -m stages.text_compressors FILE...` compresses files of your own instead and prints a table. The packaged artifact is in it, if
there is one, and so are the published results of other programs for alice29.txt and enwik8.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

from tqdm import tqdm

from stages.lib.node import files
from stages.lib.node.params import AtLeastOne, require
from stages.lib.node.stage import Input, Metrics
from stages.lib.text import corpus
from stages.text_compressors import compressors, own_files

NUM_PROCESSES = 2  # each holds a compressor's tables, which take up to 1 GB at the strongest levels


@dataclass(frozen=True)
class TextCompressorsSettings:
    """Which compressors to measure, which of them also after train text, and how many bytes from the end of train they get first."""

    SECTION: ClassVar[str] = "text_compressors"
    compressors: tuple[str, ...]
    after_train: tuple[str, ...]
    train_bytes: AtLeastOne


def main(
    settings: TextCompressorsSettings,
    *,
    train: Input = "artifacts/prepare/train",
    val: Input = "artifacts/prepare/val",
    metrics: Metrics = "artifacts/text_compressors/metrics.json",
) -> None:
    compressors.check(settings.compressors)
    for name in settings.after_train:
        require(
            name in settings.compressors,
            f"text_compressors.after_train names {name}, which is not in text_compressors.compressors; add it there",
        )
    val_text = "".join(corpus.texts(val)).encode()
    require(bool(val_text), f"{val} holds no text; run: dvc repro prepare")
    train_text = b""
    if settings.after_train:
        train_text = "".join(corpus.last_texts(train, settings.train_bytes)).encode()
        require(
            bool(train_text),
            f"text_compressors.train_bytes is {settings.train_bytes}, less than the last document of "
            f"{train}; raise it, or set text_compressors.after_train to []",
        )
    absent = compressors.absent(settings.compressors)
    names = [name for name in settings.compressors if name not in absent]
    after_train = [name for name in settings.after_train if name not in absent]
    measured = compressors.measure(names, after_train, val_text, train_text, workers=NUM_PROCESSES)
    bar = tqdm(measured, "compressing", total=len(names) + 2 * len(after_train), unit=" jobs", disable=None)
    table = compressors.summarize(bar, len(val_text))
    for name in settings.compressors:
        print(f"{name:10} {absent[name]}" if name in absent else f"{name:10} {_line(table[name], len(train_text))}")
    files.write_json(
        metrics,
        {
            "val_bytes": len(val_text),
            "train_bytes": len(train_text),
            "text_sha256": corpus.facts(val)["sha256"],
            "compressors": {name: table[name] for name in names},
            "absent": absent,
        },
    )


def _line(row: dict, train_bytes: int) -> str:
    after = row["bits_per_byte_after_train"]
    shown = "" if after is None else f", {after:.4f} after {train_bytes:,} bytes of train text"
    return f"{row['bits_per_byte']:.4f} bits per byte{shown}, {row['seconds']:.1f} s, {row['peak_bytes'] / 1e6:,.0f} MB"


if __name__ == "__main__":
    from stages.lib.node import command

    if sys.argv[1:] and not any(word.startswith("-") for word in sys.argv[1:]):
        with command.sentences("text_compressors"):
            own_files.main(sys.argv[1:])
    else:
        command.run(main)
