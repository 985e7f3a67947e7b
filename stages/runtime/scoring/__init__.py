"""How an artifact scores tokens: the harness, the evaluators, and the code with which evaluators adapt."""
