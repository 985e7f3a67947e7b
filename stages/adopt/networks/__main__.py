"""Quantize and pack a causal language model that `transformers` can load, layer by layer, and compare the ways (docs/networks.md).

    python -m stages.adopt.networks FOLDER --calibration FILE --evaluation FILE --out model.zip

FOLDER is what save_pretrained wrote: config.json and safetensors files. The two FILEs are text, for the tokenizer in FOLDER, or token ids
in a .npy file. It writes model.zip, which stages/adopt/networks/restore.py turns back into a state dict, and model.md, a table of bits,
bytes and perplexity: the checkpoint, round to nearest and GPTQ with --bits, and entropy-constrained with as many coded bits as GPTQ.
"""

import argparse
import math
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from stages.adopt.networks import packing, walk
from stages.adopt.networks.checkpoint import Checkpoint
from stages.lib.blob.grouping import Run
from stages.lib.node import command, files, params
from stages.lib.node.params import require
from stages.lib.quant.settings import QuantizeSettings

AS_IT_IS, OURS = "checkpoint", "entropy"
LABELS = {AS_IT_IS: "the checkpoint", "nearest": "round to nearest", "gptq": "GPTQ", OURS: "entropy-constrained"}
BATCH = 4  # rows at a time


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stages.adopt.networks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="FOLDER", help="config.json and model.safetensors")
    parser.add_argument("--calibration", type=Path, required=True, metavar="FILE", help="text or .npy, for the Hessians")
    parser.add_argument("--evaluation", type=Path, required=True, metavar="FILE", help="text or .npy, for the perplexity")
    parser.add_argument("--bits", type=int, default=4, help="of round to nearest and GPTQ, 2 to 8 (default: %(default)s)")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=64, help="most rows of each file (default: %(default)s)")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="quantize and compress (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.zip", help="the file to write; the table goes beside it")
    chosen = parser.parse_args(argv)
    with command.sentences("adopt.networks"):
        require(2 <= chosen.bits <= 8, f"--bits takes 2 to 8, not {chosen.bits}")
        require(chosen.length >= 2 and chosen.rows >= 1, "--length takes 2 or more tokens, and --rows 1 or more")
        require(chosen.out.suffix == ".zip", f"--out takes a file that ends in .zip, not {chosen.out}")
        files.check_writable(chosen.out, "--out", is_file=True)
        tree = params.read(chosen.params)
        settings, run = params.section(tree, QuantizeSettings), Run.from_params(tree["compress"]["runs"]["covariance"], "compress.runs")
        checkpoint = Checkpoint(chosen.checkpoint)
        rows = [_rows(path, chosen, checkpoint) for path in (chosen.calibration, chosen.evaluation)]
        with files.atomic(chosen.out) as partial:
            found = pack(checkpoint, *rows, bits=chosen.bits, settings=settings, run=run, out=partial)
        with files.atomic(chosen.out.with_suffix(".md")) as partial:
            partial.write_text(table(found), encoding="utf-8")
        print(table(found))
    return 0


