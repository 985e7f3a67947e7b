"""Multi-token prediction: in training, extra heads predict tokens further ahead from the same hidden state.

    loss + weight / n Σ_k CE(c tanh(H_k h_t / c), tok_{t+1+k})          k = 1 .. heads, over the t whose tok_{t+1+k} is in the row

h are the final hidden states, c the soft cap, n the number of heads that have such a t. H starts at 0. The logits of the model do not
depend on H, and H is removed after training. In a packed row, targets may be in the next document.
Source: parameter-golf #549, off in its published run; no optimizer there trains H, so it would stay 0; in the scripts before it, Muon does.
"""

# B batch, T time, D width, V vocabulary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from . import require


class Feature(nn.Module):
    """Parameters: heads.<k - 1> (V, D); with factorised_embedding, D is the width of the table."""

    def __init__(self, config: ModelConfig, *, heads: int, weight: float):
        super().__init__()
        require(
            heads >= 1 and weight > 0,
            f"model.features.multi_token_prediction takes heads of 1 or more and a weight above 0, not {heads} and {weight}",
        )
        width = config.features.get("factorised_embedding", {}).get("width", config.width)
        self.heads = nn.ModuleList(nn.Linear(width, config.vocabulary_size, bias=False) for _ in range(heads))
        self.weight, self.cap = weight, config.logit_softcap

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        for head in self.heads:
            head.weight.zero_()

    def auxiliary_loss(self, hidden_BTD: Tensor, targets_BT: Tensor, logits_NV: Tensor) -> Tensor:
        losses = []
        for ahead, head in enumerate(self.heads[: targets_BT.size(1) - 1], start=1):
            logits_BTV = self.cap * torch.tanh(head(hidden_BTD[:, :-ahead]).float() / self.cap)
            losses.append(F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT[:, ahead:].flatten()))
        return self.weight * torch.stack(losses).mean() if losses else hidden_BTD.new_zeros(())
