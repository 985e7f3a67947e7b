"""How finely the entropy-constrained quantizer should code each matrix: by gradients, or measured on holdout. When off, multipliers are 1.

Measured, each unit of matrices is quantized alone, coarser than in the final model. Its damage is KL(network || network with it quantized)
per token: the loss that this adds on text that the network predicts itself. That needs far fewer tokens than a difference of losses.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from stages.lib.node import files, launch, tensors
from stages.lib.node.params import AtLeastOne, Device, Positive, require
from stages.lib.node.stage import Input, Metrics, Output
from stages.lib.quant import entropy_model
from stages.lib.quant.settings import EntropySettings
from stages.lib.tokens import splits
from stages.runtime.weights import dequantize
from stages.sensitivity import allocation

BATCH_TOKENS = 4096
NO_GRADIENTS = "sensitivity.start is gradient, but there are no gradients; set calibrate.row_gradients, or take ones"


@dataclass(frozen=True)
class SensitivitySettings:
    SECTION: ClassVar[str] = "sensitivity"
    start: Literal["ones", "gradient"]
    enabled: bool
    by: Literal["matrix", "kind"]
    depth_groups: AtLeastOne
    coarseness: Positive
    tokens: AtLeastOne
    sequence_length: AtLeastOne
    least: Annotated[float, Interval(gt=0, le=1)]
    most: Annotated[float, Interval(ge=1)]
    device: Device


def main(
    settings: SensitivitySettings,
    entropy: EntropySettings,
    *,
    weights: Input = "artifacts/prequant_ttt/model.safetensors",
    statistics: Input = "artifacts/calibrate/hessians.safetensors",
    rows: Input = "artifacts/calibrate/rows.safetensors",
    text: Input = "artifacts/tokenize/holdout",
    multipliers: Output = "artifacts/sensitivity/multipliers.json",
    metrics: Metrics = "artifacts/sensitivity/metrics.json",
) -> None:
    require(
        settings.tokens >= settings.sequence_length,
        f"sensitivity.tokens is {settings.tokens}; it takes sensitivity.sequence_length {settings.sequence_length} or more",
    )
    state, facts = tensors.load(weights)
    found, parts, damage, gain = {}, {}, {}, 0.0
    if settings.enabled or settings.start == "gradient":
        with launch.world(settings.device, section="sensitivity") as world:
            hessians, importance = tensors.load(statistics)[0], tensors.load(rows)[0]
            coded = {name: weight for name, weight in state.items() if weight.ndim == 2 and known(name, hessians, importance)}
            matrices = entropy_model.matrices(coded, hessians, importance, settings=entropy, multipliers={})
            model = entropy_model.Model(matrices, options=entropy_model.options(entropy), device=world.device)
            if settings.start == "gradient":
                require(any(name in hessians for name in importance), NO_GRADIENTS)
                found = allocation.start(model, importance, least=settings.least, most=settings.most)
                model.scale(found)
            if settings.enabled:
                parts = allocation.units(list(matrices), by=settings.by, depth_groups=settings.depth_groups)
                loss_of = divergence(state, facts["model"], splits.read(text, "holdout").tokens, settings, world.device)
                damage = allocation.damages(
                    model, parts, constant=model.start(entropy.bits_per_weight), coarseness=settings.coarseness, loss_of=loss_of
                )
        if damage:
            sizes = {unit: sum(state[name].numel() for name in names) for unit, names in parts.items()}
            chosen = allocation.multipliers(damage, sizes, least=settings.least, most=settings.most)
            found |= {name: found.get(name, 1.0) * chosen[unit] for unit, names in parts.items() for name in names}
            gain = allocation.predicted_gain(damage, sizes)
        print(f"{len(found)} matrices have multipliers" + (f"; expected gain {gain:.3f} bits per weight at equal loss" if damage else ""))
    files.write_json(multipliers, {"multipliers": found})
    files.write_json(
        metrics,
        {
            "start": settings.start,
            "enabled": settings.enabled,
            "units": len(damage),
            "expected_gain_bits_per_weight": gain,
            "damage_nats": damage,
            "text_sha256": facts["text_sha256"],
        },
    )


def known(name: str, hessians: dict[str, Tensor], rows: dict[str, Tensor]) -> bool:
    """Whether calibration has data for this weight: a linear layer, the head's table, or a table with counted look-ups."""
    module = name.removesuffix(".weight")
    return module in hessians or f"{module}.counts" in rows


def divergence(state: dict[str, Tensor], config: dict, stream, settings: SensitivitySettings, device: torch.device):
    """A function of the changed weights: the KL divergence from the network itself to the network with these weights, in nats per token."""
    count = min(settings.tokens, len(stream)) // settings.sequence_length
    require(count >= 1, f"the holdout split has {len(stream)} tokens, fewer than sensitivity.sequence_length; lower that")
    inputs = torch.tensor(stream[: count * settings.sequence_length].astype("int64")).view(count, -1)
    batches = inputs.to(device).split(max(1, BATCH_TOKENS // settings.sequence_length))
    reference = network(state, config, device)

    @torch.no_grad()  # not inference_mode: the model may cache tensors that later need gradients
    def loss_of(changed: dict[str, Tensor]) -> float:
        other = network(state | changed, config, device)
        total = 0.0
        for batch in batches:
            is_, was = (F.log_softmax(net(batch), -1) for net in (other, reference))
            total += F.kl_div(is_, was, reduction="sum", log_target=True).double().item()
        return total / inputs.numel() if math.isfinite(total) else math.inf

    return loss_of


def network(state: dict[str, Tensor], config: dict, device: torch.device):
    return dequantize.build({name: weight.reshape(state[name].shape) for name, weight in state.items()}, config).to(device)


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
