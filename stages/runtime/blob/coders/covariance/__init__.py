"""Covariance coder: it predicts the integers of matrices from one another (described in coder.py)."""

from .coder import decode, encode

__all__ = ["decode", "encode"]
