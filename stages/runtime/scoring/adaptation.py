"""Functions that the adaptive evaluators share: checks of options, a gradient in closed form, AdamW and SGD steps."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED = 1 << 20  # number of logits that fit in a CPU's cache: 4 MB


def require(name: str, value, kind: type | tuple, low: float, high: float = math.inf) -> None:
    """ValueError unless `value` is of `kind` (a bool is not a number) and in low..high."""
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high or not math.isfinite(value):
        kinds = "a whole number" if kind is int else "a number"
        above = f" to {high:g}" if high < math.inf else " or more"
        raise ValueError(f"the evaluator's {name} is {value!r}; it takes {kinds} of {low:g}{above}")


def choose(name: str, value, choices: tuple) -> None:
    """ValueError unless `value` is one of `choices`."""
    if not any(value is choice or (value == choice and type(value) is type(choice)) for choice in choices):
        raise ValueError(f"the evaluator's {name} is {value!r}; it takes {' | '.join(str(choice) for choice in choices)}")


def adamw(parameters: list[Tensor], gradients: Callable[[], list[Tensor]], *, rates: list[float], betas: tuple[float, float]) -> None:
    """One AdamW step for each rate (weight decay 1e-8, eps 1e-5, as in SLOT), in place. `gradients` is called before each step.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g²;  w <- (1 - rate decay) w - rate (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps)
    """
    state = [(parameter, torch.zeros_like(parameter), torch.zeros_like(parameter)) for parameter in parameters]
    for step, rate in enumerate(rates, 1):
        for (parameter, mean, square), gradient in zip(state, gradients(), strict=True):
            mean.lerp_(gradient, 1 - betas[0])
            square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
            scale = (square.sqrt() / math.sqrt(1 - betas[1] ** step)).add_(1e-5)
            parameter.mul_(1 - rate * 1e-8).addcdiv_(mean, scale, value=-rate / (1 - betas[0] ** step))


def gradient(model, hidden_BTD: Tensor, targets_BT: Tensor, weights_BT: Tensor, bias_B1V: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gradient of  Σ_t weights CE(c tanh((z + bias) / c), targets)  by an offset of a row's hidden states (B, D), and of its logits (B, V).

    With y = tanh((z + bias) / c) and p the softmax of c y, it is  Σ_t weights (p - [target]) (1 - y²),  through the head; c may depend on
    the sign of z + bias. The closed form takes half the time of autograd, which keeps about six tensors of the size of the logits. On a
    CPU it is faster still, because it computes so few rows at a time that their logits stay in the cache.
    """
    rows = max(1, CACHED // (hidden_BTD.size(1) * model.config.vocabulary_size))
    rows = rows if hidden_BTD.device.type == "cpu" else len(hidden_BTD)
    found = []
    for i in range(0, len(hidden_BTD), rows):
        y_BTV = model.uncapped(hidden_BTD[i : i + rows]).float()
        if bias_B1V is not None:
            y_BTV = y_BTV + (bias_B1V if len(bias_B1V) == 1 else bias_B1V[i : i + rows])
        cap = model.hooks.apply("cap", model.config.logit_softcap, y_BTV)
        y_BTV = y_BTV.div_(cap).tanh_()
        found_BTV = torch.softmax(cap * y_BTV, dim=-1)
        index_BT1 = targets_BT[i : i + rows, :, None]
        found_BTV.scatter_(-1, index_BT1, found_BTV.gather(-1, index_BT1) - 1)
        found_BTV.mul_(y_BTV.square_().neg_().add_(1))
        found.append((weights_BT[i : i + rows, None] @ found_BTV)[:, 0])
    by_logits_BV = torch.cat(found).float()
    return (by_logits_BV @ model.head_table.float()).float(), by_logits_BV


def capped(model, hidden: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Logits with `bias` added before the cap: c tanh((z + bias) / c)."""
    return model.capped(model.uncapped(hidden).float() + bias)


def sgd_epoch(model, tokens: Tensor, optimizer, *, rate: float, window: int, rows: int, reset_at: int | None) -> None:
    """One pass over `tokens` in whole rows of `window` targets, `rows` of them per step; gradients clipped to norm 1.

    It trains the parameters of the optimizer. The last tokens are left out if they do not fill a row.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.param_groups[0]["lr"] = rate
    inputs_BT = tokens[: (len(tokens) - 1) // window * window].view(-1, window)
    targets_BT = tokens[1 : inputs_BT.numel() + 1].view(-1, window)
    for i in range(0, len(inputs_BT), rows):
        part_BT = inputs_BT[i : i + rows]
        with torch.enable_grad():
            logits_BTV = model(part_BT, segments(part_BT, reset_at))
            loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT[i : i + rows].flatten())
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def segments(inputs_BT: Tensor, reset_at: int | None) -> Tensor | None:
    """Starts and end of the segments in the flattened rows, int32 (S+1,). Documents begin at id `reset_at`; without it, None."""
    if reset_at is None:
        return None
    starts_BT = inputs_BT == reset_at
    starts_BT[:, 0] = True
    starts = starts_BT.flatten().nonzero()[:, 0]
    return torch.cat((starts, starts.new_tensor([inputs_BT.numel()]))).int()
