"""How fast the case transform is: UTF-8 megabytes of the original text per second, one process on one core.

    python benchmarks/caseops.py                            the built-in corpus
    python benchmarks/caseops.py --path documents.jsonl.xz  JSON lines with a "text"; also .gz, .zst and plain text

Documents are transformed one at a time, as a tokenizer does it. Prints median and min..max over the runs against a bound (a
pass of lower() and encode(), which loses the capitals) and a peer (the published rules, character by character, whose
encodings must be the same). The first run of each row is not counted: it fills the cache of words.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

from stages.prepare import local
from stages.prepare.__main__ import read_builtin
from stages.runtime.text import caseops


def peer_encode(text: str) -> str:
    """The encoder as its rules are published: a loop over characters, then over the letters of a word."""
    written: list[str] = []
    word: list[str] = []
    for char in text:
        if char.isascii() and char.isalpha():
            word.append(char)
            continue
        written += peer_word(word)
        word.clear()
        written += (caseops.ESC, char) if char in caseops.OPERATORS else (char,)
    return "".join(written + peer_word(word))


def peer_word(word: list[str]) -> list[str]:
    """The transformed letters of one word."""
    capitals = [letter.isupper() for letter in word]
    small = [letter.lower() for letter in word]
    if len(word) > 1 and all(capitals):
        return [caseops.ALLCAPS, *small]
    written = []
    for i, (letter, is_capital) in enumerate(zip(small, capitals, strict=True)):
        if is_capital:
            written.append(caseops.CAPNEXT if i else caseops.TITLE)
        written.append(letter)
    return written


def first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Whole documents until they hold at least `limit` UTF-8 bytes."""
    for text in texts:
        yield text
        limit -= len(text.encode())
        if limit <= 0:
            return


def speeds(function: Callable[[str], object], texts: list[str], megabytes: float, runs: int) -> list[float]:
    """MB/s of each run but the first."""
    found = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        for text in texts:
            function(text)
        found.append(megabytes / (time.perf_counter() - start))
    return found[1:]


def hardware() -> str:
    """One line: processor, system, Python."""
    found = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in found if line.startswith("model name")), platform.processor())
    return f"one of {os.cpu_count()} cores of {model}, {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, help="documents to transform (default: the built-in corpus)")
    parser.add_argument("--megabytes", type=float, default=4.0, help="how much of them, UTF-8 MB (default: 4)")
    parser.add_argument("--runs", type=int, default=9, help="counted runs of each row (default: 9)")
    arguments = parser.parse_args()
    documents = local.documents(arguments.path) if arguments.path else read_builtin()
    texts = list(first_bytes((document.text for document in documents), round(arguments.megabytes * 1e6)))
    encoded = [caseops.encode(text) for text in texts]
    if encoded != [peer_encode(text) for text in texts] or [caseops.decode(text) for text in encoded] != texts:
        sys.exit("the transform and its peer disagree, or a text does not come back: there is nothing to measure")
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    operators = sum(text.count(operator) for text in encoded for operator in caseops.OPERATORS)
    print("| row | MB/s, median | min..max |\n|---|---:|---:|")
    for name, function, given in (
        ("encode", caseops.encode, texts),
        ("decode", caseops.decode, encoded),
        ("bound: lower() and encode()", lambda text: text.lower().encode(), texts),
        ("peer: encode character by character", peer_encode, texts),
    ):
        found = speeds(function, given, megabytes, arguments.runs)
        print(f"| {name} | {statistics.median(found):.1f} | {min(found):.1f}..{max(found):.1f} |", flush=True)
    print(
        f"\n{len(texts):,} documents, {megabytes:.2f} MB, {operators / megabytes / 1000:.1f} operators per kB; "
        f"n = {arguments.runs} runs, {hardware()}, load {os.getloadavg()[0]:.1f} at the end"
    )


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/caseops.py"):
        main()
