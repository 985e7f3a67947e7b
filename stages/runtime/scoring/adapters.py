"""Low-rank adapters on a model that is not modified: W + (alpha / rank) B A in place of W.

B (outputs, rank) starts at 0, A (rank, inputs) is uniform in ±1/sqrt(inputs): arXiv:2106.09685, with the contest's initialisation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("query", "key", "value", "output", "up", "down", "head")


class _Hidden(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.model.hidden(tokens_BT)


class Adapters:
    """One adapter for each linear layer of the blocks whose name ends in a target, and one for the head's table ("head")."""

    def __init__(self, model, *, rank: int, alpha: float, targets: list[str], generator: torch.Generator):
        self.model, self.scale = model, alpha / rank
        tables = {
            name: module.weight
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.rsplit(".", 1)[-1] in targets
        }
        if "head" in targets:
            tables["head"] = model.head_table
        self.pairs = {}
        for name, weight in tables.items():
            outputs, inputs = weight.shape
            # drawn on the CPU, where `generator` is, so that A is the same on every device
            down = torch.empty(rank, inputs, device="cpu").uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator).to(weight.device)
            self.pairs[name] = (torch.zeros(outputs, rank, device=weight.device, requires_grad=True), down.requires_grad_(True))
        self.tables = tables

    def parameters(self) -> list[Tensor]:
        return [parameter for pair in self.pairs.values() for parameter in pair]

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """The model's final hidden states, computed with the adapted layers."""
        adapted = {f"model.{name}.weight": self._weight(name) for name in self.pairs if name != "head"}
        return torch.func.functional_call(_Hidden(self.model), adapted, (tokens_BT,))

    def head(self, hidden: Tensor) -> Tensor:
        """Capped logits, from the adapted table if the head is among the targets."""
        if "head" not in self.pairs:
            return self.model.head(hidden)
        return self.model.capped(F.linear(hidden, self._weight("head").to(hidden.dtype)))

    def _weight(self, name: str) -> Tensor:
        up, down = self.pairs[name]
        return self.tables[name] + self.scale * up @ down
