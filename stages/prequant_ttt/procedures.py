"""Adapt finished weights to a text once more, by AdamW over whole epochs. These are the three published procedures, step by step.

A text of N tokens has S = floor((N - 1) / T) sequences. They are visited in order, the same in each epoch; the tail is dropped. R ranks:

| procedure   | rank r of an epoch visits                               | and the ranks                                      | as in |
|-------------|---------------------------------------------------------|----------------------------------------------------|-------|
| synchronous | sequences S r / R to S (r + 1) / R, one batch per step   | take one step together, with the mean gradient     | #1306 |
| single_pass | all of it once, one batch per step; R = 1               |                                                    | #1399 |
| federated   | batches r, r + R, r + 2 R, ..., one local step for each | go alone; after each epoch weights become the mean | #1958 |

    rate of epoch e of E = low + (high - low) (1 + cos(π e / E)) / 2                        low = floor · high

Each rank keeps its own AdamW moments. Ranks are those of the published runs, not processes. Any number of processes W computes the same
ranks, rank r on process r mod W, and sums in float64, so that the weights do not depend on W.

Source: parameter-golf #1306 (variant A of many), #1399, #1958 (from #1735). They ran under bfloat16 autocast with the embedding in
bfloat16; here everything is float32. If a rank of #1306 runs out of steps before the others, its collectives wait forever; here the mean is
over the ranks that still have a step.
"""

# B rows, T time, R ranks, W processes

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stages.lib.node.launch import World
from stages.lib.node.params import AtLeastZero, require
from stages.lib.tokens.stream import Stream
from stages.runtime.network import gpt

PASS_TOKENS = 8192  # tokens of one pass through the network, which bounds the memory; a longer batch is divided into parts
# features with a row for each layer; in the published scripts these are parameters inside the block
OF_BLOCKS = ("dense_gate", "dtg", "head_gate", "output_gate", "residual_mix", "sparse_gate", "value_residual")


@dataclass(frozen=True)
class Freeze:
    """What is not changed: the first `blocks` blocks, whole or (`published`) without their linear layers, and tensors outside of blocks."""

    blocks: AtLeastZero
    form: Literal["applied", "published"]
    outside: Literal["none", "embedding", "all"]


