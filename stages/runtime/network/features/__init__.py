"""One switchable feature of the network per file; `model.features` in params.yaml names the ones that are on. The contract:

    class Feature(nn.Module):                              or a function that returns such a module
        __init__(self, config, *, option: type, ...)       no defaults; int | float | bool | list | Literal[...], checked here
        initialise(self, *, generator)                     only with parameters: fills each of them in place, in their order

The module is registered on the GPT under its file's name, so its parameters' names begin with that. It acts through hooks. gpt.py and
attention.py call each hook at one place; a hook takes a tensor and returns the tensor that replaces it:

| hook                                | tensor                                     | called                                            |
|-------------------------------------|--------------------------------------------|---------------------------------------------------|
| embed(x_BTD, now)                   | embedded tokens                            | before the first norm                             |
| stream(x_BTD, now)                  | the residual stream                        | after it; the result is `now.start_BTD`           |
| enter(x_BTD, layer, now)            | a layer's input                            | before anything in the layer                      |
| normalised(u_BTD, layer)            | a normalised stream                        | before attention and before the feed-forward part |
| value(v_BTGK, layer, now)           | values of the key/value heads              | before attention                                  |
| attended(y_BTHK, v_BTGK, layer)     | outputs of the heads                       | after attention                                   |
| gate(y_BTHK, u_BTD, layer)          | the same; u is the layer's attention input | after `attended`; only one feature may have it    |
| projections((up, down), layer, now) | the two linear layers, not a tensor        | before the feed-forward part                      |
| leave(x_BTD, entered_BTD, layer, now) | a layer's output                           | after the layer, unless it has two lanes          |
| final(x_BTD)                        | the normalised stream after all layers     | before the head                                   |
| cap(cap, logits)                    | a number, or one for each of the logits    | before scoring's soft cap, not before training's  |

`layer` is the physical layer, also where a layer runs several times. `progress(self, model, *, step, fraction)` replaces nothing:
training calls it before each step. `vocabulary(self, facts)` gets meta.json of the train tokens, once. `auxiliary_loss(self, hidden_BTD,
targets_BT, logits_NV)` is a number that training adds to its loss; logits_NV, N = B T, are those before the cap. Features in
TRAINING_ONLY have only these hooks, and `exported` removes them from the trained model. Training leaves the parameters of features in
SCORING_ONLY as they start. Six features (STRUCTURAL) decide what is built
and how it is connected; gpt.py names each where it acts.

Features act in the alphabetical order of their names, never in that of params.yaml: neither JSON with sorted keys nor DVC's
comparison of parameters keeps the order of a mapping. A row of a hook's result may depend on the same and earlier rows only.
"""

import dataclasses
import difflib
import inspect
import math
import typing

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...base import plugin
from ..config import MAX_SIZE, ModelConfig

HOOKS = (
    "embed",
    "stream",
    "enter",
    "normalised",
    "value",
    "attended",
    "gate",
    "projections",
    "leave",
    "final",
    "cap",
    "auxiliary_loss",
    "progress",
    "vocabulary",
)
STRUCTURAL = ("depth_recurrence", "factorised_embedding", "parallel_residual", "skip_attention", "two_lane", "unet_skips")
TRAINING_ONLY = ("multi_token_prediction", "prefix_prediction")
SCORING_ONLY = ("asymmetric_cap",)


@dataclasses.dataclass
class Pass:
    """The state of one forward pass besides the stream."""

    tokens_BT: Tensor
    cu_seqlens: Tensor | None
    max_seqlen: int | None
    backend: str
    past: typing.Any = None  # keys and values of earlier passes (memory.py); evaluation only
    last_rows: int = 0  # how many last rows the current layer computes; 0: all
    start_BTD: Tensor | None = None  # the stream before the first layer
    is_repetition: bool = False  # whether the current layer has run before in this pass
    kept: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # tensors that a feature keeps for later layers, under its name


