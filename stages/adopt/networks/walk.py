"""Go through a network layer by layer: only the tables, one layer and the activations are in memory.

The network is built with one layer, in whose place stands a module that notes what the layer is given and answers what it is told. So the
embedding, positions, masks, the last norm and the head are the network's own code, whatever its kind.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.adopt.networks.checkpoint import ATTENTION, Checkpoint


class Reached(Exception):
    """The first layer would be next."""


class Stand(nn.Module):
    """In the place of all layers."""

    def __init__(self, like: nn.Module):
        super().__init__()
        self.attention_type = getattr(like, "attention_type", None)
        self.given, self.answer = None, None

    def forward(self, hidden_BTD: Tensor, *arguments, **named):
        if self.answer is None:
            self.given = hidden_BTD, arguments, named
            raise Reached
        return self.answer


class Walk:
    """Everything but the layers, in float32, and one layer at a time."""

    def __init__(self, checkpoint: Checkpoint):
        import transformers

        self.checkpoint, (self.prefix, self.meta_layers) = checkpoint, checkpoint.layers()
        small = copy.deepcopy(checkpoint.config)
        small.num_hidden_layers = 1
        if getattr(small, "layer_types", None):
            small.layer_types = small.layer_types[:1]
        self.frame = (
            transformers.AutoModelForCausalLM.from_config(small, attn_implementation=ATTENTION, dtype=torch.float32)
            .eval()
            .requires_grad_(False)
        )
        self.beside: dict[tuple, tuple] = {}  # what layers get beside their input, by the input's size: masks, positions
        layers = self.frame.get_submodule(self.prefix)
        self.stand = layers[0] = Stand(layers[0])
        self.names = sorted(self.frame.state_dict().keys() - checkpoint.tied.keys())
        self.set({name: checkpoint.get(name) for name in self.names})

    def set(self, state: dict[str, Tensor]) -> None:
        """Give the frame these tensors; a tied head follows its table."""
        own = self.frame.state_dict()
        for name, tensor in state.items():
            own[name].copy_(tensor)
        for head, table in self.checkpoint.tied.items():
            own[head].copy_(own[table])

    @torch.no_grad()
    def begin(self, tokens_BT: Tensor) -> Tensor:
        """What the first layer gets."""
        self.stand.answer = None
        try:
            self.frame(input_ids=tokens_BT, use_cache=False)
        except Reached:
            hidden_BTD, *beside = self.stand.given
            self.beside[hidden_BTD.shape[:2]] = beside
            return hidden_BTD
        raise AssertionError("no layer was reached")

    @torch.no_grad()
    def through(self, layer: nn.Module, hidden_BTD: Tensor) -> Tensor:
        arguments, named = self.beside[hidden_BTD.shape[:2]]
        out = layer(hidden_BTD, *arguments, **named)
        return out[0] if isinstance(out, tuple) else out

    @torch.no_grad()
    def nats(self, hidden_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
        """What each token but the first of a row costs after the last layer, (B, T - 1)."""
        self.stand.answer = hidden_BTD
        logits_BTV = self.frame(input_ids=tokens_BT, use_cache=False).logits[:, :-1].float()
        return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="none")

    def layer(self, number: int) -> tuple[nn.Module, dict[str, Tensor]]:
        """Layer `number` with its weights, float32, and the same by its own names."""
        layer = type(self.meta_layers[number])(self.checkpoint.config, layer_idx=number).eval().requires_grad_(False)
        state = {name: self.checkpoint.get(f"{self.prefix}.{number}.{name}") for name in layer.state_dict()}
        layer.load_state_dict(state)
        return layer, state


def matrices(module: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Name, module and whether its weight is stored as (inputs, outputs), of every linear layer and table."""
    from transformers.pytorch_utils import Conv1D

    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding | Conv1D):
            yield name, part, isinstance(part, Conv1D)


@torch.no_grad()
def hessians(walk: Walk, layer: nn.Module, rows: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Σ x x' of the inputs of each linear layer over all rows, by module name, float32; and the outputs of the layer."""
    sums, last = {}, [None, None]

    def add(name: str, x: Tensor) -> None:
        if last[0] is not x:  # query, key and value have the same input
            x_NK = x.flatten(0, -2)
            last[:] = x, (x_NK.mT @ x_NK).double()
        sums[name] = last[1] if name not in sums else sums[name] + last[1]

    hooks = [part.register_forward_pre_hook(lambda _, given, name=name: add(name, given[0])) for name, part, _ in matrices(layer)]
    out = [walk.through(layer, hidden_BTD) for hidden_BTD in rows]
    for hook in hooks:
        hook.remove()
    return {name: found.float() for name, found in sums.items()}, out
