"""How often the check `memorization` accuses an honest run, by how many tokens of holdout it compares with val.

    python benchmarks/false_alarms.py                         after `dvc repro`
    python benchmarks/false_alarms.py --artifacts A B --run sliding --limits 40000 250000 --draws 8000
    python benchmarks/false_alarms.py --artifacts A B --write     puts the table into docs/certification.md

Each folder is the artifacts/ of a run that ended. Its artifact scores all of holdout here, and the costs of val are those of its ledger.
Nothing had seen either, so every accusation is a false one. Two rates: documents of holdout are drawn as an audit draws them, and val is
what it is; or all documents of both are dealt anew to a val and a holdout with the same numbers of documents, so that no difference
between the two kinds of text is left, and what remains is what the check calls chance.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import statistics

import numpy as np
from tqdm import trange

from benchmarks.default_run import hardware
from stages.audit.checks import memorization
from stages.audit.reference_model import Trigram
from stages.lib.node import files
from stages.lib.node.command import sentences
from stages.lib.referee import artifact
from stages.lib.tokens import splits
from stages.runtime.text.tokenizer import BOS

PAGE = ROOT / "docs/certification.md"
BEGIN, END = "<!-- false alarms: benchmarks/false_alarms.py --write -->", "<!-- end of false alarms -->"
HEAD = (
    "| tokens of holdout | threshold, bits per byte | accused, documents of holdout drawn | accused, documents divided again |",
    "|---:|---:|---:|---:|",
)


def measured(folder: Path, run: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For holdout and for val: (bits of the artifact, bits of the reference, bytes, tokens) by document."""
    train = np.asarray(splits.read(folder / "tokenize/train", "train").tokens[: memorization.TRAIN_TOKENS])
    said = files.read_json(folder / f"evaluate/{run}/metrics.json", required=("evaluator", "options"))
    found = []
    for name in ("holdout", "val"):
        split = splits.read(folder / "tokenize" / name, name, sidecar=True)
        stream = np.asarray(split.tokens[:], np.int64)
        if name == "val":
            nats = np.load(folder / f"evaluate/{run}/ledger.npy", allow_pickle=False)
        else:
            told = {"evaluator": said["evaluator"], "options": said["options"], "vocabulary": split.vocabulary_size}
            nats = artifact.claim(folder / "package/submission.pyz", stream, **told).nats
        documents = memorization.per_document(stream, np.asarray(split.byte_counts[:]), nats, Trigram(train, split.vocabulary_size))
        found.append([*documents, np.diff(np.append(np.flatnonzero(stream == BOS), len(stream)))])
    return found


def drawn(holdout: list[np.ndarray], limit: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Documents of holdout as `memorization.sample` draws them."""
    order = generator.permutation(len(holdout[3]))
    order = order[: max(2, np.searchsorted(np.cumsum(holdout[3][order]), limit))]
    return [column[order] for column in holdout]


def accused(val: list[np.ndarray], holdout: list[np.ndarray]) -> tuple[bool, float]:
    """Whether the check would fail, and the threshold."""
    deviation, error = memorization.compared(tuple(val[:3]), tuple(holdout[:3]))
    threshold = memorization.most_by_chance(error, len(holdout[2]))
    return deviation < -threshold, threshold


def rates(holdout: list[np.ndarray], val: list[np.ndarray], limit: int, draws: int) -> tuple[float, float, float]:
    """(mean threshold, share of accusations if holdout is drawn, the same if all documents are dealt anew)."""
    generator = np.random.default_rng(limit)
    both = [np.concatenate(columns) for columns in zip(val, holdout, strict=True)]
    results, dealt = [], []
    for _ in trange(draws, desc=f"{limit:,} tokens", leave=False, disable=not sys.stderr.isatty()):
        results.append(accused(val, drawn(holdout, limit, generator)))
        order = generator.permutation(len(both[0]))
        first, rest = order[: len(val[0])], order[len(val[0]) :]
        dealt.append(accused([one[first] for one in both], drawn([one[rest] for one in both], limit, generator))[0])
    return statistics.fmean(found[1] for found in results), statistics.fmean(found[0] for found in results), statistics.fmean(dealt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, nargs="+", default=[ROOT / "artifacts"], help="default: artifacts")
    parser.add_argument("--run", default="sliding", help="a run of evaluate whose evaluator carries nothing (default: %(default)s)")
    parser.add_argument("--limits", type=int, nargs="+", default=[40_000, 80_000, 140_000, 250_000], help="default: %(default)s")
    parser.add_argument("--draws", type=int, default=4000, help="of each artifact and number of tokens (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    documents = [measured(folder, arguments.run) for folder in arguments.artifacts]
    lines = []
    for limit in arguments.limits:
        found = [rates(*one, limit, arguments.draws) for one in documents]
        threshold, of_holdout, of_both = (statistics.fmean(column) for column in zip(*found, strict=True))
        lines.append(f"| {limit:,} | {threshold:.4f} | {of_holdout:.2%} | {of_both:.2%} |")
    tokens, count = int(documents[0][0][3].sum()), len(documents[0][0][3])
    foot = (
        f"\n`{arguments.run}` of {len(documents)} artifacts, {arguments.draws:,} draws each; holdout has {tokens:,} tokens in {count} "
        f"documents, val has {len(documents[0][1][3])} documents. {hardware()}."
    )
    text = "\n".join([*HEAD, *lines, foot])
    print(text)
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    with sentences("benchmarks/false_alarms.py"):
        main()
