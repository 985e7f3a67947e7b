"""Remember what followed each context so far: the network's row, corrected by a chain of Pitman-Yor estimates with the network at its root.

With N counts after a context of n tokens, U different ones, k of the token a, discount d and strength s:

    p_n(a) = (max(k - d, 0) + (s + d U) p_{n-1}(a)) / (N + s)    n = 1..order; p_{n-1} if the context was never seen; p_0 = p_network
    q_n(a) = (max(k - d, 0) + (s + d U) p_network(a)) / (N + s)  n = 0..document-1, counted in the same document only
    p(a) = Σ_j w_j p_j(a)                                        over all p_n and q_n

w is the mean of two weight vectors: one for each (longest context seen, size of its N, whether its U is 1), and one for each (last token,
whether the longest context seen has more than 3 tokens). Each learns by itself (mixing.py), after every `every` targets. What is counted,
and what not, is in chain.py; counts follow after each target. All p_j are a multiple of the network's row plus a few followers, so a row is
too, and it is a distribution over the whole vocabulary. Sources: estimate, Teh 2006 and Wood et al. 2009; exclusion, Cleary and Witten
1984; weights, Helmbold, Schapire, Singer and Warmuth 1997. docs/memory.md says what each part gains.
"""

# R rows, V vocabulary, F parts of the mixture

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation, chain, counting, mixing, priming
from . import sliding, streaming

CLAIMS = ("causal", "score_first", "single_pass")
STREAM = {"block": 1}  # for the network `streaming`
prepared = priming.prepared


class Evaluator(counting.Counting):
    """The network's rows come from `network`: sliding (window, stride, batch) or streaming (window, block). A document starts with token
    `reset_at` (None: there is only one). Contexts of 1..`primed` tokens begin with the counts of the text that ships (0: with none). If
    there are more than `contexts` contexts, those met longest ago go (None: all stay)."""

    carries = True

    def __init__(
        self,
        model,
        *,
        network: str,
        window: int,
        stride: int | None = None,
        batch: int | None = None,
        block: int | None = None,
        order: int,
        document: int,
        reset_at: int | None = None,
        primed: int = 0,
        discount: float,
        strength: float,
        rate: float,
        every: int,
        contexts: int | None = None,
    ):
        adaptation.choose("network", network, ("sliding", "streaming"))
        for name, value, low, high in (("order", order, 1, 64), ("document", document, 0, 64), ("every", every, 1, counting.PERIOD)):
            adaptation.require(name, value, int, low, high)
        adaptation.require("primed", primed, int, 0, order)
        adaptation.require("discount", discount, (int, float), 1e-6, 1 - 1e-6)
        adaptation.require("strength", strength, (int, float), 1e-6 - discount)
        adaptation.require("rate", rate, (int, float), 0, 1 - 1e-6)
        for name, value, low in (("reset_at", reset_at, 0), ("contexts", contexts, 2)):
            if value is not None:
                adaptation.require(name, value, int, low)
        self.cuts = network == "streaming"
        kind, more = (streaming, {"block": block}) if self.cuts else (sliding, {"stride": stride, "batch": batch})
        self.network = kind.Evaluator(model, window=window, **more)
        kinds = 0 if model is None else model.config.vocabulary_size * 2
        weights = mixing.Weights.equal(1 + order + document, (order + 1) * (len(counting.SIZES) + 1) * 2, kinds)
        table = priming.table(contexts, getattr(model, "text", b""), 0 if model is None else primed, getattr(model, "prepared", None))
        super().__init__(
            chain.Contexts(order, document, reset_at),
            counting.State(table, 0, weights),
            discount=discount,
            strength=strength,
            rate=rate,
            every=every,
        )
        self.logits_RV = self.totals_R1 = torch.zeros(0)  # of the network
        self.asked = False

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        return self.network.chunks(num_targets)

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        first = chunk[0].first
        self._count(seen, first, self.held_R)
        logp_RV = self._rows(seen, chunk)
        self._run(seen, first, chunk[-1].last + 1, self._p(seen, first), logp_RV.numpy())
        return logp_RV.to(seen.device)

    @torch.no_grad()
    def walk(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        self._rows(seen, chunk)
        self._count(seen, chunk[-1].last + 1, np.append(self.held_R, self._p(seen, chunk[0].first)))
        self.network.learn(seen, chunk)

    @torch.no_grad()
    def ask(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        """The target itself is counted when it is known, together with those that follow it."""
        target, logp_RV = chunk[-1].last, self._rows(seen, chunk)
        p_R = np.append(self.held_R, self._p(seen, chunk[0].first))
        self._count(seen, target, p_R[:-1])
        self._run(seen, target, target + 1, p_R[-1:], logp_RV[-1:].numpy())
        self.asked = True
        return logp_RV[-1].to(seen.device)

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """Keep what `predict` learned of the chunk; learn it anew if `predict` ran with other targets, as in token-by-token scoring."""
        self.network.learn(seen, chunk)
        first, end = chunk[0].first, chunk[-1].last + 1
        if self.asked:
            self.held_R, self.asked = self._p(seen, first)[-1:], False
            return
        if not torch.equal(self.pending[0], seen[first:end]):
            self._run(seen, first, end, self._p(seen, first), None)
        self._commit(end)

    def _rows(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        self.logits_RV = self.network.predict(seen, chunk).cpu()
        logp_RV, self.totals_R1 = mixing.normalized(self.logits_RV)
        return logp_RV

    def _p(self, seen: Tensor, first: int) -> np.ndarray:
        """What the network gives to the targets from number `first` on, whose rows are the last ones of it."""
        logits_R1 = self.logits_RV.gather(1, seen[first : first + len(self.logits_RV), None].cpu())
        return (logits_R1.double() - self.totals_R1)[:, 0].exp().numpy()
