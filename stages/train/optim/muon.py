"""Muon: momentum, then the nearest semi-orthogonal matrix as the update. The work is divided over the processes.

    M <- mu M + G;   U = G + mu M (Nesterov);   [rows of U to length 1];   O = orthogonalise(U);   [rows of O to equal size]
    W <- W (1 - lr wd) - lr m sqrt(max(1, rows/cols)) O            m: the matrix's own multiplier of the learning rate

| option        | what it adds                                                                             | source                  |
|---------------|------------------------------------------------------------------------------------------|-------------------------|
| row_normalize | MuonEq-R: every row of U is divided by its length, float32, before orthogonalising       | #1285, #1855            |
| neuron_beta2  | NorMuon: row i of O is divided by the root of its running mean square, then O gets its   | arXiv:2510.05491        |
|               | norm back; 0 is off                                                                      |                         |
| paired_heads  | each two neighbouring heads of query and of key are orthogonalised by themselves          | modded-nanogpt track 1, |
|               |                                                                                          | 8 April 2026            |
| techniques    | another update before or after it, another decay                                         | stages/train/techniques |
| coefficients, iterations, bound | see orthogonalise.py                                                   |                         |

Matrices of one shape are stacked and computed in one batch. With W processes each stack is padded to a multiple of W. Gradients are
averaged and scattered (each process gets its share), momentum and orthogonalisation are computed on the share, and the updates are gathered
while the next stack is orthogonalised. Source: Jordan et al. 2024; the sharded form #549.
"""

# N matrices of one shape (S: of this process), M rows, K columns

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stages.lib.node.launch import World
from stages.lib.node.params import AtLeastOne, AtLeastZero, Decay, Share, require
from stages.train.optim.orthogonalise import EPSILON, orthogonalise

# torch 2.13 renamed both and warns of the old names
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(frozen=True)
class Options:
    """The section `train.muon`. `momentum` is the value at the end of its warm-up (stages/lib/training/schedule.py)."""

    momentum: Share
    momentum_start: Share
    momentum_warmup_steps: AtLeastZero
    iterations: AtLeastOne
    coefficients: Literal["classical", "polar_express"]
    bound: Literal["frobenius", "schatten8"]
    row_normalize: bool
    neuron_beta2: Decay
    paired_heads: bool
    projections: tuple[str, ...]


