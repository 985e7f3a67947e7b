"""The command line of `submission.pyz`: score a token stream with the packed model and one of the packed evaluators.

    python -I submission.pyz score TOKENS.bin [MORE.bin ...]      bits per byte of each stream, one JSON line each
    python -I submission.pyz show                                 what is inside

Needs torch, numpy, sentencepiece and the codec's library; reads nothing but its own file and the named streams.
"""

import argparse
import json
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from . import container, dequantize, harness, plugin, shards
from .tokenizer import Tokenizer


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. A user's mistake is one sentence on stderr and 1."""
    parser = argparse.ArgumentParser(prog="submission.pyz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="print the manifest")
    command = commands.add_parser("score", help="bits per byte of token streams")
    command.add_argument("tokens", nargs="+", type=Path, help="token shard: 256 int32 header, then uint16 ids")
    command.add_argument("--evaluator", help="one of the packed evaluators (default: the packed choice)")
    command.add_argument("--options", type=json.loads, help="JSON object of the evaluator's options (default: the packed ones)")
    command.add_argument("--ledger", type=Path, help="folder for one <stream>.npz each: nats per target, and the rows asked for")
    command.add_argument("--rows", type=json.loads, default=[], help="JSON list of targets whose whole distribution is kept")
    command.add_argument("--threads", type=int, default=2, help="CPU threads; part of what makes a result repeatable")
    command.add_argument("--progress", action="store_true", help="show a progress line even where stderr is no terminal")
    arguments = parser.parse_args(argv)
    try:
        manifest = json.loads(read("manifest.json"))
        if arguments.command == "show":
            print(json.dumps(manifest, indent=2))
        else:
            _score(arguments, manifest)
    except (ValueError, OSError) as error:
        print(f"submission.pyz: {error}", file=sys.stderr)
        return 1
    return 0


def read(name: str) -> bytes:
    """One of the packed files: manifest.json, model.blob or tokenizer.model."""
    return resources.files(__package__).joinpath("data", name).read_bytes()


def load_model():
    """Decode and dequantize the packed model."""
    model = container.unpack(read("model.blob"))
    return dequantize.build(dequantize.weights(model.tensors, model.schemes), model.config)


def _score(arguments: argparse.Namespace, manifest: dict) -> None:
    if arguments.threads < 1 or not isinstance(arguments.rows, list) or not all(isinstance(row, int) for row in arguments.rows):
        raise ValueError("--threads takes 1 or more, --rows a JSON list of target numbers")
    if arguments.ledger and len({path.stem for path in arguments.tokens}) < len(arguments.tokens):
        raise ValueError("streams of the same name would share one ledger; rename one of them")
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    name = arguments.evaluator or manifest["evaluator"]
    options = arguments.options
    if options is None:
        options = manifest["options"] if name == manifest["evaluator"] else {}
    model, tokenizer = load_model(), Tokenizer(read("tokenizer.model"))
    module = plugin.load("evaluators", name)
    streams = [(path, shards.read(path)) for path in arguments.tokens]
    for path, tokens in streams:
        if len(tokens) < 2 or tokens.max() >= tokenizer.vocabulary_size:
            raise ValueError(f"{path} must hold at least 2 tokens, all below the vocabulary size {tokenizer.vocabulary_size}; "
                             "encode the text with the tokenizer of this artifact")
    for path, tokens in streams:
        try:
            evaluator = module.Evaluator(model, **options)
        except TypeError as error:
            raise ValueError(f"evaluator {name} does not take these options: {error}") from None
        # A fresh evaluator per stream: nothing learned on one may help on the next.
        ledger = harness.score(evaluator, tokens, keep_rows=arguments.rows, progress=arguments.progress or sys.stderr.isatty())
        num_bytes = int(tokenizer.byte_counts(tokens)[1:].sum()) if tokenizer.counts_follow_from_ids else None
        if arguments.ledger:
            arguments.ledger.mkdir(parents=True, exist_ok=True)
            rows = {f"row_{target}": row for target, row in sorted(ledger.rows.items())}
            np.savez(arguments.ledger / f"{path.stem}.npz", nats=ledger.nats, **rows)
        print(json.dumps({
            "stream": path.name, "evaluator": name, "tokens": len(ledger.nats), "bytes": num_bytes,
            "loss_nats": float(ledger.nats.mean()), "bits_per_byte": ledger.bits_per_byte(num_bytes) if num_bytes else None,
            "seconds": round(ledger.seconds, 3), "claims": list(module.CLAIMS)}), flush=True)
