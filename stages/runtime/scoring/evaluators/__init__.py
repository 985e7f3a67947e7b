"""One evaluation method per file. The contract:

    CLAIMS: tuple of "causal" | "score_first" | "single_pass" | "uses_length" | "documents_apart"
                                                               what the method says of itself
    claims(options) -> the same, where it depends on the options  optional
    STREAM: options that replace the given ones when tokens come one by one                  optional
    class Evaluator:
        __init__(self, model, **options)
        carries: bool                                              does anything go from chunk to chunk? (absent: yes)
        chunks(num_targets) -> iterator of lists of Window         a partition of the targets, in order
        predict(seen, chunk) -> logits (R, V)                      for the chunk's targets first..last, float32
        learn(seen, chunk) -> None                                 called after the chunk was committed

`seen` is the token stream up to the chunk's last target. An evaluator that claims to be causal may use, for each row, only tokens before
that row's target: the audit tests this one by experiment. Score-first and single pass follow for it from the harness, which owns the
order, the softmax and the clock and commits each target once. One whose scores follow from the declared number of targets, which a
decoder has to be told, says `uses_length`; one for which no document matters to the next says `documents_apart`.
"""


def claims(module, options: dict) -> tuple[str, ...]:
    """What the evaluator in `module` says of itself with these options."""
    return module.claims(options) if hasattr(module, "claims") else module.CLAIMS
