"""Scales, steps and float16 tensors tuned after quantization, while all codes stay as they are.

    loss = 1/N Σ_n KL(p_n || q_n)        p: the network before quantization, q: the quantized one, n: tokens of train text; nats
    W(i,j) = f(i, group of j) Ŵ(i,j) + L(i,j)      Ŵ from the codes, L the low-rank correction, f learned factors, which begin at 1

| what a matrix has stored           | what is learned                                                                     |
|------------------------------------|-------------------------------------------------------------------------------------|
| scales, float16 (M) or (M, G)      | a factor for each                                                                   |
| a step and no scales               | a factor for each row, stored as scales (`rows`), or one factor for the step        |
| a step and scales in float8        | one factor for the step                                                             |

The values of float16 tensors are learned too. Adam learns all of them; its rates fall linearly to 0, and that of a float16 tensor is
relative to its rms. The text is train text, and its labels are not read: they are those on which the network was trained, so the loss on
them is too low, and learning from them made the loss on other text worse (docs/log.md).

Scales that are made for rows are 2^(k/g), with the finest g of GRIDS with which they cost at most ROW_BITS for each row on average. The
entropy-constrained quantizer leaves room for so many (entropy_model.py), so its budget also holds after the tuning.

Source: NNCodec (ISO/IEC 15938-17) learns factors of rows after quantization; there the loss has labels.
"""

# M rows, K columns, G groups of columns, B batch, T time

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from stages.lib.node.params import require
from stages.lib.quant import rate
from stages.lib.quant.network import Result, halved
from stages.lib.quant.quantized import Quantized
from stages.lib.quant.settings import ROW_BITS, Tuning
from stages.lib.tokens import splits
from stages.lib.tokens.loaders import shuffled
from stages.runtime.weights import dequantize

BETAS = (0.9, 0.99)
SEED = 5  # of the order of the text
GRIDS = (64, 32, 16, 8, 4, 2, 1)  # parts of an octave
SMALLEST = 1e-3  # rms of a float16 tensor below which its rate is not lowered further


@dataclass(frozen=True)
class Matrix:
    """The parts of one matrix: Ŵ (M, K) and L (M, K) or None on the device, and the factors as (M, G) or (1, 1)."""

    decoded_MK: Tensor
    correction_MK: Tensor | None
    factors: Tensor

    def weights(self) -> Tensor:
        M, G = self.factors.shape
        grouped = self.decoded_MK.reshape(M, G, -1) * self.factors[:, :, None]
        out_MK = grouped.reshape(self.decoded_MK.shape)
        return out_MK if self.correction_MK is None else out_MK + self.correction_MK


def tune(result: Result, state: dict[str, Tensor], config: dict, text: Path, settings: Tuning, device: torch.device) -> None:
    """Learn the factors and the float16 tensors of `result`, in place. `state`: the weights before quantization; `text`: the split train.

    ValueError if the text is too short, or if what was learned is not finite.
    """
    loader = shuffled.Loader(
        splits.read(text, "train").tokens,
        sequence_length=settings.sequence_length,
        batch_tokens=settings.batch_tokens,
        seed=SEED,
        section="quantize.tuning",
    )
    started = time.perf_counter()
    network = dequantize.build(state, config).to(device)
    matrices = {name: matrix(quantized, settings, device) for name, quantized in result.matrices.items()}
    floats = {name: half.float().to(device).requires_grad_() for name, half in result.float16.items()}
    groups = [{"params": [found.factors for found in matrices.values()], "rate": settings.learning_rate}]
    groups += [
        {"params": [weight], "rate": settings.learning_rate * max(weight.detach().square().mean().sqrt().item(), SMALLEST)}
        for weight in floats.values()
        if weight.numel()
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], lr=0.0, betas=BETAS)

    def divergence(step: int) -> Tensor:
        """The loss on one batch."""
        tokens_BT = loader.batch(step).inputs.to(device)
        weights = floats | {name: found.weights().reshape(state[name].shape) for name, found in matrices.items()}
        with torch.no_grad():
            before = F.log_softmax(network(tokens_BT), -1)
        after = F.log_softmax(functional_call(network, weights, (tokens_BT,)), -1)
        return F.kl_div(after.flatten(0, 1), before.flatten(0, 1), reduction="batchmean", log_target=True)

    # no_grad and not inference_mode: the network may cache tensors that later need gradients
    with torch.no_grad():
        at_first = divergence(settings.steps).item()  # of a batch that nothing is learned from
    for step in tqdm(range(settings.steps), desc="tune", unit=" steps", mininterval=1.0):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * (1 - step / settings.steps)
        optimizer.zero_grad()
        divergence(step).backward()
        optimizer.step()
    store(result, matrices, floats)
    with torch.no_grad():
        matrices = {name: matrix(quantized, settings, device) for name, quantized in result.matrices.items()}
        floats = {name: half.float().to(device) for name, half in result.float16.items()}
        result.tuning = {
            "steps": settings.steps,
            "divergence_before": at_first,
            "divergence_after": divergence(settings.steps).item(),
            "seconds": round(time.perf_counter() - started, 2),
        }


