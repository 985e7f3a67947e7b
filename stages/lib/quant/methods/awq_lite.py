"""AWQ-lite: GPTQ, but the columns that matter most of all matrices together get finer steps of more bits.

    a_j = sqrt(mean of x_j² over the inputs of the layer, each pass of a layer that recurs counted)
    score of a stretch of `columns` neighbouring columns = Σ_j a_j mean_i |w_ij|
    the `groups` stretches with the largest scores:  codes of `bits`, step clip_i / (2^(bits - 1) - 1);   all others as in GPTQ

One recursion over all columns: the errors of fine columns are pushed on as those of the others are. Only matrices of `min_elements`
weights or more, with fewer bits than `bits`, take part, and columns behind the last whole stretch do not. With groups 0 it is GPTQ. A
matrix with a fine stretch is stored with one step for each stretch of a row. Source: parameter-golf #1908, #1945 (one group of 64 columns,
8 bits).
"""

# M rows, K columns, G stretches of columns

from dataclasses import replace

import torch
from torch import Tensor

from stages.lib.quant import scales
from stages.lib.quant.methods import Job, gptq
from stages.lib.quant.network import as_matrix
from stages.lib.quant.quantized import Quantized
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT

ROTATES, NEEDS_HESSIAN = False, True


def choose(state: dict[str, Tensor], groups: dict, hessians: dict[str, Tensor], facts: dict, options) -> dict[str, list[int]]:
    """The numbers of the fine stretches by name, chosen among all matrices of this method. `facts` have the configuration and the number of
    tokens that the Hessians were summed over."""
    with torch.device("meta"):
        recurrence = GPT(ModelConfig.from_dict(facts["model"])).features.get("depth_recurrence")
    order, found = recurrence.layers() if recurrence else [], []
    for name, (_, group) in groups.items():
        weight = state[name]
        if group.method == "awq_lite" and weight.numel() >= options.min_elements and group.bits < options.bits:
            layer = name.split(".")[1] if name.startswith("blocks.") else ""
            passes = order.count(int(layer)) if order and layer else 1
            mean_K = as_matrix(weight).float().abs().mean(dim=0)
            rms_K = (hessians[name.removesuffix(".weight")].diagonal() / (facts["tokens"] * passes)).sqrt()
            whole = len(mean_K) // options.columns
            scores_G = (rms_K * mean_K)[: whole * options.columns].view(whole, -1).sum(dim=1)
            found += [(score, name, number) for number, score in enumerate(scores_G.tolist())]
    chosen: dict[str, list[int]] = {}
    for _, name, number in sorted(found, key=lambda entry: -entry[0])[: options.groups]:
        chosen.setdefault(name, []).append(number)
    return chosen


def quantize_one(job: Job) -> Quantized:
    """GPTQ of the matrix. ValueError for a fine matrix whose columns do not divide, or with several clips, or with steps in float8."""
    options = job.settings.awq
    if "fine" not in job.kept:
        job.kept["fine"] = choose(*job.kept["network"], options)
    numbers = job.kept["fine"].get(job.name)
    if not numbers:
        return gptq.quantize_one(job)
    if job.weight_MK.size(1) % options.columns or len(job.group.clips) > 1 or job.settings.scales_as != "float16":
        raise ValueError(
            f"awq_lite stores a step for each {options.columns} columns of a row, with one clip and in float16; set "
            f"quantize.awq.columns to a divisor of {job.weight_MK.size(1)}, quantize.scales_as to float16, and one clip"
        )
    (plain,), (fine,) = job.candidates(), replace(job, group=replace(job.group, bits=options.bits)).candidates()
    columns = [column for number in numbers for column in range(number * options.columns, (number + 1) * options.columns)]
    factor = gptq.factor_of(job)
    weight_MK = job.weight_MK.float().masked_fill(factor.dead, 0.0)
    codes_MK = gptq.sweep(
        weight_MK,
        factor,
        plain.values,
        bound=scales.limit(job.group.bits),
        block=job.settings.gptq.block,
        fine=(set(columns), fine.values, scales.limit(options.bits)),
    )
    scales_MG = plain.arrays["scales"][:, None].repeat(1, job.weight_MK.size(1) // options.columns)
    scales_MG[:, numbers] = fine.arrays["scales"][:, None]
    return Quantized({"codes": codes_MK.to(torch.int8), "scales": scales_MG}, {})
