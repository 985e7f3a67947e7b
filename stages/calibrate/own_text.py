"""Text that the model writes itself, for calibration without any text: what #1019 does.

    x_0 uniform over the vocabulary;   x_t = argmax_v(z_tv / temperature + n_tv),  n from Gumbel's distribution

which draws x_t from softmax(z_t / temperature), z_t the logits after x_0 .. x_{t-1}. There is no cache of keys and values: every
pass reads the text from its beginning. But as the noise of a position is fixed before its context is known, the tokens ahead can be
guessed from the last pass, and all guesses up to the first wrong one were right: a pass settles more than one token.

Source: parameter-golf #1019 (64 sequences of 2,048 tokens at temperature 0.8); Jacobi decoding: Song et al., arXiv:2002.03629.
"""

# B rows, T time, A tokens ahead, V vocabulary

import torch
from torch import Tensor

from stages.runtime.model import gpt

AHEAD = 16  # tokens that one pass guesses; the text does not depend on it


@torch.no_grad()
def write(model: gpt.GPT, *, rows: int, length: int, temperature: float, generator: torch.Generator) -> Tensor:
    """int64 (B, T) on the model's device. `generator` is of the CPU, so that the noise is the same on any device."""
    device, size = model.embedding.weight.device, model.config.vocabulary_size
    tokens_BT = torch.zeros(rows, length, dtype=torch.int64, device=device)
    tokens_BT[:, 0] = torch.randint(size, (rows,), generator=generator).to(device)
    settled, noise_BAV = 1, torch.empty(rows, 0, size, device=device)
    while settled < length:
        stop = min(settled + AHEAD, length)
        new = [gumbel(rows, size, generator) for _ in range(stop - settled - noise_BAV.size(1))]
        noise_BAV = torch.cat((noise_BAV, *(noise_BV[:, None].to(device) for noise_BV in new)), dim=1)
        logits_BAV = model.head(model.hidden(tokens_BT[:, : stop - 1])[:, settled - 1:])
        found_BA = (logits_BAV / temperature + noise_BAV).argmax(-1)
        right_A = (found_BA == tokens_BT[:, settled:stop]).all(0)
        tokens_BT[:, settled:stop] = found_BA
        step = min(1 + int(right_A.long().cumprod(0).sum()), stop - settled)  # the token after the last right guess is settled too
        settled, noise_BAV = settled + step, noise_BAV[:, step:]
    return tokens_BT


def gumbel(rows: int, size: int, generator: torch.Generator) -> Tensor:
    """float32 (B, V): -log(-log(u)), u uniform."""
    return -torch.empty(rows, size, dtype=torch.float64).exponential_(generator=generator).log().float()
