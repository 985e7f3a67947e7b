"""The command line of `submission.pyz`; HELP describes it."""

import argparse
import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from .base import plugin
from .blob import container, header
from .scoring import evaluators, harness
from .scoring.streaming import Stream
from .text import text_file
from .text.tokenizer import BOS, Tokenizer
from .tokens import shards
from .weights import dequantize

SUFFIX, PREPARED = ".caddie", "prepared/"
# not a docstring, because docstrings are not packed
HELP = """Score text with the packed model and one of the packed evaluators, or compress it.

    python -I submission.pyz score FILE [MORE ...]        bits per byte of each file or token shard, one JSON line each
    python -I submission.pyz compress FILE                FILE.caddie, from which `decompress` makes FILE again, bit for bit
    python -I submission.pyz decompress FILE.caddie
    python -I submission.pyz generate "The file"          continue a text: a quick look at the model
    python -I submission.pyz show                         what is inside
    python -I submission.pyz serve [WEIGHTS]              answer a referee over stdin and stdout (docs/protocol.md)

Needs torch, numpy, sentencepiece and the codec's library; reads nothing but its own file and the named ones.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. A user's mistake gives one sentence on stderr and exit code 1."""
    arguments = _parser().parse_args(argv)
    try:
        manifest = json.loads(read("manifest.json"))
        if arguments.command == "show":
            print(json.dumps(manifest, indent=2))
        elif arguments.command == "serve":
            from . import serve  # nothing else needs it

            serve.main(prepared, functools.partial(opened, weights=arguments.weights), manifest["model"]["vocabulary_size"])
        else:
            _run(arguments, manifest)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except (ValueError, OSError) as error:
        print(f"submission.pyz: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"submission.pyz: {error}; install it with: pip install {error.name}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="submission.pyz", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="print the manifest")
    commands.add_parser("serve", help="answer a referee over stdin and stdout").add_argument("weights", nargs="?", help="decoded before")
    score = commands.add_parser("score", help="bits per byte of files or token streams")
    score.add_argument("files", nargs="+", type=Path, help="any file, or a token shard: 256 int32 header, then uint16 ids")
    compress = commands.add_parser("compress", help=f"write FILE{SUFFIX}")
    decompress = commands.add_parser("decompress", help=f"write FILE again from FILE{SUFFIX}")
    for command in (compress, decompress):
        command.add_argument("files", nargs=1, type=Path, metavar="FILE")
        command.add_argument("--output", type=Path, help="the file to write; it must not exist")
    generate = commands.add_parser("generate", help="continue a text")
    generate.add_argument("text", nargs="?", default="", help="how the text begins")
    generate.add_argument("--tokens", type=int, default=100, help="number of tokens to add")
    generate.add_argument("--temperature", type=float, default=0.8, help="above 0; below 1 likely tokens become likelier still")
    generate.add_argument("--seed", type=int, default=0, help="another seed, another text")
    for command in (score, compress, decompress, generate):
        command.add_argument("--evaluator", help="one of the packed evaluators (default: the packed choice)")
        command.add_argument("--options", type=json.loads, help="JSON object of the evaluator's options (default: the packed ones)")
        command.add_argument("--threads", type=int, default=2, help="CPU threads; part of what makes a result repeatable")
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
        command.add_argument("--progress", action="store_true", help="show a progress line even where stderr is no terminal")
    return parser


def read(name: str) -> bytes:
    """Read one of the packed files: manifest.json, model.blob, memory.bin or tokenizer.model."""
    return resources.files(__package__).joinpath("data", name).read_bytes()


def decoded() -> dict[str, np.ndarray]:
    """The weights of the packed model by name, float32."""
    model = container.unpack(read("model.blob"))
    return {name: weight.numpy() for name, weight in dequantize.weights(model.tensors, model.schemes).items()}


def prepared(evaluator: str, options: dict) -> dict[str, np.ndarray]:
    """What can be computed without a token: the weights, and what the evaluator makes of the text that ships."""
    module = checked(evaluator, options)
    with ThreadPoolExecutor(1) as pool:  # two seconds each for the default, and numpy sorts while Python decodes
        weights = pool.submit(decoded)
        made = module.prepared(read("memory.bin"), options) if hasattr(module, "prepared") else {}
        return weights.result() | {PREPARED + name: array for name, array in made.items()}


def load_model(arrays: Mapping[str, np.ndarray] | None = None):
    """The packed model, from its blob or from the arrays of `prepared`."""
    arrays = decoded() if arrays is None else arrays
    weights = {name: torch.from_numpy(array) for name, array in arrays.items() if not name.startswith(PREPARED)}
    model = dequantize.build(weights, header.read(read("model.blob")).config)
    model.text = read("memory.bin")  # for the evaluator memory
    model.prepared = {name.removeprefix(PREPARED): array for name, array in arrays.items() if name.startswith(PREPARED)}
    return model


