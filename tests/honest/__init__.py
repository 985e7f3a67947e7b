"""Evaluators that are honest in ways of their own, one per file: the audit must not accuse them.

Each uses `predict` and `learn` as the contract says and is causal, but carries something that no packed evaluator carries. `Evaluator`
takes the geometry of tests/cheats.
"""

import importlib
import pkgutil
from pathlib import Path


def names() -> list[str]:
    return sorted(entry.name for entry in pkgutil.iter_modules([str(Path(__file__).parent)]))


def load(name: str):
    return importlib.import_module(f"tests.honest.{name}")