class Stack:
    """The matrices of one shape, and this process's share of them: rows [first, first + S) of the padded stack. `rows`: how many rows of a
    matrix are orthogonalised at a time."""

    def __init__(self, names: list[str], weights: list[nn.Parameter], multipliers: list[float], world: World, rows: int, techniques: list):
        self.rows, self.techniques = rows, techniques
        self.applied = next((technique.write for technique in techniques if hasattr(technique, "write")), None)
        self.owners, self.weights, self.world = names, weights, world
        self.places = {multiplier: [i for i, own in enumerate(multipliers) if own == multiplier] for multiplier in multipliers}
        self.share = -(-len(weights) // world.size)
        self.first = self.share * world.rank
        self.momentum_SMK = weights[0].new_zeros(self.share, *weights[0].shape, dtype=torch.float32)
        self.slots: dict[str, Tensor] = {"momentum": self.momentum_SMK}  # all that a checkpoint must hold, (S, ...) each
        self.gradients_SMK: Tensor | None = None
        self.work = None

    def start(self) -> None:
        """Begin to average the gradients over the processes. This process gets its share."""
        stacked_NMK = torch.stack([weight.grad for weight in self.weights])
        if self.world.size == 1:
            self.gradients_SMK = stacked_NMK
            return
        padding = self.share * self.world.size - len(self.weights)
        self.sent_NMK = torch.cat([stacked_NMK, stacked_NMK.new_zeros(padding, *stacked_NMK.shape[1:])]) if padding else stacked_NMK
        self.gradients_SMK = torch.empty_like(self.momentum_SMK, dtype=stacked_NMK.dtype)
        self.work = reduce_scatter(self.gradients_SMK, self.sent_NMK, op=dist.ReduceOp.SUM, async_op=True)

    def arrived(self) -> Tensor:
        """This process's share of the averaged gradients (S, M, K)."""
        if self.work is not None:
            self.work.wait()
            self.gradients_SMK /= self.world.size
            self.work = self.sent_NMK = None
        return self.gradients_SMK

    def next_update(self, *, momentum: float, options: Options) -> Tensor:
        """The orthogonalised update of this process's share (S, M, K)."""
        gradients_SMK = self.arrived()
        torch.add(gradients_SMK, self.momentum_SMK, alpha=momentum, out=self.momentum_SMK)
        update_SMK = gradients_SMK.add(self.momentum_SMK, alpha=momentum)
        for technique in self.techniques:
            if hasattr(technique, "shaped"):
                update_SMK = technique.shaped(self, update_SMK, gradients_SMK)
        if options.row_normalize:
            update_SMK = update_SMK / update_SMK.norm(dim=-1, keepdim=True).clamp(min=EPSILON)
        if update_SMK.is_cuda:
            update_SMK = update_SMK.bfloat16()  # as in the contest; on the CPU float32 keeps the bytes repeatable
        blocks = update_SMK.reshape(-1, self.rows, update_SMK.size(-1))
        blocks = orthogonalise(blocks, coefficients=options.coefficients, iterations=options.iterations, bound=options.bound)
        update_SMK = blocks.view_as(update_SMK)
        return self._equalise(update_SMK.float(), options.neuron_beta2) if options.neuron_beta2 else update_SMK

    def _equalise(self, update_SMK: Tensor, beta2: float) -> Tensor:
        squares_SM1 = update_SMK.square().mean(dim=-1, keepdim=True)
        second_SM1 = self.slots.setdefault("second", torch.zeros_like(squares_SM1)).lerp_(squares_SM1, 1 - beta2)
        scaled_SMK = update_SMK / (second_SM1.sqrt() + EPSILON)
        norms = [x.norm(dim=(-2, -1), keepdim=True) for x in (update_SMK, scaled_SMK)]
        return scaled_SMK * (norms[0] / norms[1].clamp(min=EPSILON))

    def collect(self, update_SMK: Tensor) -> tuple[Tensor, dist.Work | None]:
        """Begin to gather the updates of all processes (N + padding, M, K). They are complete once the returned work is finished."""
        if self.world.size == 1:
            return update_SMK, None
        gathered_NMK = update_SMK.new_empty(self.share * self.world.size, *update_SMK.shape[1:])
        return gathered_NMK, all_gather(gathered_NMK, update_SMK.contiguous(), async_op=True)

    def write(self, update_NMK: Tensor, *, rate: float, weight_decay: float) -> None:
        factor = max(1.0, self.rows / self.weights[0].size(1)) ** 0.5
        if update_NMK.is_cuda:  # one launch for all weights needs updates in their layout; on a CPU another layout may round otherwise
            update_NMK = update_NMK.contiguous()
        updates = update_NMK.to(self.weights[0].dtype)
        for multiplier, places in self.places.items():
            own, weights = rate * multiplier, [self.weights[i] for i in places]
            if self.applied:
                self.applied(weights, [updates[i] * factor for i in places], own, weight_decay)
                continue
            torch._foreach_mul_(weights, 1 - own * weight_decay)
            torch._foreach_add_(weights, [updates[i] for i in places], alpha=-own * factor)

    def state(self) -> dict[str, Tensor]:
        """The slots of every matrix by name. Every process must call it, and each gets all of them."""
        out = {}
        for slot, own in self.slots.items():
            gathered, work = self.collect(own)
            if work is not None:
                work.wait()
            out |= {f"{name}/{slot}": gathered[i] for i, name in enumerate(self.owners)}
        return out

    def restore(self, saved: dict[str, Tensor]) -> None:
        """The inverse of `state`, for any number of processes."""
        self.momentum_SMK.zero_()
        self.slots = {"momentum": self.momentum_SMK}
        for slot in (key.rsplit("/", 1)[1] for key in saved if key.startswith(f"{self.owners[0]}/")):
            shape = saved[f"{self.owners[0]}/{slot}"].shape
            own = self.slots.setdefault(slot, self.momentum_SMK.new_zeros(self.share, *shape))
            for i, name in enumerate(self.owners[self.first : self.first + self.share]):
                own[i].copy_(saved[f"{name}/{slot}"])


class Muon:
    """Muon for 2-D weights by name. `multipliers` are those of the learning rate; a missing name has 1. `pair_rows`: rows of two heads, for
    paired_heads. ValueError for an odd number of heads."""

    def __init__(
        self,
        weights: dict[str, nn.Parameter],
        options: Options,
        *,
        world: World,
        multipliers: dict[str, float] | None = None,
        pair_rows: int = 0,
        techniques: list | None = None,
    ):
        self.options, multipliers, techniques = options, multipliers or {}, techniques or []
        shapes: dict[tuple, list[str]] = {}
        for name, weight in weights.items():
            rows = pair_rows if options.paired_heads and name.endswith(("query.weight", "key.weight")) else len(weight)
            require(len(weight) % rows == 0, "train.muon.paired_heads needs even numbers of heads; set it to false")
            shapes.setdefault(
                (weight.shape, rows, *(technique.kind(name) for technique in techniques if hasattr(technique, "kind"))), []
            ).append(name)
        largest_first = sorted(shapes.items(), key=lambda shape: -sum(weights[name].numel() for name in shape[1]))
        self.stacks = [
            Stack(names, [weights[name] for name in names], [multipliers.get(name, 1.0) for name in names], world, rows, techniques)
            for (_, rows, *_), names in largest_first
        ]

    def start(self) -> None:
        """Begin to exchange gradients. Call it right after the backward pass."""
        for stack in self.stacks:
            stack.start()

    def gradients(self) -> list[Tensor]:
        """This process's share of the averaged gradients. Clipping measures them and scales them in place."""
        return [stack.arrived() for stack in self.stacks]

    @torch.no_grad()
    def step(self, *, rate: float, momentum: float, weight_decay: float) -> None:
        """Call `start` first. `rate` is the size of every singular value of a step. Decay is decoupled and uses `rate` too."""
        waiting: tuple[Stack, Tensor, dist.Work | None] | None = None
        for stack in self.stacks:
            gathered, work = stack.collect(stack.next_update(momentum=momentum, options=self.options))
            if waiting:
                self._finish(*waiting, rate, weight_decay)
            waiting = stack, gathered, work
        if waiting:
            self._finish(*waiting, rate, weight_decay)

    @staticmethod
    def _finish(stack: Stack, update_NMK: Tensor, work: dist.Work | None, rate: float, weight_decay: float) -> None:
        if work is not None:
            work.wait()
        stack.write(update_NMK, rate=rate, weight_decay=weight_decay)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name and slot. With several processes this is a collective: all must call it."""
        return {key: tensor for stack in self.stacks for key, tensor in stack.state().items()}

    def restore(self, saved: dict[str, Tensor]) -> None:
        for stack in self.stacks:
            stack.restore(saved)