def pack(
    checkpoint: Checkpoint, calibration: list, evaluation: list, *, bits: int, settings: QuantizeSettings, run: Run, out: Path
) -> dict:
    """Write the file; returns perplexity, bytes and weights by way. In memory: the tables, a layer, the activations of five passes."""
    steps = walk.Walk(checkpoint)
    number, sizes = checkpoint.config.num_hidden_layers, dict.fromkeys(packing.WAYS, 0)
    table_settings = packing.settings_of(settings, "nearest", packing.TABLE_BITS, 1.0)
    tables = {name: checkpoint.get(name) for name in steps.names}
    rounded = packing.packed(steps.frame, tables, {}, table_settings, run, prefix="")
    given = [steps.begin(row) for row in calibration]
    hidden = {AS_IT_IS: [steps.begin(row) for row in evaluation]}
    steps.set(rounded.state)
    start = [steps.begin(row) for row in evaluation]
    hidden |= {way: start for way in packing.WAYS}
    with zipfile.ZipFile(out, "w") as archive:
        archive.write(checkpoint.folder / "config.json", "config.json")
        _write(archive, "tables", rounded.blobs)
        for place in tqdm(range(number), desc="layers", unit=" layers", disable=None):
            layer, state = steps.layer(place)
            hessians, given = walk.hessians(steps, layer, given)
            hidden[AS_IT_IS] = [steps.through(layer, row) for row in hidden[AS_IT_IS]]
            budget = 1.0
            for way in packing.WAYS:
                chosen = packing.settings_of(settings, way, bits, budget)
                made = packing.packed(layer, state, hessians, chosen, run, prefix=f"{steps.prefix}.{place}.")
                budget, sizes[way] = made.bits_per_weight, sizes[way] + sum(map(len, made.blobs))
                layer.load_state_dict(made.state)
                hidden[way] = [steps.through(layer, row) for row in hidden[way]]
                if way == OURS:
                    _write(archive, f"layer_{place:04d}", made.blobs)
            del layer, state, hessians, made  # before the next layer is read
    perplexity = {}
    for way, rows in hidden.items():
        steps.set(tables if way == AS_IT_IS else rounded.state)
        nats = torch.cat([steps.nats(row, tokens) for row, tokens in zip(rows, evaluation, strict=True)])
        perplexity[way] = math.exp(nats.double().mean().item())
    sizes = {way: size + sum(map(len, rounded.blobs)) for way, size in sizes.items()}
    return {
        "perplexity": perplexity,
        "bytes": {AS_IT_IS: checkpoint.num_bytes} | sizes,
        "weights": checkpoint.num_weights,
        "bits": bits,
        "tokens": sum(row.numel() - len(row) for row in evaluation),
    }


def table(found: dict) -> str:
    """Markdown."""
    lines = ["| way | bytes | bits per weight | perplexity |", "|---|---:|---:|---:|"]
    for way, perplexity in found["perplexity"].items():
        size = found["bytes"][way]
        label = LABELS[way] + (f", {found['bits']} bits" if way in ("nearest", "gptq") else "")
        lines.append(f"| {label} | {size:,} | {8 * size / found['weights']:.3f} | {perplexity:.4f} |")
    return "\n".join([*lines, "", f"{found['weights']:,} weights; perplexity of {found['tokens']:,} tokens.", ""])


def _write(archive: zipfile.ZipFile, name: str, blobs: list[bytes]) -> None:
    for number, blob in enumerate(blobs):
        archive.writestr(f"{name}_{number}.blob", blob)


def _rows(path: Path, chosen: argparse.Namespace, checkpoint: Checkpoint) -> list[torch.Tensor]:
    """Batches of rows (B, T) of token ids. ValueError for a file without a row, or ids that the network does not know."""
    require(path.is_file(), f"{path} is missing; give text or a .npy file of token ids")
    ids = _ids(path, chosen.checkpoint)
    count = min(chosen.rows, len(ids) // chosen.length)
    require(count > 0, f"{path} has {len(ids)} tokens, fewer than a row of {chosen.length}; give more, or a smaller --length")
    size = checkpoint.config.vocab_size
    require(ids.min() >= 0 and ids.max() < size, f"{path} has the token {ids.max()}, the network knows {size}; use its own tokenizer")
    known = getattr(checkpoint.config, "max_position_embeddings", None) or chosen.length
    require(chosen.length <= known, f"--length is {chosen.length}, the network knows {known} positions")
    rows_NT = torch.from_numpy(ids[: count * chosen.length].astype(np.int64)).reshape(count, chosen.length)
    return [rows_NT[i : i + BATCH] for i in range(0, count, BATCH)]


def _ids(path: Path, folder: Path) -> np.ndarray:
    if path.suffix == ".npy":
        try:
            ids = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is no array of numbers ({error})") from None
        require(ids.ndim == 1 and ids.dtype.kind in "iu", f"{path} has {ids.ndim} axes of {ids.dtype}; it takes one axis of whole numbers")
        return ids
    require((folder / "tokenizer.json").is_file(), f"{folder} has no tokenizer.json for the text {path}; give token ids in a .npy file")
    from tokenizers import Tokenizer

    return np.array(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(path.read_text(encoding="utf-8")).ids)


if __name__ == "__main__":
    sys.exit(main())