def visits(num_tokens: int, settings) -> list[list[range]]:
    """The sequences of each step of an epoch, by rank. `settings` is the section prequant_ttt. ValueError if a rank has no step."""
    length, ranks, rows = settings.sequence_length, settings.ranks, settings.batch_tokens // settings.sequence_length
    sequences = max(num_tokens - 1, 0) // length
    if settings.procedure == "federated":
        batches = _batches(range(sequences), rows)
        found, needed = [batches[rank::ranks] for rank in range(ranks)], ((ranks - 1) * rows + 1) * length + 1
    else:
        found = [_batches(range(sequences * rank // ranks, sequences * (rank + 1) // ranks), rows) for rank in range(ranks)]
        needed = ranks * length + 1
    require(
        all(found),
        f"prequant_ttt.split {settings.split} has {num_tokens} tokens, too few: {needed} give each of {ranks} ranks a "
        "sequence; give more text or lower prequant_ttt.ranks, batch_tokens or sequence_length",
    )
    return found


def _batches(sequences: range, rows: int) -> list[range]:
    return [sequences[first : first + rows] for first in range(0, len(sequences), rows)]


def rates(settings) -> list[float]:
    """The learning rate of each epoch."""
    high, epochs = settings.learning_rate, settings.epochs
    low = settings.learning_rate_floor * high
    return [low + (high - low) * (1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]


def frozen(model: gpt.GPT, freeze: Freeze) -> dict[str, slice]:
    """For each parameter the part, along its first axis, that is not changed. Parameters that are trained as a whole are left out."""
    require(
        freeze.blocks <= model.config.num_layers,
        f"prequant_ttt.freeze.blocks is {freeze.blocks}; it takes 0 to model.num_layers {model.config.num_layers}",
    )
    linear = {f"{name}.weight" for name in gpt.matrices(model)}
    parts = {}
    for name, weight in model.named_parameters():
        feature, block = name.split(".")[0], re.match(r"(?:blocks|untied_mlp\.\w+)\.(\d+)\.", name)
        if block:
            stays = slice(None) if int(block[1]) < freeze.blocks and (freeze.form == "applied" or name not in linear) else slice(0)
        elif feature in OF_BLOCKS:
            stays = slice(freeze.blocks)
        else:
            stays = slice(None) if freeze.outside == "all" or (freeze.outside, feature) == ("embedding", "embedding") else slice(0)
        if len(weight[stays]):
            parts[name] = stays
    return parts


class Learner:
    """The model and its trainable parameters: gradients of batches, which are 0 for frozen parts, and steps of one optimizer per rank."""

    def __init__(self, model: gpt.GPT, stream: Stream, settings, world: World):
        self.model, self.stream, self.settings, self.world = model.train(), stream, settings, world
        self.parts = frozen(model, settings.freeze)
        named = dict(model.named_parameters())
        for name, weight in named.items():
            weight.requires_grad_(name not in self.parts or len(weight[self.parts[name]]) < len(weight))
        self.weights = [weight for weight in named.values() if weight.requires_grad]
        self.masked = [(named[name], part) for name, part in self.parts.items() if named[name].requires_grad]
        require(bool(self.weights), "prequant_ttt.freeze leaves nothing to learn; freeze fewer blocks, or less outside of them")
        self.learning = sum(weight.numel() for weight in self.weights) - sum(weight[part].numel() for weight, part in self.masked)

    def optimizer(self) -> torch.optim.AdamW:
        adamw = self.settings.adamw
        return torch.optim.AdamW(self.weights, lr=0.0, betas=(adamw.beta1, adamw.beta2), eps=adamw.epsilon, weight_decay=0.0)

    def gradient(self, sequences: range) -> float:
        """Set the weights' gradients to that of the mean loss of these sequences. Returns the mean, in nats per token."""
        length, nats = self.settings.sequence_length, 0.0
        for weight in self.weights:
            weight.grad = None
        for part in _batches(sequences, max(1, PASS_TOKENS // length)):
            spans = np.empty((len(part), length + 1), np.int64)
            for span, number in zip(spans, part, strict=True):
                self.stream.read(number * length, span)
            self.stream.check(spans)
            spans_BT = torch.from_numpy(spans).to(self.world.device)
            logits_BTV = self.model(spans_BT[:, :-1])
            loss = F.cross_entropy(logits_BTV.flatten(0, 1), spans_BT[:, 1:].flatten(), reduction="sum") / (len(sequences) * length)
            loss.backward()
            nats += loss.item()
        require(math.isfinite(nats), f"the loss is {nats} at sequence {sequences[0]}; lower prequant_ttt.learning_rate")
        for weight, part in self.masked:
            if weight.grad is not None:
                weight.grad[part] = 0.0
        return nats

    def step(self, optimizer: torch.optim.AdamW, rate: float) -> None:
        if self.settings.gradient_clip > 0:
            nn.utils.clip_grad_norm_(self.weights, self.settings.gradient_clip)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()

    def over_processes(self, vector: Tensor, number: float) -> tuple[Tensor, float]:
        """The sums of a float64 vector and of a number over all processes."""
        both = torch.cat((vector, vector.new_tensor([number])))
        if self.world.size > 1:
            dist.all_reduce(both)
        return both[:-1], both[-1].item()


def flat(tensors: list[Tensor | None], like: list[Tensor]) -> Tensor:
    """All tensors in one float64 vector, with zeros for None."""
    return torch.cat(
        [
            torch.zeros_like(weight, dtype=torch.float64).flatten() if tensor is None else tensor.detach().double().flatten()
            for tensor, weight in zip(tensors, like, strict=True)
        ]
    )


def unflat(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    return [part.view_as(weight).to(weight.dtype) for part, weight in zip(vector.split([w.numel() for w in like]), like, strict=True)]


def run(learner: Learner, visits_of: list[list[range]], report: Callable[[int, float], None]) -> list[float]:
    """Adapt the model in place; returns the mean loss of each epoch (nats per token, each batch before its own step).

    `report(epoch, nats)` is called after every step of this process.
    """
    if learner.settings.procedure == "federated":
        return _federated(learner, visits_of, report)
    return _synchronous(learner, visits_of, report)


def _synchronous(learner: Learner, visits_of: list[list[range]], report: Callable[[int, float], None]) -> list[float]:
    optimizer, world, weights, losses = learner.optimizer(), learner.world, learner.weights, []
    for epoch, rate in enumerate(rates(learner.settings)):
        nats = tokens = 0.0
        for step in range(max(map(len, visits_of))):
            busy = [(rank, steps[step]) for rank, steps in enumerate(visits_of) if step < len(steps)]
            summed, own = torch.zeros(sum(map(torch.numel, weights)), dtype=torch.float64, device=world.device), 0.0
            for rank, sequences in busy:
                if rank % world.size == world.rank:
                    own += learner.gradient(sequences) * len(sequences)
                    summed += flat([weight.grad for weight in weights], weights)
            summed, of_step = learner.over_processes(summed, own)
            for weight, gradient in zip(weights, unflat(summed / len(busy), weights), strict=True):
                weight.grad = gradient
            learner.step(optimizer, rate)
            rows = sum(len(sequences) for _, sequences in busy)
            nats, tokens = nats + of_step, tokens + rows
            report(epoch, of_step / rows)
        losses.append(nats / tokens)
    return losses


def _federated(learner: Learner, visits_of: list[list[range]], report: Callable[[int, float], None]) -> list[float]:
    world, weights, ranks, losses = learner.world, learner.weights, len(visits_of), []
    optimizers = {rank: learner.optimizer() for rank in range(world.rank, ranks, world.size)}
    for epoch, rate in enumerate(rates(learner.settings)):
        shared = [weight.detach().clone() for weight in weights]
        summed, nats = torch.zeros(sum(map(torch.numel, weights)), dtype=torch.float64, device=world.device), 0.0
        for rank, optimizer in optimizers.items():
            _set(weights, shared)
            for sequences in visits_of[rank]:
                loss = learner.gradient(sequences)
                learner.step(optimizer, rate)
                nats += loss * len(sequences)
                report(epoch, loss)
            summed += flat(weights, weights)
        summed, nats = learner.over_processes(summed, nats)
        _set(weights, unflat(summed / ranks, weights))
        losses.append(nats / sum(len(sequences) for steps in visits_of for sequences in steps))
    return losses


@torch.no_grad()
def _set(weights: list[Tensor], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
