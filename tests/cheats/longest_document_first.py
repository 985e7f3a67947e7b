"""Adapts to the longest document before the others, as a queue sorted by length does (#1610): a decoder does not know it."""

import numpy as np
import torch

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators.sliding import Evaluator

__all__ = ["Evaluator", "score"]
CAUGHT_BY = "withheld"


def score(evaluator, tokens, **more):
    starts = [*np.flatnonzero(tokens == 1).tolist(), len(tokens)]
    sizes = np.diff(starts)
    longest = tokens[starts[int(sizes.argmax())] : starts[int(sizes.argmax()) + 1]]
    counts = torch.from_numpy(np.log1p(np.bincount(longest, minlength=50)) * 0.3).float()
    predict = evaluator.predict
    evaluator.predict = lambda seen, chunk: predict(seen, chunk) + counts
    return harness.score(evaluator, tokens, **more)
