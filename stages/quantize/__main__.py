"""Turn weights into integers and scales, group by group: rounding, clip search, GPTQ, ternary codes; float16 for the rest.

This is the fast half of GPTQ: methods, bits, clips and damping can be changed without collecting Hessians again.
"""

from dataclasses import replace

import torch

from stages.lib.node import files, launch, tensors
from stages.lib.node.stage import Input, Metrics, Output, Plot
from stages.lib.quant import groups
from stages.lib.quant.network import quantize
from stages.lib.quant.settings import QuantizeSettings, check
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT


def main(
    settings: QuantizeSettings,
    *,
    weights: Input = "artifacts/prequant_ttt/model.safetensors",
    statistics: Input = "artifacts/calibrate/hessians.safetensors",
    importance: Input = "artifacts/calibrate/rows.safetensors",
    multipliers: Input = "artifacts/sensitivity/multipliers.json",
    target: Input = "artifacts/fill_cap/target.json",
    train_tokens: Input = "artifacts/tokenize/train",
    codes: Output = "artifacts/quantize/model.safetensors",
    metrics: Metrics = "artifacts/quantize/metrics.json",
    rows: Plot = "artifacts/quantize/tensors.csv",
) -> None:
    check(settings)
    if settings.entropy.target_bytes == "auto":
        found = files.read_json(target, required=("target_bytes",))["target_bytes"]
        settings = replace(settings, entropy=replace(settings.entropy, target_bytes=found))
    state, facts = tensors.load(weights)
    hessians, collected = tensors.load(statistics)
    with torch.device("meta"):
        group_of = groups.by_parameter(GPT(ModelConfig.from_dict(facts["model"])))
    with launch.world(settings.device, section="quantize") as world:
        result = quantize(
            state,
            group_of,
            hessians,
            settings,
            rows=tensors.load(importance)[0],
            device=world.device,
            multipliers=files.read_json(multipliers, required=("multipliers",))["multipliers"],
            facts=collected,
        )
        if settings.tuning.steps:
            from stages.lib.quant import tuning  # packed into the one script only if it is on

            tuning.tune(result, state, facts["model"], train_tokens, settings.tuning, world.device)
    for name, damping in result.damping.items():
        print(f"{name}: its Hessian needed a damping of {damping:g} instead of {settings.gptq.damping:g}")
    if result.budget:
        print(
            f"entropy: constant {result.budget.constant:.4f} after {len(result.budget.passes)} passes, an estimated "
            f"{result.budget.bits / 8:,.0f} bytes of {result.budget.limit / 8:,.0f}"
        )
        if result.budget.missed:
            print(f"WARNING: {result.budget.missed}")
    if result.tuning:
        print("tuning: {divergence_before:.5f} nats per token from the weights before, now {divergence_after:.5f}".format(**result.tuning))
    stored = result.stored()
    tensors.save(codes, stored, facts | {"order": list(stored), "quantization": result.schemes()})
    if metrics:
        from stages.quantize import reporting  # not part of the one script

        reporting.write(metrics, rows, result, state, hessians, device=world.device.type, text_sha256=facts["text_sha256"])


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
