"""One evaluation method per file. The contract:

    CLAIMS: tuple of "causal" | "score_first" | "single_pass"     what the method says of itself
    class Evaluator:
        __init__(self, model, **options)
        chunks(num_targets) -> iterator of lists of Window         a partition of the targets, in order
        predict(seen, chunk) -> logits (R, V)                      for the chunk's targets first..last, float32
        learn(seen, chunk) -> None                                 called after the chunk was committed

`seen` is the token stream up to the chunk's last target. An evaluator that claims to be causal may use, for each row,
only tokens before that row's target: the audit tests this one by experiment. Score-first and single pass follow for it from
the harness, which owns the order, the softmax and the clock and commits each target once.
"""
