"""The whole run as one script: `train_gpt.py`, whose bytes count together with the model's, and readable source beside it, which does not.

    torchrun --nproc-per-node=8 train_gpt.py        in a folder with data/, as artifacts/tokenize has it: trains, averages, calibrates,
                                                    quantizes, compresses, and scores the file that it compressed

The script holds the pipeline's own modules and runs their main()s (packing.py, driver.py). On the CPU it gives the blob and the bits per
byte of the pipeline to the bit. Nothing of it depends on what was trained but the number that `fill_cap` found, if it was asked to.
"""

import hashlib
import shutil
from copy import deepcopy

from stages.lib.blob import byte_table
from stages.lib.node import closure, files, params
from stages.lib.node.stage import Input, Metrics, Output, Plot
from stages.script import packing

Model, Train, Ema, PrequantTtt, Calibrate, Sensitivity, Quantize, Compress, Package = map(params.whole, (
    "model", "train", "ema", "prequant_ttt", "calibrate", "sensitivity", "quantize", "compress", "package"))


def main(
    model: Model,
    train: Train,
    ema: Ema,
    prequant_ttt: PrequantTtt,
    calibrate: Calibrate,
    sensitivity: Sensitivity,
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
    sections = (model, train, ema, prequant_ttt, calibrate, sensitivity, quantize, compress, package)
    tree = deepcopy({section.SECTION: section.values for section in sections})
    if tree["quantize"]["entropy"]["target_bytes"] == "auto":
        tree["quantize"]["entropy"]["target_bytes"] = files.read_json(target, required=("target_bytes",))["target_bytes"]
    contents, modules = packing.contents(tree), packing.modules(tree)
    text = packing.wrapped(contents).encode()
    with files.atomic(script) as partial:
        partial.write_bytes(text)
    with files.atomic(source) as partial:
        for path in modules:
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(closure.ROOT / path, partial / path)
    sizes = {name: len(content.encode()) for name, content in contents.items()}
    shares = byte_table.share(len(text), list(sizes.values()))  # of what is packed together, by the length of each module
    with files.atomic(table) as partial:
        byte_table.write(partial, [("code", name.split("/")[-2] if "/" in name else "run", name, size)
                                   for name, size in zip(sizes, shares, strict=True)])
    source_bytes = sum((closure.ROOT / path).stat().st_size for path in modules)
    files.write_json(metrics, {"code_bytes": len(text), "minified_bytes": sum(sizes.values()), "source_bytes": source_bytes,
                               "modules": len(modules), "sha256": hashlib.sha256(text).hexdigest()})
    print(f"{script}: {len(text):,} bytes, of {len(modules)} modules of {source_bytes:,} bytes")


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
