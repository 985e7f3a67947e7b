"""What calibration sums over tokens, in one pass: the inputs' second moments, the mean squared gradient of each output, token counts.

    H   = Σ_n x_n x_n'           (K, K) of a linear layer y = W x, summed over tokens n and over all visits of a layer that recurs
    G_i = 1/N Σ_n (∂L/∂y_ni)²    (M,) likewise; L is the sum of the cross-entropies (nats) of labels drawn from the model itself,
                                 so G is the diagonal of the Fisher information of the outputs
    c_v                          (V,) how often row v of a table was looked up

Products are float32 and sums over passes are float64, so results agree to float32 rounding for any order of the passes and any number of
processes. Memory: the sums and the activations of one block; with G, the activations of the whole network, because that needs a backward
pass. The head's table counts as a linear layer whose inputs are what `GPT.hidden` returns and whose outputs are the logits before the cap.
A layer that no token reached has zeros.

Source: H as in GPTQ (arXiv:2210.17323); G with sampled labels, against the empirical Fisher: Kunstner et al., arXiv:1905.12558.
"""

# B batch, T time, D width, V vocabulary, N tokens, K inputs and M outputs of a matrix

import contextlib
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from stages.lib.node.launch import World
from stages.runtime.network import gpt

EMBEDDING, UNEMBEDDING = "embedding", "unembedding"
COUNTS = ".counts"


class Statistics:
    """Sums over the tokens that `add` has seen, by module name. `row_gradients`: G is collected too, which doubles the time and freezes the
    weights, because only the outputs need gradients."""

    def __init__(self, model: gpt.GPT, *, row_gradients: bool):
        self.model, self.row_gradients, self.tokens = model.requires_grad_(False) if row_gradients else model, row_gradients, 0
        self.layers = gpt.matrices(model)
        self.tables = {name: table for name, table in model.named_modules() if isinstance(table, nn.Embedding) and name != UNEMBEDDING}
        self.head = EMBEDDING if model.config.tied_head else UNEMBEDDING
        self.device = model.embedding.weight.device
        shapes = {name: layer.weight.shape for name, layer in self.layers.items()} | {self.head: getattr(model, self.head).weight.shape}
        self.moments = {name: self._zeros(inputs, inputs) for name, (_, inputs) in shapes.items()}
        self.squares = {name: self._zeros(outputs) for name, (outputs, _) in shapes.items()} if row_gradients else {}
        self.looked_up = {name: self._zeros(table.num_embeddings) for name, table in self.tables.items()}
        self.last: tuple[Tensor, Tensor] | None = None  # an input and its moments, reused because query, key and value have the same input

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def add(self, tokens_BT: Tensor, generator: torch.Generator | None = None) -> None:
        """Run one pass over rows of tokens. `generator`, on the model's device, draws the labels for G."""
        # no_grad and not inference_mode: the model may cache tensors that later need gradients
        with torch.set_grad_enabled(self.row_gradients), self._watching():
            hidden_BTD = self.model.hidden(tokens_BT)
            self._input(self.head, hidden_BTD)
            if self.row_gradients:
                uncapped_BTV = self.model.uncapped(hidden_BTD)
                self._output(self.head, uncapped_BTV)
                cap = self.model.config.logit_softcap
                logits_NV = cap * torch.tanh(uncapped_BTV.flatten(0, 1) / cap)
                labels_N = torch.multinomial(logits_NV.detach().softmax(-1), 1, generator=generator).squeeze(1)
                F.cross_entropy(logits_NV, labels_N, reduction="sum").backward()
        self.last = None
        self.tokens += tokens_BT.numel()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        hooks = []
        for name, layer in self.layers.items():
            hooks.append(layer.register_forward_pre_hook(lambda _, args, name=name: self._input(name, args[0])))
            if self.row_gradients:
                hooks.append(layer.register_forward_hook(lambda _, args, out, name=name: self._output(name, out)))
        for name, table in self.tables.items():
            hooks.append(table.register_forward_pre_hook(lambda _, args, name=name: self._lookup(name, args[0])))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _input(self, name: str, x: Tensor) -> None:
        if self.last is None or self.last[0] is not x:
            x_NK = x.detach().flatten(0, -2).float()
            self.last = x, x_NK.mT @ x_NK
        self.moments[name] += self.last[1]

    def _output(self, name: str, y: Tensor) -> None:
        if not y.requires_grad:  # nothing before it requires gradients, because the weights are frozen
            y.requires_grad_()
        y.register_hook(lambda gradient: self._square(name, gradient))

    @torch.no_grad()
    def _square(self, name: str, gradient: Tensor) -> None:
        self.squares[name] += gradient.flatten(0, -2).square().sum(0, dtype=torch.float64)

    def _lookup(self, name: str, indices: Tensor) -> None:
        self.looked_up[name] += torch.bincount(indices.flatten(), minlength=len(self.looked_up[name]))

    def gather(self, world: World) -> None:
        """Sum over the processes, so that each process has the total."""
        if world.size > 1:
            number = torch.tensor(self.tokens, dtype=torch.int64, device=self.device)
            for tensor in (number, *self.moments.values(), *self.squares.values(), *self.looked_up.values()):
                dist.all_reduce(tensor)
            self.tokens = int(number)

    def hessians(self) -> dict[str, Tensor]:
        """H of all linear layers and of the head's table, float32 on the CPU.

        An embedding that is not the head is only looked up, so it has no inputs for H. It gets the identity, with which GPTQ rounds to
        nearest.
        """
        found = {name: ((sums + sums.mT) / 2).float().cpu() for name, sums in self.moments.items()}
        return found if self.head == EMBEDDING else found | {EMBEDDING: torch.eye(self.model.embedding.embedding_dim)}

    def rows(self) -> dict[str, Tensor]:
        """G by module, if it was collected, and the counts of every table under `<table>.counts`; float32 on the CPU."""
        return {name: (sums / max(self.tokens, 1)).float().cpu() for name, sums in self.squares.items()} | {
            name + COUNTS: counts.float().cpu() for name, counts in self.looked_up.items()
        }


def collect(model: gpt.GPT, batches: Iterable[Tensor], *, total: int) -> dict[str, Tensor]:
    """Only the Hessians, of `total` batches of tokens (B, T), by one process."""
    statistics = Statistics(model, row_gradients=False)
    for tokens_BT in tqdm(batches, total=total, desc="calibrate", unit=" batches", mininterval=1.0):
        statistics.add(tokens_BT)
    return statistics.hessians()
