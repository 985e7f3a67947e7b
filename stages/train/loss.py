"""What training minimises: the mean cross-entropy of the soft-capped logits in nats, and the losses that features add to it."""

from collections.abc import Callable

from torch import Tensor

from stages.runtime.network.gpt import GPT


def of(model: GPT, cross_entropy: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """loss(tokens_BT, targets_BT, cu_seqlens, max_seqlen) of `model`, with one of the forms in train/kernels/softcap_cross_entropy.py."""

    def loss(tokens_BT: Tensor, targets_BT: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        hidden_BTD = model.hidden(tokens_BT, cu_seqlens, max_seqlen)
        logits_NV = model.uncapped(hidden_BTD).flatten(0, 1)
        value = cross_entropy(logits_NV, targets_BT.flatten(), model.config.logit_softcap)
        for feature in model.hooks.having["auxiliary_loss"]:
            value = value + feature.auxiliary_loss(hidden_BTD, targets_BT, logits_NV)
        return value

    return loss
