"""How evaluators score L parts of a file at once, for `compress`; one file per evaluator that can. The contract:

    suits(options) -> bool                          whether the evaluator can with these options
    class Lanes:
        __init__(self, evaluator, lanes, first)     a new evaluator, which nothing else may use; every lane begins after the token `first`
        rows() -> p (L, V), float64                 of the next token of each lane; called once for each `push`
        push(tokens) -> None                        these (L) come next

All lanes share what the evaluator learns. A row depends on what was pushed before, and on nothing of its own step. So encoder and decoder
compute in the same shapes and the same order, and their rows are equal to the bit on one machine.
"""
