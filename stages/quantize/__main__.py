"""Turn weights into integers and scales: GPTQ with std-based clipping for the matrices and the embedding, fp16 for the rest.

The fast half of GPTQ: bits, clipping and damping can be swept without collecting Hessians again.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from tqdm import tqdm

from stages.lib import launch, stage, tensors
from stages.lib.quant import gptq, hessians
from stages.lib.stage import Input, Metrics, Output
from stages.runtime import dequantize


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "quantize"
    matrix_bits: int
    matrix_clip_sigmas: float
    embedding_bits: int
    embedding_clip_sigmas: float
    damping: float
    block: int
    sort_columns: bool


def main(
    settings: Settings,
    *,
    weights: Input = "artifacts/prequant_ttt/model.safetensors",
    statistics: Input = "artifacts/calibrate/hessians.safetensors",
    codes: Output = "artifacts/quantize/model.safetensors",
    metrics: Metrics = "artifacts/quantize/metrics.json",
) -> None:
    if settings.block < 1 or not 0 <= settings.damping < math.inf:
        raise ValueError("quantize.block takes 1 or more and quantize.damping 0 or more")
    state, facts = tensors.load(weights)
    with launch.world("cpu"):
        stored, errors = quantize(state, tensors.load(statistics)[0], settings)
    tensors.save(codes, stored, facts | {"order": list(stored)})
    integers = [tensor for tensor in stored.values() if tensor.dtype == torch.int8]
    stage.write_json(metrics, {
        "weights": sum(weight.numel() for weight in state.values()),
        "quantized_weights": sum(map(torch.numel, integers)),
        "entropy_bits_per_weight": sum(map(entropy_bits, integers)) / sum(map(torch.numel, integers)),
        "layer_error_mean": sum(errors.values()) / len(errors), "layer_error_max": max(errors.values()),
        "text_sha256": facts["text_sha256"]})
    print(f"{len(errors)} matrices, mean relative layer error {sum(errors.values()) / len(errors):.2e}")


def quantize(state: dict, grams: dict, settings: Settings) -> tuple[dict, dict[str, float]]:
    """Stored tensors (codes and scales of matrices, fp16 of everything else), and the relative layer error by matrix."""
    stored, errors = {}, {}
    matrices = [name for name in state if name.removesuffix(".weight") in grams]
    for name in tqdm(matrices, desc="quantize", unit=" matrices", mininterval=1.0):
        module = name.removesuffix(".weight")
        role = "embedding" if module in (hessians.EMBEDDING, hessians.UNEMBEDDING) else "matrix"
        bits, sigmas = getattr(settings, f"{role}_bits"), getattr(settings, f"{role}_clip_sigmas")
        scales = gptq.row_scales(state[name], bits=bits, sigmas=sigmas)
        result = gptq.gptq(state[name], grams[module], scales, bits=bits, damping=settings.damping, block=settings.block,
                           sort_columns=settings.sort_columns)
        stored[name + dequantize.CODES], stored[name + dequantize.SCALES] = result.codes, result.scales
        errors[module] = gptq.layer_error(state[name], result, grams[module])
    stored |= {name: weight.half() for name, weight in state.items() if name not in matrices}
    order = sorted(stored, key=lambda name: (stored[name].dtype != torch.int8, name.rsplit(".", 2)[-1], _kind(name), name))
    return {name: stored[name] for name in order}, errors


def _kind(name: str) -> str:
    """The name without its layer number, so that tensors of one kind lie beside each other for the codec."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def entropy_bits(codes: torch.Tensor) -> float:
    """Σ over the tensor of -log2 of its own empirical frequencies: the order-0 bound of its codes, in bits."""
    counts = torch.unique(codes, return_counts=True)[1].double()
    return float((counts * (math.log2(codes.numel()) - torch.log2(counts))).sum())


if __name__ == "__main__":
    stage.run(main)
