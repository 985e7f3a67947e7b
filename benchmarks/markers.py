"""What fused markers and operators before the blank gain over CaseOps as it is: tokens per byte, and bits per byte at equal steps.

    python benchmarks/markers.py --train documents.jsonl.xz                                    a vocabulary of 1,024 pieces for each
    python benchmarks/markers.py --train a.jsonl.xz --model caseops.model --others b.jsonl.xz  one vocabulary for all three
    python benchmarks/markers.py --train a.jsonl.xz --model caseops.model --seeds              tokens per byte alone

`--model` is a SentencePiece model with the four CaseOps operators, such as the published one of 8,192 pieces. A small network with the
smear gate of the records is trained on a part of `--train`. It is scored on documents of it that were held out, and on all documents of
`--others`. Every run has the same number of steps of as many tokens, so it sees more text if it needs fewer tokens for it. Scores are of
the average of the weights that is best on holdout, in windows of 256 tokens that do not overlap. p: one-sided Welch test that the transform
takes fewer bits per byte than CaseOps.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import contextlib
import importlib
import os
import platform
import statistics
import tempfile

import yaml

TRANSFORMS, WINDOW, LAYERS = ("caseops", "fused_markers", "operators_first"), 256, 2


def tree_of(arguments: argparse.Namespace, transform: str) -> dict:
    """params.yaml for one transform."""
    from stages.recipes import catalog

    return catalog.applied(
        {
            "prepare.source": "local",
            "prepare.path": str(arguments.train.resolve()),
            "prepare.max_bytes": arguments.max_bytes,
            "vocabulary.source": "file" if arguments.model else "bpe",
            "vocabulary.path": str((arguments.model or arguments.train).resolve()),
            "vocabulary.sample_bytes": 1_000_000,
            "vocabulary.transform": transform,
            "model.num_layers": LAYERS,
            "model.width": arguments.width,
            "model.num_heads": 2,
            "model.mlp_width": 4 * arguments.width,
            "model.features": {"smear_gate": {"version": 2, "window": 12}},
            "train.sequence_length": WINDOW,
            "train.steps": arguments.steps,
            "train.batch_tokens": arguments.batch_tokens,
            "train.averages.power": [],
            "train.averages.power_snapshots": 0,
            "train.holdout_every": 10**6,
            "train.threads": 1,
            "train.device": "cpu",
        },
        yaml.safe_load((ROOT / "params.yaml").read_text()),
    )


def stage(tree: dict, name: str, variant: str | None = None) -> None:
    """One stage of the pipeline in this process, in the current folder."""
    from stages.lib.node import stage

    main = importlib.import_module(f"stages.{name}.__main__").main
    with contextlib.redirect_stdout(sys.stderr):
        main(**stage.arguments_of(main, tree, variant=variant))


def scores(tree: dict, texts: dict) -> dict[str, float]:
    """Bits per byte of one training on each of `texts`, with its best average on holdout."""
    from stages.lib.node import tensors
    from stages.lib.tokens import splits as data
    from stages.lib.tokens import window_score
    from stages.runtime.weights import dequantize

    stage(tree, "train")
    networks = []
    for path in (Path("artifacts/train/model.safetensors"), *sorted(Path("artifacts/train/averages").iterdir())):
        state, facts = tensors.load(path)
        networks.append(dequantize.build(state, facts["model"]))
    holdout = data.read("artifacts/tokenize/holdout", "holdout", sidecar=True)
    best = min(networks, key=lambda net: window_score.chunked(net, holdout, window=WINDOW, max_targets=8192).bits_per_byte)
    return {name: window_score.chunked(best, text, window=WINDOW).bits_per_byte for name, text in texts.items()}


def encoded(path: Path, model: bytes):
    """All documents of a file, as one split."""
    from stages.lib.text.encoder import Encoder
    from stages.lib.tokens.splits import Split
    from stages.prepare import local

    found = Encoder(model).encode([document.text for document in local.documents(path)])
    return Split(found.ids, found.byte_counts.astype("int64"), {})


def measure(arguments: argparse.Namespace, transform: str) -> dict[str, tuple[float, list[float]]]:
    """For each text: tokens per byte, and the bits per byte of each seed."""
    from stages.lib.tokens import splits as data

    tree, before = tree_of(arguments, transform), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.chdir(folder)
            for name, variant in (("prepare", None), ("vocabulary", None), *(("tokenize", split) for split in ("train", "holdout", "val"))):
                stage(tree, name, variant)
            texts = {arguments.train.name: data.read("artifacts/tokenize/val", "val", sidecar=True)}
            model = Path("artifacts/vocabulary/tokenizer.model").read_bytes()
            texts |= {path.name: encoded(before / path, model) for path in arguments.others}
            found = {name: (len(text.tokens) / int(text.byte_counts.sum()), []) for name, text in texts.items()}
            for seed in arguments.seeds:
                tree["train"]["seed"] = seed
                for name, bits in scores(tree, texts).items():
                    found[name][1].append(bits)
                    print(f"{transform}, seed {seed}, {name}: {bits:.5f}", file=sys.stderr, flush=True)
        finally:
            os.chdir(before)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="documents to train on, and to hold out some of")
    parser.add_argument("--model", type=Path, help="a SentencePiece model with CaseOps operators (default: one trained on --train)")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="documents that are only scored")
    parser.add_argument("--max-bytes", type=int, default=8_000_000, help="of --train (default: %(default)s)")
    parser.add_argument("--width", type=int, default=96, help="of the network (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of every training (default: %(default)s)")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="of a step (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="training seeds (default: 1 2 3)")
    arguments = parser.parse_args()
    from benchmarks.training_quality import p_value

    found = {transform: measure(arguments, transform) for transform in TRANSFORMS}
    print("| text | transform | tokens per byte | of CaseOps | bits per byte | s.d. | less than CaseOps, mBPB | p |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, (base_size, base) in found["caseops"].items():
        for transform in TRANSFORMS:
            size, own = found[transform][name]
            score = f"{statistics.mean(own):.4f} | {statistics.stdev(own):.4f}" if len(own) > 1 else f"{own[0]:.4f} |" if own else "|"
            gain = "|"
            if transform != "caseops" and len(own) > 1:
                gain = f"{1000 * (statistics.mean(base) - statistics.mean(own)):.1f} | {p_value(own, base):.2g}"
            print(f"| {name} | {transform} | {size:.4f} | {size / base_size:.4f} | {score} | {gain} |")
    print(
        f"\n{arguments.steps} steps of {arguments.batch_tokens:,} tokens, {LAYERS} layers of width {arguments.width}, "
        f"n = {len(arguments.seeds)} seeds, {platform.machine()}, one thread, load {os.getloadavg()[0]:.1f} at the end"
    )


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/markers.py"):
        main()
