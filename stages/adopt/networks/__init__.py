"""Quantize and pack a network that is not one of this repository: any causal language model that `transformers` can load."""
