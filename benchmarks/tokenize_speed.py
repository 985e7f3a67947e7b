"""How fast text becomes token shards, and in how much memory: prepare, CaseOps, the encoder and the tokenize stage.

    python benchmarks/tokenize_speed.py --runs 3                            the built-in corpus: speed on 200 MB, memory on 200 MB and 2 GB
    python benchmarks/tokenize_speed.py --path a.jsonl.xz --path b.jsonl    JSON lines with a "text"; also .gz, .zst and plain text
    python benchmarks/tokenize_speed.py --sizes 20 40                       a quick look of two minutes

Speeds are MB of raw UTF-8 text per second, with one process and with one per core (CADDIE_WORKERS). The runs of all rows take
turns, each in fresh processes, so that no memory of words is warm.

    prepare, tokenize    the whole command, start of Python, reading, counting, writing and fsync included; files in the page cache
    CaseOps, Encoder     documents in memory, dealt out to the processes; from when all are ready until the last one ends
    bound                sentencepiece's own encode() of the same documents with the same model, threads instead of processes, in batches
                         of 1,024 (the field's exporter does so; 128 at a time or all at once is not faster), ids thrown away: arrays
                         where this version makes them (some 10% faster with one thread, 20% with two), else lists. For a CaseOps
                         tokenizer the documents are transformed beforehand.

Nothing is printed unless all of them make the same number of tokens. Half of the documents are train, half val, whose bytes are
counted three times. Temporary files need some four times the larger size (TMPDIR says where).

A corpus that is too small is repeated with a number in front of each repeated document. The encoder remembers words, so repeated text
flatters it: its rows are also printed for the text read once.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import sentencepiece
import tqdm
import yaml

from stages.lib.node import command, parallel, params
from stages.lib.text.encoder import Encoder
from stages.prepare import local
from stages.prepare.__main__ import read_builtin
from stages.runtime.text import caseops
from stages.runtime.text.tokenizer import BLANK, Tokenizer, load_processor
from stages.vocabulary import sentencepiece_training

TRAINING_BYTES, VOCABULARY = 1_000_000, 1024
BATCH_DOCUMENTS = 1024
SAMPLE_SECONDS = 0.05
READY_SECONDS = 600  # a process that is not ready by then has died
BOUND, ENCODER, BOTH = "bound: sentencepiece, in memory", "Encoder, in memory", "tokenize, train and val"
Rows = dict[tuple[str, str], dict[int, list[float]]]  # (row, tokenizer) -> processes -> MB/s of each run


@dataclass(frozen=True)
class Text:
    """A .jsonl file of `documents` documents that hold `num_bytes` bytes of UTF-8 text."""

    file: Path
    documents: int
    num_bytes: int


def source(paths: list[Path]) -> Iterator[str]:
    """The documents of the files in the order given, or the built-in ones; without the empty ones, which prepare skips."""
    found = itertools.chain.from_iterable(map(local.documents, paths)) if paths else read_builtin()
    return (document.text for document in found if document.text)


def repeated(text: Text) -> Iterator[str]:
    """The documents, then for ever again with a running number in front."""
    yield from source([text.file])
    numbers = itertools.count(1)
    while True:
        yield from (f"{next(numbers)} {again}" for again in source([text.file]))


def write(file: Path, texts: Iterable[str], limit: int) -> Text:
    """Whole documents until they hold at least `limit` bytes, or to the last. ValueError if they are fewer than 4."""
    documents = used = 0
    with open(file, "w", encoding="utf-8") as handle:
        for text in texts:
            handle.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            documents, used = documents + 1, used + len(text.encode())
            if used >= limit:
                break
    if documents < 4:
        raise ValueError(f"{documents} documents of {used:,} bytes cannot be split; give more text with --path, or larger --sizes")
    return Text(file, documents, used)


def train_tokenizers(text: Text, official: Path | None, folder: Path) -> dict[str, Path]:
    """Name -> model file: the official one or its like, and two lossless ones, trained on the first MB."""
    models = {}
    for name, normalization, with_caseops in (
        ("nmt_nfkc", "nmt_nfkc", False),
        ("lossless", "identity", False),
        ("lossless, CaseOps", "identity", True),
    ):
        if normalization == "nmt_nfkc" and official:
            Tokenizer(official.read_bytes())  # says what is wrong with it
            models[official.name] = official
            continue
        models[name] = folder / f"{len(models)}.model"
        models[name].write_bytes(
            sentencepiece_training.train(
                source([text.file]),
                size=VOCABULARY,
                character_coverage=0.999,
                sample_bytes=TRAINING_BYTES,
                normalization=normalization,
                caseops_transform=with_caseops,
            )
        )
    return models


def transform(share: list[str]) -> Callable[[], int]:
    """CaseOps; counts characters."""
    return lambda: sum(len(caseops.encode(text)) for text in share)


def encode(model: bytes) -> Callable[[list[str]], Callable[[], int]]:
    """Our encoder; counts tokens without BOS."""

    def make(share: list[str]) -> Callable[[], int]:
        encoder = Encoder(model)
        batches = [share[i : i + BATCH_DOCUMENTS] for i in range(0, len(share), BATCH_DOCUMENTS)]
        return lambda: sum(len(encoder.encode(batch).ids) - len(batch) for batch in batches)

    return make


def encode_plainly(model: bytes, *, threads: int) -> Callable[[list[str]], Callable[[], int]]:
    """SentencePiece's own encoding of a list of documents; counts tokens."""

    def make(share: list[str]) -> Callable[[], int]:
        processor = load_processor(model)
        kind = "numpy" if hasattr(processor, "EncodeAsNumpy") else int
        given = [caseops.encode(text) for text in share] if Tokenizer(model).has_caseops else share
        batches = [given[i : i + BATCH_DOCUMENTS] for i in range(0, len(given), BATCH_DOCUMENTS)]
        return lambda: sum(sum(map(len, processor.encode(batch, num_threads=threads, out_type=kind))) for batch in batches)

    return make


