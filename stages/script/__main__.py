"""The whole run as one script, `train_gpt.py`, whose bytes count together with the model's. Readable source beside it does not count.

The script contains the pipeline's own modules (packing.py) and runs their main()s (driver.py). On the CPU its blob and bits per byte equal
the pipeline's to the bit. It contains nothing that was learned, so it can be written before the training.
"""

import hashlib
import shutil
from pathlib import Path

from stages.lib.blob import byte_table
from stages.lib.node import closure, files, params
from stages.lib.node.stage import Input, Metrics, Output, Plot
from stages.script import packing


def main(
    *,
    parameters: Input = "params.yaml",  # nearly all of it goes in; its sections, one by one, would be a tenth of dvc.lock
    script: Output = "artifacts/script/train_gpt.py",
    source: Output = "artifacts/script/source",
    table: Plot = "artifacts/script/bytes.csv",
    metrics: Metrics = "artifacts/script/metrics.json",
) -> None:
    tree = params.read(parameters)
    contents, modules = packing.contents(tree), packing.modules(tree)
    text = packing.wrapped(contents).encode()
    with files.atomic(script) as partial:
        partial.write_bytes(text)
    with files.atomic(source) as partial:
        for path in modules:
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(closure.ROOT / path, partial / path)
    shares = byte_table.share(len(text), [len(content) for content in contents.values()])  # they are packed together
    with files.atomic(table) as partial:
        byte_table.write(partial, [("code", Path(path).parent.name, path, n) for path, n in zip(contents, shares, strict=True)])
    files.write_json(metrics, {"code_bytes": len(text), "modules": len(modules), "sha256": hashlib.sha256(text).hexdigest()})
    print(f"{script}: {len(text):,} bytes, of {len(modules)} modules")


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
