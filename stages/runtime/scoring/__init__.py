"""How an artifact scores tokens: the harness, the evaluators, and what they adapt with."""