class Hooks:
    """The features of one model by hook. This is not a module, because the GPT owns the parameters."""

    def __init__(self, features: dict[str, nn.Module]):
        # looked up on the class, because a parameter may have the name of a hook
        self.having = {hook: [feature for feature in features.values() if hasattr(type(feature), hook)] for hook in HOOKS}
        gates = [name for name, feature in features.items() if feature in self.having["gate"]]
        if len(gates) > 1:
            raise ValueError(f"model.features has the gates {' and '.join(gates)}; leave one of them")

    def apply(self, hook: str, tensor: Tensor, *rest) -> Tensor:
        """`tensor` after every feature that has this hook; unchanged if none has it."""
        for feature in self.having[hook]:
            tensor = getattr(feature, hook)(tensor, *rest)
        return tensor


def build(config: ModelConfig) -> dict[str, nn.Module]:
    """The features that the configuration names, by name. ValueError gives the nearest spelling, or the values that an option takes."""
    return {name: _build(name, config) for name in config.features}


def table(rows: int, width: int) -> nn.Embedding:
    """An embedding without values; `initialise` or a file sets them. torch's own initialisation on the meta device imports the compiler."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


def exported(state: dict[str, Tensor], config: dict) -> tuple[dict[str, Tensor], dict]:
    """Weights and configuration without the features that only training uses."""
    kept = {name: options for name, options in config["features"].items() if name not in TRAINING_ONLY}
    return {name: weight for name, weight in state.items() if name.split(".")[0] not in TRAINING_ONLY}, config | {"features": kept}


def _build(name: str, config: ModelConfig) -> nn.Module:
    feature, given = plugin.load("features", name).Feature, config.features[name]
    takes = {p.name: p.annotation for p in inspect.signature(feature).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for option in given:
        if option not in takes:
            close = difflib.get_close_matches(str(option), takes, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(takes) or 'no options: {}'}"
            raise ValueError(f"model.features.{name} has no option {option!r}; {hint}")
    for option, kind in takes.items():
        path = f"model.features.{name}.{option}"
        if option not in given:
            raise ValueError(f"{path} is missing; add it, it takes {_words(kind)}")
        if not _fits(given[option], kind):
            raise ValueError(f"{path} is {given[option]!r}; it takes {_words(kind)}")
    return feature(config, **given)


def _fits(value, kind) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return type(value) is type(typing.get_args(kind)[0]) and value in typing.get_args(kind)
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if not isinstance(value, int if kind is int else (int, float)):
        return False
    return 0 <= value <= MAX_SIZE if kind is int else math.isfinite(value) and abs(value) <= MAX_SIZE


def _words(kind) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is list:
        return "a list of whole numbers"
    return {int: f"a whole number, 0 to {MAX_SIZE}", float: "a number", bool: "true | false"}[kind]


def require(condition: bool, sentence: str) -> None:
    """ValueError(sentence) unless `condition` is true: for options that do not fit each other or the model."""
    if not condition:
        raise ValueError(sentence)


class WindowGate(nn.Module):
    """A gate for each head, read from the first `window` features of attention's input: what sparse_gate and output_gate share.

        y_{t,h} <- height σ(factor W_lh . u_t[:window]) y_{t,h}          W starts at 0: every gate at height / 2

    Parameter: weight (L, H, W); y (B, T, H, K), u (B, T, D).
    """

    height, factor = 1.0, 1.0

    def __init__(self, config: ModelConfig, *, window: int):
        super().__init__()
        name = type(self).__module__.rsplit(".", 1)[-1]
        require(1 <= window <= config.width, f"model.features.{name}.window is {window}; it takes 1 to model.width {config.width}")
        self.weight = nn.Parameter(torch.empty(config.num_layers, config.num_heads, window))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.weight.zero_()

    def gate(self, y_BTHK: Tensor, u_BTD: Tensor, layer: int) -> Tensor:
        weight_HW = self.weight[layer].to(u_BTD.dtype)
        gate_BTH = self.height * torch.sigmoid(self.factor * F.linear(u_BTD[..., : weight_HW.size(1)], weight_HW))
        return y_BTHK * gate_BTH.to(y_BTHK.dtype).unsqueeze(-1)