def matrix(quantized: Quantized, settings: Tuning, device: torch.device) -> Matrix:
    """One matrix with all factors at 1."""
    rows, scales = len(quantized.arrays["codes"]), quantized.arrays.get("scales")
    groups = 1 if scales is None or scales.ndim == 1 else scales.size(1)
    by_row = _has_scales(quantized) or (scales is None and settings.rows)
    if groups > 1 and quantized.scheme.get("rotation"):
        by_row = False  # factors of columns and a rotation of columns cannot change places
    factors = torch.ones((rows, groups) if by_row else (1, 1), device=device, requires_grad=True)
    if "left" not in quantized.arrays:
        return Matrix(quantized.weights().to(device), None, factors)
    plain = Quantized(
        {suffix: array for suffix, array in quantized.arrays.items() if not suffix.startswith(("left", "right"))}, quantized.scheme
    )
    return Matrix(plain.weights().to(device), (quantized.weights() - plain.weights()).to(device), factors)


def store(result: Result, matrices: dict[str, Matrix], floats: dict[str, Tensor]) -> None:
    """Put the factors and the float16 tensors into the result."""
    learned = {name: found.factors.detach().cpu() for name, found in matrices.items()}
    for name, values in learned.items():
        require(
            bool(torch.isfinite(values).all() and (values > 0).all()),
            f"the tuning of {name} after quantization failed; lower quantize.tuning.learning_rate",
        )
    made = rounded({name: values for name, values in learned.items() if "scales" not in result.matrices[name].arrays and len(values) > 1})
    for name, quantized in result.matrices.items():
        arrays, factors = dict(quantized.arrays), learned[name]
        if name in made:
            arrays["scales"] = made[name]
        elif _has_scales(quantized):
            scales = arrays["scales"]
            arrays["scales"] = halved(name, (scales.float().reshape(len(scales), -1) * factors).reshape(scales.shape))
        elif len(factors) == 1:
            arrays["step"] = arrays["step"] * factors.reshape(())
        result.matrices[name] = Quantized(arrays, quantized.scheme)
    result.float16 = {name: halved(name, weight.detach().cpu()) for name, weight in floats.items()}
    if result.budget:
        own = {name: result.matrices[name] for name in result.budget.quantized}
        bits = result.budget.bits - result.budget.reserved + side_bits({name: made[name] for name in own if name in made})
        result.budget = replace(result.budget, quantized=own, bits=bits)


def rounded(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Factors of rows (M, 1) as float16 scales (M), on the finest grid with which they fit. A matrix whose scales would all be 1 needs
    none, and none has any if they do not fit at all."""
    room = ROW_BITS * sum(map(len, factors.values()))
    for grid in GRIDS:
        found = {name: torch.exp2((values.reshape(-1).log2() * grid).round() / grid).half() for name, values in factors.items()}
        found = {name: values for name, values in found.items() if (values != 1).any()}
        if side_bits(found) <= room:
            return found
    return {}


def side_bits(scales: dict[str, Tensor]) -> float:
    return sum(rate.side_bits("scales", values.numpy()) for values in scales.values())


def _has_scales(quantized: Quantized) -> bool:
    scales = quantized.arrays.get("scales")
    return scales is not None and scales.dtype == torch.float16
