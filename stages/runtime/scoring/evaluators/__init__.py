"""One evaluation method per file. The contract:

    CLAIMS: tuple of "causal" | "score_first" | "single_pass" | "uses_length" | "documents_apart"
                                                               the properties that the method claims
    claims(options) -> the same, if it depends on the options     optional
    STREAM: options that replace the given ones when tokens come one by one                  optional
    class Evaluator:
        __init__(self, model, **options)
        carries: bool                                              whether it carries anything from chunk to chunk (absent: yes)
        chunks(num_targets) -> iterator of lists of Window         a partition of the targets, in order
        predict(seen, chunk) -> logits (R, V)                      for the chunk's targets first..last, float32
        learn(seen, chunk) -> None                                 called after the chunk was committed

`seen` is the token stream up to the chunk's last target. An evaluator that claims to be causal may use, for each row, only tokens before
that row's target; the audit tests this by experiment. For a causal evaluator, the harness ensures score-first and single pass: it controls
the order, the softmax and the clock, and commits each target once. `uses_length`: the scores depend on the declared number of targets,
which a decoder must be told. `documents_apart`: no document changes the scores of a later one.
"""


def claims(module, options: dict) -> tuple[str, ...]:
    """The claims of the evaluator in `module` with these options."""
    return module.claims(options) if hasattr(module, "claims") else module.CLAIMS
