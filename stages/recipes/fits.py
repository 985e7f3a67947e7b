"""Say from sizes alone, before anything is trained, whether an artifact will fit under the cap.

    needed = 8 · (cap - bytes of the script) / weights          bits per weight that the model may take

It is compared with what the same quantizer took before: the published runs of the recipe, or the last run of this folder; and, where every
step is so many standard deviations of its row, with a Gaussian of that step. Trained weights take less than a Gaussian does.

    bits = log2 sqrt(2 pi e) - log2(step / sigma),   step / sigma = clip / (2^(bits - 1) - 1)
"""

import math
from dataclasses import dataclass
from pathlib import Path

from stages.lib.blob import counted
from stages.lib.node import files, params
from stages.lib.quant import entropy_model, groups, network
from stages.lib.quant.settings import Group, QuantizeSettings
from stages.recipes import describe
from stages.recipes.header import Header
from stages.runtime.network.features import TRAINING_ONLY
from stages.script import packing

TERNARY_BITS = math.log2(3)
LAST = Path("artifacts/package/metrics.json")


@dataclass(frozen=True)
class Estimate:
    """Bits per weight that the model may take, and those that it took before, by where they come from, the most telling first. Where the
    model fits without any compression, `code_bytes` is an upper limit, because the script itself takes seconds to make."""

    code_bytes: int
    is_exact: bool
    cap_bytes: int
    weights: int
    before: dict[str, float]

    @property
    def needed(self) -> float:
        return 8 * (self.cap_bytes - self.code_bytes) / self.weights

    @property
    def over_cap_bytes(self) -> int:
        """By how much the artifact would be over the cap if it took as many bits as before; 0 if it fits or if nothing is known."""
        return max(0, round(self.weights * (next(iter(self.before.values()), 0.0) - self.needed) / 8))


def estimate(tree: dict, published: Header | None = None) -> Estimate:
    """The estimate for a parsed params.yaml; `published` is the header of its recipe, which has the published sizes."""
    settings = params.section(tree, QuantizeSettings)
    cap, net, before = params.section(tree, counted.PackageSettings).cap_bytes, describe.network(tree), {}
    stored = sum(group.stored_bytes for group in describe.groups(net, tree["quantize"]))
    code = packing.most_bytes(tree)
    if is_exact := code + stored > cap:
        code = len(packing.wrapped(packing.contents(tree)).encode())
    sizes = {key: weight.shape for key, weight in net.named_parameters() if key.split(".")[0] not in TRAINING_ONLY}
    weights = sum(shape.numel() for shape in sizes.values())
    if settings.entropy.target_bytes == "auto":
        return Estimate(code, is_exact, cap, weights, {})  # it is fitted to the cap
    if published:
        largest = max(seed.artifact_bytes for seed in published.published)
        before["the published run"] = 8 * (largest - published.script_bytes) / weights
    group_of, total = groups.by_parameter(net), 0.0
    for key, shape in sizes.items():
        group = network.own_settings(key, group_of.get(key), settings)
        coded = group is not None and group.method != "none" and shape.numel() >= settings.min_elements
        total += shape.numel() * (_bits(group, settings) if coded else describe.REST_BITS)
        total += 8 * describe.SCALE_BYTES * (shape.numel() // shape[-1]) * (coded and group.method != "entropy")
    if math.isfinite(total):
        before["a Gaussian of the same steps"] = total / weights
    if LAST.is_file() and (bits := files.read_json(LAST).get("bits_per_weight")):
        before["the last run of this folder"] = bits
    before["codes and scales before compression"] = 8 * stored / weights
    return Estimate(code, is_exact, cap, weights, before)


def sentence(name: str, found: Estimate) -> str:
    """The estimate in words."""
    said = ", ".join(f"{source}: {bits:.3f}" for source, bits in found.before.items())
    ending = f"WARNING: it would be {found.over_cap_bytes:,} bytes over the cap" if found.over_cap_bytes else "it should fit"
    script = f"a script of {'' if found.is_exact else 'at most '}{found.code_bytes:,} bytes"
    return (
        f"{name}: the model may take {found.needed:.3f} bits per weight ({found.weights:,} weights; {script} counts too); "
        f"{said or 'the quantizer is fitted to that'}; {ending}"
    )


def _bits(group: Group, settings: QuantizeSettings) -> float:
    """Bits per weight of a Gaussian with the group's steps; NaN if the steps do not follow from the settings."""
    if group.method == "entropy":
        return math.nan if settings.entropy.target_bytes else settings.entropy.bits_per_weight
    if group.method == "ternary":
        return TERNARY_BITS
    if "sigmas" not in group.scales or settings.clip_floor:
        return math.nan
    step = max(group.clips) / (2 ** (group.bits - 1) - 1)
    return min(group.bits, max(0.0, entropy_model.GAUSSIAN_BITS - math.log2(step)))
