"""Show what a shard contains: numbers of tokens, documents and bytes, and the beginnings of its documents as text."""

import argparse
from pathlib import Path

import numpy as np

from stages.lib.node import command
from stages.lib.text import accounting, corpus, published
from stages.runtime.text.tokenizer import BOS, Tokenizer
from stages.runtime.tokens import shards

LINE = 100  # number of characters shown of each document


def run(argv: list[str]) -> None:
    """Run the command line. A user's mistake is reported in one sentence, with exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m stages.tokenize", description=__doc__)
    parser.add_argument("--inspect", nargs="+", type=Path, required=True, metavar="SHARD", help="token shards, or their byte sidecars")
    parser.add_argument("--model", type=Path, help="the tokenizer (default: the one beside the shard, else artifacts/vocabulary's)")
    parser.add_argument("--documents", type=_count, default=5, metavar="N", help="how many documents to show (default: %(default)s)")
    chosen = parser.parse_args(argv)
    with command.sentences("tokenize"):
        for path in chosen.inspect:
            print("\n".join(describe(path, model=chosen.model, documents=chosen.documents)))


def describe(path: Path, *, model: Path | None = None, documents: int = 5) -> list[str]:
    """The lines to print. ValueError if the shard is damaged or was made with another tokenizer; FileNotFoundError if there is none."""
    values = shards.read(path)
    if "_bytes_" in path.name:
        return [
            f"{path}: byte sidecar of {len(values):,} tokens, {int(values.sum(dtype=np.int64)):,} bytes, at most "
            f"{values.max(initial=0)} per token, {int((values == 0).sum()):,} tokens without any"
        ]
    tokenizer = published.read_tokenizer(find_model(path, model))
    accounting.check_stream(tokenizer, values, where=str(path), at_start=False)
    certificate, starts = tokenizer.certificate(), np.flatnonzero(values == BOS)
    num_bytes = int(tokenizer.byte_counts(np.concatenate(([BOS], values)))[1:].sum())
    about = ""
    if not tokenizer.counts_follow_from_ids:
        sidecar = path.with_name("_bytes_".join(path.name.rsplit("_", 1)))
        about = "" if sidecar.is_file() else "about "
        num_bytes = int(shards.read(sidecar).sum(dtype=np.int64)) if sidecar.is_file() else num_bytes
    lines = [
        f"{path}: {len(values):,} tokens, {len(starts):,} documents begin in it, {about}{num_bytes:,} bytes of text, "
        f"{num_bytes / max(1, len(values) - len(starts)):.3f} bytes per token",
        f"tokenizer: {certificate['vocabulary_size']:,} ids, {certificate['kind']}, transform {certificate['transform']}, "
        + ("lossless" if certificate["lossless"] else f"not lossless ({'; '.join(certificate['lossy_because'])})")
        + f"; bytes are those of the {certificate['bytes_counted_on']}",
        f"first ids: {' '.join(map(str, values[:16].tolist()))}",
    ]
    if len(values) and values[0] != BOS:
        lines.append("it begins in the middle of a document, which is not shown")
    for number, start in enumerate(starts[:documents], 1):
        end = starts[number] if number < len(starts) else len(values)
        text = _beginning(tokenizer, values[start + 1 : min(end, start + 1 + LINE)])
        lines.append(f"{number:>6} ({end - start:,} tokens) {text[:LINE]!r}")
    return lines


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of documents, 0 or more")
    return int(text)


def _beginning(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """The text of the first tokens of a document, which may end inside a character or before the letter of an operator."""
    return tokenizer.decode(ids.tolist(), leniently=True).decode(errors="replace")


def find_model(path: Path, model: Path | None) -> Path:
    """Find the tokenizer to decode with."""
    if model is not None:
        return model
    for place in (path.parent / corpus.TOKENIZER, Path("artifacts/vocabulary") / corpus.TOKENIZER):
        if place.is_file():
            return place
    raise ValueError(f"there is no tokenizer beside {path} and none in artifacts/vocabulary; name it with --model FILE")
