"""Fit the constant of the evaluator `temperature` for the artifact's weights, on the holdout split; val is not read.

    python -m stages.evaluate.temperature          prints the temperature, its gain on holdout, and the line for params.yaml

With b = 1/T the mean of -log softmax(b z)[target] is convex in b; its slope E_p[z] - z_target and curvature Var_p[z] give Newton's steps.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.lib.node import command, params, tensors
from stages.lib.node.params import require
from stages.lib.tokens import splits
from stages.runtime.base import plugin
from stages.runtime.weights import dequantize

MODEL, TEXT = Path("artifacts/quantize/model.safetensors"), Path("artifacts/tokenize/holdout")
WINDOWING = ("window", "stride", "batch")
LOWEST, HIGHEST = 1 / 64, 64.0  # limits of b; outside them the model does not fit this text at all


def run(argv: list[str] | None = None) -> None:
    """Run the command line; a user's mistake gives one sentence and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.evaluate.temperature", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="sliding", help="the run of evaluate.runs whose windows are used (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=20_480, help="of holdout, from its start (default: %(default)s)")
    chosen = parser.parse_args(argv)
    with command.sentences("temperature"):
        require(chosen.tokens >= 2, "--tokens takes 2 or more")
        options = params.lookup(params.read(Path("params.yaml")), f"evaluate.runs.{chosen.run}.options")
        require(all(key in options for key in WINDOWING), f"evaluate.runs.{chosen.run} has no {', '.join(WINDOWING)}; name a run that has")
        options = {key: options[key] for key in WINDOWING}
        stored, facts = tensors.load(MODEL)
        state = dequantize.weights({name: tensor.numpy() for name, tensor in stored.items()}, facts.get("quantization"))
        stream = splits.read(TEXT, "holdout").tokens[: chosen.tokens + 1]
        logits_NV, target_N = rows(dequantize.build(state, facts["model"]), stream, options)
        inverse = fit(logits_NV, target_N)
        before, after = loss(logits_NV, target_N, 1.0), loss(logits_NV, target_N, inverse)
        line = json.dumps({"evaluator": "temperature", "options": options | {"temperature": round(1 / inverse, 4)}})  # YAML too
        print(
            f"temperature {1 / inverse:.4f}: {before:.5f} -> {after:.5f} nats per token on {len(target_N):,} tokens of holdout\n"
            f"add `temperature` to package.evaluators, and under evaluate.runs:\n    temperature: {line}"
        )


@torch.no_grad()
def rows(model, stream: np.ndarray, options: dict) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of every target of the stream by sliding windows, and the targets (N,)."""
    stream = torch.from_numpy(np.asarray(stream, np.int64))
    evaluator = plugin.load("evaluators", "sliding").Evaluator(model, **options)
    found = [evaluator.predict(stream[: chunk[-1].last + 1], chunk) for chunk in evaluator.chunks(len(stream) - 1)]
    return torch.cat(found), stream[1:]


def loss(logits_NV: Tensor, target_N: Tensor, inverse: float) -> float:
    """Mean nats per target with the logits times `inverse`."""
    return torch.nn.functional.cross_entropy(inverse * logits_NV.double(), target_N).item()


def fit(logits_NV: Tensor, target_N: Tensor) -> float:
    """The b with the lowest loss. ValueError if it is not between LOWEST and HIGHEST."""
    logits_NV, inverse = logits_NV.double(), 1.0
    for _ in range(50):
        p_NV = torch.softmax(inverse * logits_NV, dim=1)
        mean_N = (p_NV * logits_NV).sum(dim=1)
        slope = (mean_N - logits_NV.gather(1, target_N[:, None])[:, 0]).mean().item()
        curvature = ((p_NV * logits_NV.square()).sum(dim=1) - mean_N.square()).mean().item()
        step = slope / max(curvature, 1e-12)
        inverse = min(max(inverse - step, LOWEST), HIGHEST)
        if abs(step) < 1e-9:
            break
    require(
        LOWEST < inverse < HIGHEST,
        f"the best temperature is not between {1 / HIGHEST:g} and {1 / LOWEST:g}; the model does not fit "
        "this text, look at its bits per byte",
    )
    return inverse


if __name__ == "__main__":
    run()