def kept(path: str) -> dict[str, np.ndarray]:
    """The arrays of `prepared`, from a file of the referee."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def checked(name: str, options: dict):
    """The module of an evaluator. ValueError unless it exists and takes these options; it is asked before weights are decoded, which takes
    a minute for a full model."""
    module = plugin.load("evaluators", name)
    try:
        evaluators.build(module, None, options)
    except TypeError as error:
        raise ValueError(f"evaluator {name} does not take these options: {error}") from None
    return module


def device_of(device: str) -> str:
    """cuda or cpu. ValueError if a GPU is asked for and there is none."""
    chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if device == "cuda" and chosen == "cpu":
        raise ValueError("there is no GPU that torch can use here; take --device cpu")
    return chosen


def opened(name: str, options: dict, *, threads: int, device: str, weights: str | None = None):
    """(module of the evaluator, function from its options to an evaluator with the packed model, device). It also configures torch.
    `options` are only checked."""
    module = checked(name, options)
    if threads < 1:
        raise ValueError("--threads takes 1 or more")
    chosen = device_of(device)
    evaluators.check_device(options.get("precision", "float32"), chosen)
    torch.set_num_threads(threads)
    if chosen == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products
        torch.set_default_device("cuda")
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import the compiler, one second at every start
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would fill every new tensor, only to find bugs
    model = load_model(kept(weights) if weights else prepared(name, options)).to(chosen)
    return module, lambda options: evaluators.build(module, model, options), chosen


def lanes(name: str, options: dict):
    """The class that scores several parts of a file at once with this evaluator; None if it cannot with these options."""
    if name not in plugin.names("lanes") or options.get("precision", "float32") != "float32":
        return None
    module = plugin.load("lanes", name)
    return module.Lanes if module.suits(options) else None


def _run(arguments: argparse.Namespace, manifest: dict) -> None:
    name = arguments.evaluator or manifest["evaluator"]
    options = arguments.options
    if options is None:
        options = manifest["options"] if name == manifest["evaluator"] else manifest["other_options"].get(name, {})
    if not isinstance(options, dict):
        raise ValueError('--options takes a JSON object, such as {"window": 64}')
    claims, tokenizer = evaluators.claims(checked(name, options), options), Tokenizer(read("tokenizer.model"))
    {"score": _score, "generate": _generate}.get(arguments.command, _code)(arguments, name, options, claims, tokenizer)


def _code(arguments: argparse.Namespace, name: str, options: dict, claims: tuple[str, ...], tokenizer: Tokenizer) -> None:
    """Compress or decompress one file. Everything that a user can get wrong is looked at before the weights are decoded."""
    path, compresses = arguments.files[0], arguments.command == "compress"
    if "causal" not in claims:
        raise ValueError(f"{name} needs what a decoder does not know yet, so it cannot compress; choose another --evaluator")
    if arguments.output is None and not compresses and path.suffix != SUFFIX:
        raise ValueError(f"{path.name} does not end in {SUFFIX}; name the file to write with --output")
    target, content = arguments.output or (path.with_name(path.name + SUFFIX) if compresses else path.with_suffix("")), path.read_bytes()
    _check_new(target)
    options = options | getattr(plugin.load("evaluators", name), "STREAM", {})
    device = device_of(arguments.device)
    key = json.dumps(
        [hashlib.sha256(read(file)).hexdigest() for file in ("model.blob", "tokenizer.model")] + [name, options, arguments.threads, device],
        sort_keys=True,
    ).encode()
    work = {"key": key, "progress": _bar(arguments), "lanes": lanes(name, options)}

    def evaluator():
        return opened(name, options, threads=arguments.threads, device=arguments.device)[1](options)

    if not compresses:
        _write(target, text_file.decompress(*text_file.checked(content), tokenizer, evaluator, **work))
        return
    packed, bits = text_file.compress(content, tokenizer, evaluator(), **work)
    _write(target, packed)
    print(
        json.dumps(
            {
                "file": path.name,
                "bytes": len(content),
                "compressed_bytes": len(packed),
                "by": text_file.NAMES[packed[8]] or name,
                "code_length_bits": round(bits, 3),
                "bits_per_byte": 8 * len(packed) / len(content) if content else None,
            }
        )
    )


def _score(arguments: argparse.Namespace, name: str, options: dict, claims: tuple[str, ...], tokenizer: Tokenizer) -> None:
    streams = [(path, *_stream(path, tokenizer)) for path in arguments.files]
    _, evaluator, _ = opened(name, options, threads=arguments.threads, device=arguments.device)
    for path, tokens, num_bytes in streams:
        # A new evaluator for each stream, so that nothing learned on one can help on the next.
        told = _progress(arguments, len(tokens) - 1)
        made = evaluator(options)
        if order := getattr(made, "coding_order", None):
            tokens = tokens[np.append(0, order.targets(tokens))]
        ledger = harness.score(made, tokens, tell=lambda first, nats, told=told: told(first + len(nats) - 1))
        print(
            json.dumps(
                {
                    "stream": path.name,
                    "evaluator": name,
                    "tokens": len(ledger.nats),
                    "bytes": num_bytes,
                    "loss_nats": float(ledger.nats.mean()),
                    "bits_per_byte": ledger.bits_per_byte(num_bytes) if num_bytes else None,
                    "seconds": round(ledger.seconds, 3),
                    "claims": list(claims),
                    "precision": options.get("precision", "float32"),
                }
            ),
            flush=True,
        )


def _generate(arguments: argparse.Namespace, name: str, options: dict, claims: tuple[str, ...], tokenizer: Tokenizer) -> None:
    """Print the text and how the evaluator continues it: token k has the probability p_k^(1/temperature), normalised."""
    if "causal" not in claims:
        raise ValueError(f"{name} needs tokens that are not written yet, so it cannot generate; choose another --evaluator")
    if arguments.tokens < 1 or not arguments.temperature > 0:
        raise ValueError("--tokens takes 1 or more, and --temperature a number above 0")
    module, evaluator, _ = opened(name, options, threads=arguments.threads, device=arguments.device)
    ids, draw = tokenizer.encode(arguments.text), np.random.default_rng(arguments.seed)
    stream = Stream(evaluator(options | getattr(module, "STREAM", {})), len(ids) + arguments.tokens, BOS)
    stream.push(ids)
    for _ in _bar(arguments)(range(arguments.tokens)):
        logits_V = stream.dist() / arguments.temperature
        p_V = np.exp(logits_V - logits_V.max())
        ids.append(int(draw.choice(len(p_V), p=p_V / p_V.sum())))
        stream.push(ids[-1:])
    print(tokenizer.decode([i for i in ids if i != BOS]).decode(errors="replace"))


def _stream(path: Path, tokenizer: Tokenizer) -> tuple[np.ndarray, int | None]:
    """The tokens of a shard or of any other file, and the number of text bytes (None: the ids do not determine it)."""
    if not shards.is_shard(path):
        content = path.read_bytes()
        tokens = np.array([BOS, *text_file.tokens_of(content, tokenizer)[1]])
        if len(tokens) < 2:
            raise ValueError(f"{path} is empty; there is nothing to score")
        return tokens, len(content)
    tokens = shards.read(path)
    if len(tokens) < 2 or tokens.max() >= tokenizer.vocabulary_size:
        raise ValueError(
            f"{path} must hold at least 2 tokens, all below the vocabulary size {tokenizer.vocabulary_size}; "
            "encode the text with the tokenizer of this artifact"
        )
    return tokens, int(tokenizer.byte_counts(tokens)[1:].sum()) if tokenizer.counts_follow_from_ids else None


def _progress(arguments: argparse.Namespace, total: int):
    """A function of the number of tokens done that shows it on stderr: in place, twice a second, if stderr is a terminal or progress is
    wanted; else as a line every ten seconds."""
    started, shown, in_place = time.perf_counter(), [0.0], arguments.progress or sys.stderr.isatty()

    def told(done: int) -> None:
        passed = time.perf_counter() - started
        if passed - shown[0] > (0.5 if in_place else 10) or (in_place and done == total):
            shown[0] = passed
            left, end = passed / done * (total - done), "" if in_place and done < total else "\n"
            start = "\r" if in_place else ""
            print(f"{start}{done / total:4.0%} of {total} tokens, {left:.0f} s left   ", end=end, file=sys.stderr, flush=True)

    return told


def _bar(arguments: argparse.Namespace):
    """A function that iterates over a range, which counts tokens, and shows the progress."""

    def show(numbers: range) -> Iterator[int]:
        told = _progress(arguments, numbers.stop)
        for i in numbers:
            yield i
            told(min(i + numbers.step, numbers.stop))

    return show


def _check_new(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} exists already; remove it, or name another with --output")


def _write(path: Path, content: bytes) -> None:
    """Write a new file atomically."""
    _check_new(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