def in_processes(make: Callable[[list[str]], Callable[[], int]], texts: list[str], processes: int) -> tuple[float, int]:
    """Seconds in which forked processes do `make(share)()`, a share of the texts each, and the sum of what it returns."""
    shares: list[list[str]] = [[] for _ in range(processes)]
    held = [0] * processes
    for text in texts:
        i = held.index(min(held))
        shares[i].append(text)
        held[i] += len(text)
    context = multiprocessing.get_context("fork")  # the texts are there without being sent
    barrier, results = context.Barrier(processes), context.SimpleQueue()

    def work(share: list[str]) -> None:
        function = make(share)
        barrier.wait(READY_SECONDS)
        start = time.monotonic()
        count = function()
        results.put((start, time.monotonic(), count))

    workers = [context.Process(target=work, args=(share,)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit("a measuring process failed; its message is above")
    starts, ends, counts = zip(*(results.get() for _ in workers), strict=True)
    return max(ends) - min(starts), sum(counts)


def started(folder: Path, processes: int, node: str, *argv: str) -> dict:
    """Arguments of subprocess.Popen for `python -m stages.<node>` in a pipeline folder; what an earlier run left is removed."""
    shutil.rmtree(folder / "artifacts" / node / (argv[0] if argv else ""), ignore_errors=True)
    os.sync()  # what earlier runs left to be written is not this one's work
    return {
        "args": [sys.executable, "-m", f"stages.{node}", *argv],
        "cwd": folder,
        "stderr": subprocess.STDOUT,
        "env": os.environ | {"PYTHONPATH": str(ROOT), "CADDIE_WORKERS": str(processes)},
    }


def seconds(folder: Path, processes: int, node: str, *argv: str) -> float:
    """Wall time of one stage."""
    arguments = started(folder, processes, node, *argv)
    start = time.monotonic()
    done = subprocess.run(**arguments, stdout=subprocess.PIPE, text=True, check=False)
    spent = time.monotonic() - start
    if done.returncode:
        sys.exit(f"stages.{node} {' '.join(argv)} failed:\n{done.stdout}")
    return spent


def pipeline(folder: Path, text: Text) -> Path:
    """A folder with a params.yaml that reads `text`; half of the documents are val, one is holdout."""
    folder.mkdir()
    tree = params.read(ROOT / "params.yaml")
    tree["prepare"] |= {
        "source": "local",
        "path": str(text.file),
        "max_bytes": None,
        "split": "first",
        "val_documents": text.documents // 2,
        "holdout_documents": 1,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder


def measure_stages(rows: Rows, folder: Path, num_bytes: int, models: dict[str, Path], processes: int) -> dict[str, int]:
    """One run of prepare and of tokenize for each tokenizer. Returns their tokens, holdout included, BOS not."""
    rows["prepare", "any"][processes].append(num_bytes / seconds(folder, processes, "prepare") / 1e6)
    sizes = json.loads((folder / "artifacts/prepare/metrics.json").read_text())["bytes"]
    tokens = {}
    for name, model in models.items():
        spent = {split: seconds(folder, processes, "tokenize", split, "--model", str(model)) for split in sizes}
        for split in ("train", "val"):
            rows[f"tokenize, {split}", name][processes].append(sizes[split] / spent[split] / 1e6)
        rows[BOTH, name][processes].append((sizes["train"] + sizes["val"]) / (spent["train"] + spent["val"]) / 1e6)
        facts = [json.loads((folder / "artifacts/tokenize" / split / "meta.json").read_text()) for split in sizes]
        tokens[name] = sum(fact["tokens"] - fact["documents"] for fact in facts)
    return tokens


def measure(text: Text, models: dict[str, Path], *, runs: int, all_processes: list[int], folder: Path | None, note: str) -> Rows:
    """All rows, or without a folder those in memory; prints what was measured.

    Ends the program if two ways of encoding differ in their tokens.
    """
    rows: Rows = defaultdict(lambda: defaultdict(list))
    texts = list(source([text.file]))
    has_blank = any(BLANK in given for given in texts)  # a lossless tokenizer spells it, plain sentencepiece takes it for a blank
    loads = [os.getloadavg()[0]]
    for run, processes in itertools.product(range(runs), all_processes):
        print(f"run {run + 1} of {runs}, {text.num_bytes / 1e6:.0f} MB, processes: {processes}", file=sys.stderr)
        spent, _ = in_processes(transform, texts, processes)
        rows["CaseOps, in memory", "any"][processes].append(text.num_bytes / spent / 1e6)
        tokens = measure_stages(rows, folder, text.num_bytes, models, processes) if folder else {}
        for name, path in models.items():
            model = path.read_bytes()
            spent, count = in_processes(encode(model), texts, processes)
            rows[ENCODER, name][processes].append(text.num_bytes / spent / 1e6)
            found = {count, tokens.get(name, count)}
            spent, count = in_processes(encode_plainly(model, threads=processes), texts, 1)
            rows[BOUND, name][processes].append(text.num_bytes / spent / 1e6)
            if not (has_blank and Tokenizer(model).is_lossless):
                found.add(count)
            if len(found) > 1:
                sys.exit(f"tokenizer {name} made different numbers of tokens of one text, {sorted(found)}: there is nothing to measure")
        loads.append(os.getloadavg()[0])
    print(f"{text.documents:,} documents, {text.num_bytes / 1e6:.1f} MB{note}; n = {runs}, load {min(loads):.1f}..{max(loads):.1f}\n")
    return rows


def kilobytes(file: Path, name: str) -> int:
    """The value of one line of a /proc file; 0 for a process that has ended but not been waited for."""
    return next((int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name)), 0)


def peaks(folder: Path, processes: int, *argv: str) -> dict[str, float]:
    """Highest sums of RSS and, if the kernel tells it, of PSS, in MB, over a stage and all processes it starts."""
    sources = {"RSS": ("status", "VmRSS:"), "PSS": ("smaps_rollup", "Pss:")}
    read = {name: where for name, where in sources.items() if Path("/proc/self", where[0]).exists()}
    highest = dict.fromkeys(read, 0)
    with open(folder / "log", "w+", encoding="utf-8") as log:
        # A session of its own: all that the stage starts is in it, also what has lost its parent.
        process = subprocess.Popen(**started(folder, processes, *argv), stdout=log, start_new_session=True)
        try:
            while process.poll() is None:
                found = dict.fromkeys(read, 0)
                for entry in Path("/proc").glob("[0-9]*"):
                    try:
                        if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == process.pid:
                            for name, (file, line) in read.items():
                                found[name] += kilobytes(entry / file, line)
                    except (FileNotFoundError, ProcessLookupError):
                        continue  # it ended meanwhile
                highest = {name: max(highest[name], found[name]) for name in read}
                time.sleep(SAMPLE_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            log.seek(0)
            sys.exit(f"stages.{' '.join(argv)} failed:\n{log.read()}")
    return {name: value * 1024 / 1e6 for name, value in highest.items()}


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} | {min(values):.2f}..{max(values):.2f}"


def speed_table(rows: Rows, all_processes: list[int]) -> str:
    """Median and min..max of every row, then end to end over bound."""
    heads = [f"{'1 process' if count == 1 else f'{count} processes'}, MB/s | min..max" for count in all_processes]
    lines = [f"| row | tokenizer | {' | '.join(heads)} |", "|---|---|" + "---:|---:|" * len(heads)]
    names = list(dict.fromkeys(name for _, name in rows))
    for row, name in sorted(rows, key=lambda key: names.index(key[1])):
        lines.append(f"| {row} | {name} | {' | '.join(spread(rows[row, name][count]) for count in all_processes)} |")
    heads = [f"{count} process{'es' * (count > 1)}" for count in all_processes]
    lines += ["", f"| ratio of medians | tokenizer | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(heads)]
    for row, name in rows:
        if row in (ENCODER, BOTH):
            ratios = [statistics.median(rows[row, name][count]) / statistics.median(rows[BOUND, name][count]) for count in all_processes]
            lines.append(f"| {row} / bound | {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join(lines)


def memory_table(texts: Iterable[Text], model: tuple[str, Path], folder: Path, processes: int) -> str:
    """Peak memory of prepare and tokenize at each size."""
    lines = ["| stage | tokenizer | text, MB | peak RSS, MB | peak PSS, MB |", "|---|---|---:|---:|---:|"]
    for text in texts:
        place = pipeline(folder / f"memory-{text.file.stem}", text)
        print(f"memory, {text.num_bytes / 1e6:.0f} MB", file=sys.stderr)
        for name, *argv in (("any", "prepare"), *((model[0], "tokenize", split, "--model", str(model[1])) for split in ("train", "val"))):
            found = peaks(place, processes, *argv)
            shown = " | ".join(f"{found[name]:.0f}" if name in found else "not readable" for name in ("RSS", "PSS"))
            part = json.loads((place / "artifacts/prepare/metrics.json").read_text())["bytes"]
            num_bytes = part[argv[1]] if argv[1:] else sum(part.values())
            lines.append(f"| {' '.join(argv[:2])} | {name} | {num_bytes / 1e6:.0f} | {shown} |")
        shutil.rmtree(place)
        text.file.unlink()
    return "\n".join(lines)


def hardware() -> str:
    """One line: processor, cores, system, versions."""
    found = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in found if line.startswith("model name")), platform.processor())
    return (
        f"{parallel.workers()} cores of {model}, {platform.system()}, Python {platform.python_version()}, sentencepiece "
        f"{sentencepiece.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, action="append", default=[], help="documents, may be repeated (default: the built-in corpus)")
    parser.add_argument(
        "--sizes",
        type=float,
        nargs="+",
        default=[200, 2000],
        metavar="MB",
        help="UTF-8 MB of text: speed at the smallest, memory at each (default: 200 2000)",
    )
    parser.add_argument("--runs", type=int, default=1, help="runs of each row (default: 1)")
    parser.add_argument("--model", type=Path, help="the official tokenizer (default: one like it, trained on the first MB)")
    parser.add_argument("--skip-memory", action="store_true", help="leave out the memory table")
    parser.add_argument("--only-memory", action="store_true", help="leave out the speeds")
    arguments = parser.parse_args()
    tqdm.tqdm.monitor_interval = 0  # a thread of a progress bar must not be there when processes are forked
    sizes = sorted({round(size * 1e6) for size in arguments.sizes})
    with command.sentences("benchmarks/tokenize_speed.py"), tempfile.TemporaryDirectory(prefix="caddie-") as name:
        params.require(sizes[0] > 0 and arguments.runs > 0, "--sizes and --runs take positive numbers")
        all_processes = sorted({1, parallel.workers()})
        folder = Path(name)
        once = write(folder / "all.jsonl", source([path.resolve() for path in arguments.path]), sizes[-1])
        first = write(folder / "once.jsonl", source([once.file]), sizes[0])
        models = train_tokenizers(first, arguments.model and arguments.model.resolve(), folder)
        is_repeated = first.num_bytes < sizes[0]
        text = write(folder / "text.jsonl", repeated(once), sizes[0]) if is_repeated else first
        note = f", {text.num_bytes / first.num_bytes:.1f} times the same with a number in front" if is_repeated else ""
        for given, place, said in ((text, pipeline(folder / "speed", text), note), (first, None, ", read once, in memory only")):
            if (place or is_repeated) and not arguments.only_memory:
                rows = measure(given, models, runs=arguments.runs, all_processes=all_processes, folder=place, note=said)
                print(speed_table(rows, all_processes) + "\n", flush=True)
        start = seconds(folder / "speed", 1, "tokenize", "--help")
        shutil.rmtree(folder / "speed")
        if not arguments.skip_memory:
            texts = (write(folder / f"{size}.jsonl", repeated(once), size) for size in sizes)
            print(memory_table(texts, next(iter(models.items())), folder, all_processes[-1]))
            print(
                f"\nSums over all processes of the stage, highest of a sample every {SAMPLE_SECONDS * 1000:.0f} ms, n = 1 run with "
                f"{all_processes[-1]} processes. RSS counts shared pages once per process, PSS (smaps_rollup) once in all. Text "
                f"of more than {once.num_bytes / 1e6:.0f} MB is repeated.\n"
            )
    names = ", ".join(path.name for path in arguments.path) or "the built-in corpus"
    print(f"Text: {names}. Tokenizers trained here have {VOCABULARY} pieces. A command takes {start:.1f} s to start. {hardware()}")


if __name__ == "__main__":
    main()
