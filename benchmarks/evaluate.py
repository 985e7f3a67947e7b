"""What do the evaluators gain, and what do they cost? One table of quality, one of speed.

    python benchmarks/evaluate.py                     the trained model of artifacts/ema on the val tokens of artifacts/tokenize
    python benchmarks/evaluate.py --artifacts SEED_1 SEED_2 SEED_3 --documents wikipedia.val.jsonl.xz     other text, mean over models

Quality: bits per byte of the first tokens of val, against sliding windows, and tokens per second of the whole evaluation.
Speed: sliding here against the plain method (a forward pass over each window, logits of all its positions, the last rows taken) and
against streaming, at the field's windows; the three in turn, n times, medians of the process's CPU seconds, which what else the machine
does moves little. The plain method's scores must agree to 1e-5 nats.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import platform
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F


def variants(window: int) -> dict[str, tuple[str, dict]]:
    """Every evaluator with the options of its source, at windows of this length; the field's are 2,048 with a stride of 64."""
    strided = {"window": window, "stride": max(window // 4, 1), "batch": 32}
    lbfgs = strided | {"iterations": 25, "history": 20, "bound": 5.0}
    lora = {
        "window": window,
        "chunk": 48,
        "rank": 8,
        "alpha": 16.0,
        "targets": ["query", "value", "up", "head"],
        "learning_rate": 1e-3,
        "beta1": 0.0,
        "beta2": 0.99,
        "weight_decay": 0.5,
        "reset_at": 1,
        "seed": 0,
    }
    return {
        "sliding": ("sliding", strided),
        "chunked": ("chunked", {"window": window, "batch": 32}),
        "streaming": ("streaming", {"window": window, "block": window}),
        "sliding, documents apart": ("sliding", strided | {"reset_at": 1}),
        "online bias": ("online_bias", strided | {"learning_rate": 0.02}),
        "ETLB (#1399)": ("etlb", strided | {"batch": 1, "learning_rate": 0.05, "steps": 5, "bound": 3.0}),
        "mixture": ("mixture", strided | {"order": 6, "weight": 0.1, "share": 0.01}),
        "memory": (
            "memory",
            strided
            | {"network": "sliding", "batch": 8, "order": 8, "document": 3, "reset_at": 1}
            | {"discount": 0.7, "strength": -0.5, "rate": 0.1, "every": 16},
        ),
        "SGD test-time training (#549)": (
            "ttt_sgd",
            strided | {"chunk": 32 * window, "epochs": 3, "learning_rate": 0.005, "momentum": 0.9, "frozen_blocks": 0, "rows": 32},
        ),
        "LoRA test-time training": ("ttt_lora", lora),
        "phased": ("ttt_phased", lora | {"phases": [2, 4], "phase_learning_rate": 0.001, "phase_chunk": 32 * window, "phase_rows": 32}),
        "causal SLOT, honest": ("causal_slot", strided | {"learning_rate": 0.005, "steps": 8}),
        "causal SLOT, honest, warm": ("causal_slot", strided | {"batch": 1, "learning_rate": 0.005, "steps": 8, "warm_start": True}),
        "causal SLOT as published (#1306), leaks": ("causal_slot", strided | {"learning_rate": 0.005, "steps": 8, "form": "published"}),
        "L-BFGS, honest": ("lbfgs_slot", lbfgs | {"form": "honest", "focal": 0, "penalty": 0.01}),
        "L-BFGS as published (#1350), leaks": ("lbfgs_slot", lbfgs | {"form": "shared", "focal": window // 2, "penalty": 0.0}),
        "SLOT (#1150), leaks": ("slot", strided | {"learning_rate": 0.003, "steps": 5}),
        "SLOT on scored positions (#1229), leaks": (
            "slot",
            strided | {"learning_rate": 0.008, "steps": 16, "shared": False, "objective": "scored", "bias": True, "final_rate": 0.1},
        ),
    }


def plain(model, tokens: np.ndarray, *, window: int, stride: int, batch: int) -> np.ndarray:
    """Nats of every target: whole windows, whole logits, the last rows taken."""
    from stages.runtime.tokens import windows

    stream, out = torch.from_numpy(tokens.astype(np.int64)), []
    plan = windows.plan(len(tokens) - 1, window=window, stride=stride)
    with torch.no_grad():
        for i in range(0, len(plan), batch):
            chunk = plan[i : i + batch]
            logits_BTV = model(windows.inputs(stream, chunk, window))
            loss_BT = F.cross_entropy(logits_BTV.flatten(0, 1), windows.targets(stream, chunk, window).flatten(), reduction="none")
            out.append(windows.scored_rows(loss_BT.view(len(chunk), window, 1), chunk)[:, 0])
    return torch.cat(out).numpy()


def full_size():
    """A model of the size of the field's first baseline; speed does not ask what the weights are."""
    from stages.lib.node import params
    from stages.runtime.network.config import ModelConfig
    from stages.runtime.network.gpt import GPT

    torch.manual_seed(0)
    size = {"width": 512, "num_layers": 9, "num_heads": 8, "num_kv_heads": 4, "mlp_width": 1024, "features": {}, "vocabulary_size": 1024}
    model = params.read(ROOT / "params.yaml")["model"] | size
    del model["attention_backend"]
    return GPT(ModelConfig.from_dict(model)).eval()


def speed(model, tokens: np.ndarray, *, window: int, rounds: int, batch: int) -> str:
    """CPU seconds per target behind the first window, from runs with and without the targets behind it."""
    from stages.runtime.base import plugin
    from stages.runtime.scoring import harness

    stride, far = 64, window + 64 * batch * max(1, 8 // batch)

    def run(name: str, num_targets: int) -> np.ndarray:
        part = tokens[: num_targets + 1]
        if name == "plain":
            return plain(model, part, window=window, stride=stride, batch=batch)
        options = {"stride": stride, "batch": batch} if name == "sliding" else {"block": 256}
        return harness.score(plugin.load("evaluators", name).Evaluator(model, window=window, **options), part).nats

    def seconds(name: str, num_targets: int) -> float:
        started = time.process_time()
        run(name, num_targets)
        return time.process_time() - started

    difference = np.abs(run("plain", far) - run("sliding", far)).max()
    if difference > 1e-5:
        sys.exit(f"sliding differs from the plain method by {difference:.1e} nats")
    ends = {"plain": far, "sliding": far, "streaming": len(tokens) - 1}
    found: dict[str, list[float]] = {name: [] for name in ends}
    for _ in range(rounds):
        for name, end in ends.items():
            found[name].append((seconds(name, end) - seconds(name, window)) / (end - window))
    median = {name: statistics.median(values) for name, values in found.items()}
    return (
        f"window {window}, stride {stride}, batch {batch}, n = {rounds}, largest difference {difference:.0e} nats; targets per CPU "
        "second: "
        + "; ".join(f"{name} {1 / median[name]:,.0f} ({1 / max(values):,.0f} to {1 / min(values):,.0f})" for name, values in found.items())
        + f"; sliding is {median['plain'] / median['sliding']:.2f} times as fast as plain, streaming "
        f"{median['sliding'] / median['streaming']:.1f} times as fast as sliding"
    )


def stream(artifacts: Path, arguments: argparse.Namespace) -> tuple[np.ndarray, int]:
    """Token ids, the first of which is no target, and the bytes that the others stand for."""
    from stages.lib.tokens import splits as data

    if arguments.documents is None:
        split = data.read(arguments.text or artifacts / "tokenize/val", "val", sidecar=True)
        tokens, byte_counts = split.tokens[: arguments.tokens + 1], split.byte_counts
    else:
        import json
        import lzma

        from stages.lib.text.encoder import Encoder

        texts, size = [], 0
        with (lzma.open if arguments.documents.suffix == ".xz" else open)(arguments.documents, "rt", encoding="utf-8") as lines:
            for line in lines:
                texts.append(json.loads(line)["text"])
                size += len(texts[-1])
                if size > 8 * arguments.tokens:  # no tokenizer here has longer tokens on average
                    break
        encoded = Encoder((artifacts / "vocabulary/tokenizer.model").read_bytes()).encode(texts)
        tokens, byte_counts = encoded.ids[: arguments.tokens + 1], encoded.byte_counts
    return np.asarray(tokens, np.int64), int(np.asarray(byte_counts[1 : len(tokens)]).sum())


def spread(values: np.ndarray) -> str:
    return f"{values.std(ddof=1):.4f}" if len(values) > 1 else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--artifacts",
        type=Path,
        nargs="+",
        default=[ROOT / "artifacts"],
        help="artifacts of one or more runs of the pipeline, such as several seeds (default: this project's)",
    )
    parser.add_argument("--text", type=Path, help="tokenized val folder (default: tokenize/val of the first artifacts)")
    parser.add_argument("--documents", type=Path, help="a .jsonl file (also .xz) of other text than the models were trained on, instead")
    parser.add_argument("--tokens", type=int, default=30_000, help="of val, for the quality (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="words that a row's name must contain one of")
    parser.add_argument("--window", type=int, default=128, help="for the quality (default: %(default)s, the default's training length)")
    parser.add_argument("--speed-window", type=int, nargs="*", default=[1024, 2048], help="for the speed, stride 64 (default: 1024 2048)")
    parser.add_argument("--full-size", action="store_true", help="the speed also of nine layers of width 512 (minutes)")
    parser.add_argument("--batch", type=int, default=1, help="windows per pass, for the speed (default: %(default)s, the best on a CPU)")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args()
    from stages.lib.node import tensors
    from stages.runtime.base import plugin
    from stages.runtime.scoring import harness
    from stages.runtime.weights import dequantize

    torch.set_num_threads(arguments.threads)
    loaded = [tensors.load(folder / "ema/model.safetensors") for folder in arguments.artifacts]
    streams = [stream(folder, arguments) for folder in arguments.artifacts]
    tokens, num_bytes = streams[0]
    print(f"{len(tokens) - 1:,} tokens, {num_bytes:,} bytes, windows of {arguments.window}, n = {len(loaded)} models\n")
    print(
        "| evaluator | claims to be causal | bits per byte | s.d. | against sliding | s.d. | tokens/s |\n|---|---|---:|---:|---:|---:|---:|"
    )
    base = None
    for name, (kind, options) in variants(arguments.window).items():
        if arguments.only and name != "sliding" and not any(word in name for word in arguments.only):
            continue
        module = plugin.load("evaluators", kind)
        ledgers = [
            harness.score(module.Evaluator(dequantize.build(state, facts["model"]), **options), ids)
            for (state, facts), (ids, _) in zip(loaded, streams, strict=True)
        ]
        found = np.array([ledger.bits_per_byte(size) for ledger, (_, size) in zip(ledgers, streams, strict=True)])
        base = found if base is None else base
        causal, gain = "no" if "leaks" in name else "yes", found - base
        rate = (len(tokens) - 1) / statistics.median(ledger.seconds for ledger in ledgers)
        figures = (f"{found.mean():.4f}", spread(found), f"{gain.mean():+.4f}", spread(gain), f"{rate:,.0f}")
        print(f"| {name} | {causal} | {' | '.join(figures)} |", flush=True)

    state, facts = loaded[0]
    sizes = {"the default": dequantize.build(state, facts["model"])}
    if arguments.full_size:
        sizes["nine layers of width 512"] = full_size()
    for name, model in sizes.items():
        vocabulary = model.config.vocabulary_size
        for window in arguments.speed_window:
            print(
                f"\n{name}, "
                + speed(
                    model, np.resize(tokens, 3 * window + 1) % vocabulary, window=window, rounds=arguments.rounds, batch=arguments.batch
                ),
                flush=True,
            )
    print(f"\n{platform.machine()}, {arguments.threads} threads, torch {torch.__version__}")


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/evaluate.py"):
        main()
