"""One method of quantizing per file; `quantize.groups.<group>.method` names the file. A method works on one matrix after the other:

    quantize_one(job: Job) -> Quantized        the stored arrays of one matrix
    ROTATES: bool                              whether the matrix may be rotated before (quantize.rotation)
    NEEDS_HESSIAN: bool                        whether a matrix without a Hessian is refused

or on all of its matrices together, because they share a budget of bits:

    quantize_together(weights, *, hessians, rows, multipliers, settings, others, rest_bits, device) -> Budget

`weights` are (M, K) by parameter name; `hessians` and `rows` by module name, as stages/calibrate wrote them; `others` is what the methods
of the first kind made, `rest_bits` the bits of what stays float16.
"""

from dataclasses import dataclass

from torch import Tensor

from stages.lib.quant import scales
from stages.lib.quant.scales import Steps
from stages.lib.quant.settings import Group, QuantizeSettings


@dataclass(frozen=True)
class Job:
    """One matrix: W (M, K) and H (K, K) or None on the device, rotated already where that was asked for. `kept` is what a method leaves
    from one matrix for the next."""

    name: str
    weight_MK: Tensor
    hessian_KK: Tensor | None
    group: Group
    settings: QuantizeSettings
    kept: dict

    def candidates(self) -> list[Steps]:
        """The steps of the rows, for each clip of the group."""
        clips = [
            scales.clips(
                self.weight_MK, rule=self.group.scales, clip=clip, hessian_KK=self.hessian_KK, strength=self.settings.hessian_strength
            )
            for clip in self.group.clips
        ]
        return [
            scales.steps(clip_M, bits=self.group.bits, clip_floor=self.settings.clip_floor, stored_as=self.settings.scales_as)
            for clip_M in clips
        ]
