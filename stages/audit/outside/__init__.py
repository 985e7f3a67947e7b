"""Evaluate and certify a program that was built elsewhere (docs/outside.md)."""
