"""Covariance coder: the integers of matrices predicted from one another (coder.py says how)."""

from .coder import decode, encode

__all__ = ["decode", "encode"]
