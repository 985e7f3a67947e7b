"""How many bytes the cap leaves for weights, if `quantize.entropy.target_bytes` is auto. With any other target there is nothing to do.

The entropy-constrained quantizer aims at an estimate of its compressed size. Here its result is really compressed, and the target is
corrected by the distance of script and blob from the cap, until the finest quantization is found whose artifact fits. If none fits, the
target is null: the weights are quantized with `bits_per_weight`, and the artifact is over the cap.
"""

from dataclasses import replace

import torch

from stages.lib.blob import counted, grouping
from stages.lib.node import files, launch, params, tensors
from stages.lib.node.params import require
from stages.lib.node.stage import Input, Metrics, Output
from stages.lib.quant import entropy_model, groups, network, settings
from stages.runtime.blob import container
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT

ROUNDS = 10  # usually three or four are enough


def main(
    quantizer: settings.QuantizeSettings,
    package: counted.PackageSettings,
    compress: counted.CompressSettings,
    *,
    weights: Input = "artifacts/prequant_ttt/model.safetensors",
    statistics: Input = "artifacts/calibrate/hessians.safetensors",
    importance: Input = "artifacts/calibrate/rows.safetensors",
    multipliers: Input = "artifacts/sensitivity/multipliers.json",
    script: Input = "artifacts/script/metrics.json",
    memory: Input = "artifacts/memory/metrics.json",
    train_tokens: Input = "artifacts/tokenize/train",
    target: Output = "artifacts/fill_cap/target.json",
    metrics: Metrics = "artifacts/fill_cap/metrics.json",
) -> None:
    settings.check(quantizer)
    state, facts = tensors.load(weights)
    text = {"text_sha256": facts["text_sha256"]}
    if quantizer.entropy.target_bytes != "auto":
        files.write_json(target, {"target_bytes": None})
        files.write_json(metrics, {"enabled": False, "target_bytes": None, "artifact_bytes": None, "rounds": []} | text)
        print("off: quantize.entropy.target_bytes is not auto")
        return
    run = _run(package.blob, compress.runs)
    with torch.device("meta"):
        group_of = groups.by_parameter(GPT(ModelConfig.from_dict(facts["model"])))
    hessians, rows = tensors.load(statistics)[0], tensors.load(importance)[0]
    code_bytes = files.read_json(script, required=("code_bytes",))["code_bytes"]
    memory_bytes = files.read_json(memory, required=("memory_bytes",))["memory_bytes"]
    scales = files.read_json(multipliers, required=("multipliers",))["multipliers"]

    def attempt(target_bytes: int, device: torch.device) -> tuple[int, entropy_model.Budget]:
        """The bytes of the whole artifact with weights quantized to so many bytes."""
        asked = replace(quantizer, entropy=replace(quantizer.entropy, target_bytes=target_bytes))
        result = network.quantize(state, group_of, hessians, asked, rows=rows, multipliers=scales, device=device)
        require(
            result.budget is not None,
            "quantize.entropy.target_bytes is auto, but no group has the method entropy; set it for one "
            "under quantize.groups, or target_bytes to null",
        )
        if asked.tuning.steps:
            from stages.lib.quant import tuning  # packed into the one script only if it is on

            tuning.tune(result, state, facts["model"], train_tokens, asked.tuning, device)
        stored = {name: tensor.numpy() for name, tensor in result.stored().items()}
        model = run.reordered(container.Model(stored, facts["model"], result.schemes()))
        blob = container.pack(model, list(run.codings(model).values()))
        return counted.Artifact(code_bytes, len(blob), memory_bytes, package.cap_bytes).total_bytes, result.budget

    with launch.world(quantizer.device, section="quantize") as world:
        chosen, size, rounds = search(lambda target_bytes: attempt(target_bytes, world.device), cap=package.cap_bytes)
    files.write_json(target, {"target_bytes": chosen})
    files.write_json(metrics, {"enabled": True, "target_bytes": chosen, "artifact_bytes": size, "rounds": rounds} | text)
    if chosen is None:
        print(f"WARNING: no artifact of at most {package.cap_bytes:,} bytes was found; quantize.entropy.bits_per_weight counts")
    else:
        print(f"target_bytes {chosen:,}: an artifact of {size:,} bytes, {package.cap_bytes - size:,} below the cap")


def search(attempt, *, cap: int) -> tuple[int | None, int | None, list[dict]]:
    """The largest target whose artifact has at most `cap` bytes, the artifact's bytes, and all rounds. None and None if none fits.

    `attempt(target)` gives (bytes of the artifact, Budget). The first round shows the size of the script, which is fixed.
    """
    margin = entropy_model.TOLERANCE * cap
    goal, target, best, rounds = cap - margin / 2, cap, None, []
    ends: dict[bool, tuple[int, float]] = {}  # nearest try that fits and that does not: estimated bytes, artifact's bytes minus goal
    side, slope = None, 1.0
    for _ in range(ROUNDS):
        size, budget = attempt(target)
        estimate, fits = round(budget.bits / 8), size <= cap
        rounds.append({"target_bytes": target, "estimated_bytes": estimate, "artifact_bytes": size})
        print(f"target {target:,}: estimated {estimate:,}, artifact {size:,} of {cap:,}", flush=True)
        if budget.missed:
            break
        if fits and (best is None or size > best[1]):
            best = target, size
        unbound = budget.limit < 8 * target  # the quantizer is at its finest and still below the cap
        if best is not None and (unbound or cap - best[1] <= margin):
            return *best, rounds
        # In estimated bytes: the quantizer ends a little below its target, and a codec needs less or more than estimated. First a secant,
        # then false position between the ends. An end that stays counts half (Illinois), because else a curved function converges slowly.
        if (not fits) in ends and fits == side:
            ends[not fits] = ends[not fits][0], ends[not fits][1] / 2
        before, ends[fits], side = ends.get(fits), (estimate, size - goal), fits
        if len(ends) == 2:
            (low, below), (high, above) = ends[True], ends[False]
            target = round(low + (high - low) * below / (below - above))
        else:
            if before and before[0] != estimate:
                slope = min(max((before[1] - size + goal) / (before[0] - estimate), 0.2), 2.0)
            target = estimate + round((goal - size) / slope)
        if target <= 0:
            break
    return *(best or (None, None)), rounds


def _run(blob: str, runs: dict) -> grouping.Run:
    """The run of compress.runs that is packed."""
    require(blob != "smallest", "quantize.entropy.target_bytes is auto, which needs one run to fit to: set package.blob to compress/<run>")
    (name,) = counted.shipped(blob, runs)
    return params.section({"compress": {"runs": runs}}, grouping.Run, variant=name)


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
