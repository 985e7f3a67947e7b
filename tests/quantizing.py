"""QuantizeSettings of the stage `quantize` for small networks, and the way of a network through it."""

import copy

import torch

from stages.lib.node import params
from stages.lib.quant import groups
from stages.lib.quant.network import Result, quantize
from stages.lib.quant.settings import QuantizeSettings, check
from stages.runtime.weights import dequantize
from tests.conftest import ROOT, set_leaf

DEFAULT = params.read(ROOT / "params.yaml")
NEAREST = {"method": "nearest", "bits": 8, "scales": "max", "clip": 1.0}


def settings_with(leaves=(), **changes) -> QuantizeSettings:
    """The default's settings for small tensors, with GPTQ; keyword: changes of one group, `every`: of all groups."""
    tree = copy.deepcopy(DEFAULT)
    for name, group in tree["quantize"]["groups"].items():
        group["method"] = "nearest" if name == "table" else "gptq"
    for path, value in {"min_elements": 16, **dict(leaves)}.items():
        set_leaf(tree, f"quantize.{path}", value)
    for name, values in changes.items():
        for group in groups.GROUPS if name == "every" else (name,):
            tree["quantize"]["groups"][group].update(values)
    found = params.section(tree, QuantizeSettings)
    check(found)
    return found


def eight_bits() -> QuantizeSettings:
    """GPTQ where there is a Hessian, close to the weights."""
    return settings_with(
        {"gptq.damping": 0.1, "gptq.block": 16},
        every={"method": "gptq", "bits": 8, "scales": "sigmas", "clip": 4.0},
        projection=NEAREST,
        table=NEAREST,
    )


def quantized(net, hessians: dict, settings: QuantizeSettings) -> Result:
    state = {name: weight.detach() for name, weight in net.named_parameters()}
    return quantize(state, groups.by_parameter(net), hessians, settings, rows={}, multipliers={}, device=torch.device("cpu"))


def decoded(result: Result) -> dict[str, torch.Tensor]:
    stored = {name: tensor.numpy() for name, tensor in result.stored().items()}
    return dequantize.weights(stored, {name: found.scheme for name, found in result.matrices.items()})
