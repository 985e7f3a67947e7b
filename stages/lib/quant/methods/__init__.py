"""Quantization methods, one per file; `quantize.groups.<group>.method` names the file. A method handles one matrix at a time:

    quantize_one(job: Job) -> Quantized        the stored arrays of one matrix
    ROTATES: bool                              whether the matrix may be rotated before (quantize.rotation)
    NEEDS_HESSIAN: bool                        whether a matrix without a Hessian is refused

or all of its matrices together, because they share a budget of bits:

    quantize_together(weights, *, hessians, rows, multipliers, settings, others, rest_bits, device) -> Budget

`weights` are (M, K) by parameter name. `hessians` and `rows` are by module name, as stages/calibrate wrote them. `others` are the results
of the methods of the first kind, and `rest_bits` is the size in bits of the tensors that stay float16.
"""

from dataclasses import dataclass

from torch import Tensor

from stages.lib.quant import scales
from stages.lib.quant.scales import Steps
from stages.lib.quant.settings import Group, QuantizeSettings


@dataclass(frozen=True)
class Job:
    """One matrix on the device: W (M, K), and H (K, K) or None, both already rotated if that was asked for. A method may use `kept` to pass
    data from one matrix to the next; kept["network"] has the weights, groups with settings, Hessians and facts of all matrices."""

    name: str
    weight_MK: Tensor
    hessian_KK: Tensor | None
    group: Group
    settings: QuantizeSettings
    kept: dict

    def candidates(self) -> list[Steps]:
        """The steps of the rows, one set for each clip of the group."""
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
