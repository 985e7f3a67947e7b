"""The whole run as one script: `train_gpt.py`, whose bytes count together with the model's, and readable source beside it, which does not.

    torchrun --nproc-per-node=8 train_gpt.py        in a folder with data/, as artifacts/tokenize has it: trains, averages, calibrates,
                                                    quantizes, compresses, and scores the file that it compressed

It is made of the stages themselves, with the settings of params.yaml in them: stages/lib/one_script. On the CPU it gives the blob and the
bits per byte of the pipeline to the bit. Nothing of it depends on what was trained but the number that `fit` found, if it was asked to.
"""

import csv
import dataclasses
import hashlib
import shutil
from copy import deepcopy
from typing import ClassVar

from stages.lib.one_script import program, wrap

from stages.lib.dvc import closure
from stages.lib.node import files, stage
from stages.lib.node.stage import Input, Metrics, Output, Plot


def whole(section: str) -> type:
    """A section of params.yaml as it stands; its stage checks it."""
    def from_params(cls, values: dict, path: str):
        return cls(values)

    return dataclasses.make_dataclass(section, [("values", dict)], frozen=True,
                                      namespace={"SECTION": section, "from_params": classmethod(from_params),
                                                 "__annotations__": {"SECTION": ClassVar[str]}})


Model, Train, Ema, PrequantTtt, Calibrate, Allocate, Quantize, Compress, Package = map(whole, (
    "model", "train", "ema", "prequant_ttt", "calibrate", "allocate", "quantize", "compress", "package"))


def main(
    model: Model,
    train: Train,
    ema: Ema,
    prequant_ttt: PrequantTtt,
    calibrate: Calibrate,
    allocate: Allocate,
    quantize: Quantize,
    compress: Compress,
    package: Package,
    *,
    target: Input = "artifacts/fill_cap/target.json",
    script: Output = "artifacts/script/train_gpt.py",
    source: Output = "artifacts/script/source",
    table: Plot = "artifacts/script/bytes.csv",
    metrics: Metrics = "artifacts/script/metrics.json",
) -> None:
    sections = (model, train, ema, prequant_ttt, calibrate, allocate, quantize, compress, package)
    tree = deepcopy({section.SECTION: section.values for section in sections})
    if tree["quantize"]["entropy"]["target_bytes"] == "auto":
        tree["quantize"]["entropy"]["target_bytes"] = files.read_json(target, required=("target_bytes",))["target_bytes"]
    made = program.build(tree)
    short = wrap.shortened(made.tree)
    text = wrap.wrapped(short)
    with files.atomic(script) as partial:
        partial.write_text(text, encoding="utf-8")
    files = program.source_files(tree)
    with files.atomic(source) as partial:
        for path in files:
            copy = partial / path.relative_to(closure.ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        (partial / "one_module.py").write_text(made.readable(), encoding="utf-8")
    with files.atomic(table) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("part", "group", "name", "bytes"))
        writer.writerows(made.shares(len(text)))
    code_bytes, source_bytes = len(text.encode()), sum(path.stat().st_size for path in files)
    files.write_json(metrics, {
        "code_bytes": code_bytes, "minified_bytes": len(short.encode()), "readable_bytes": len(made.readable().encode()),
        "source_bytes": source_bytes, "modules": len(files), "sha256": hashlib.sha256(text.encode()).hexdigest()})
    print(f"{script}: {code_bytes:,} bytes, of {len(files)} modules of {source_bytes:,} bytes")


if __name__ == "__main__":
    stage.run(main)
