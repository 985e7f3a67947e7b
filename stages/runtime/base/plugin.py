"""A plug-in's name is its file name: `load("codecs", "brotli")` is the module runtime/blob/codecs/brotli.py. There is no registry.

A plug-in that needs several files is a folder: `load("coders", "covariance")` is the package runtime/blob/coders/covariance. Packages
outside the runtime have plug-ins too: `load_from("stages.lib.tokens.loaders", "shuffled")`.
"""

import difflib
import importlib
import pkgutil
import sys
from types import ModuleType

ROOMS = {"features": "network", "codecs": "blob", "coders": "blob", "filters": "blob", "evaluators": "scoring", "lanes": "scoring"}
RUNTIME = __package__.rpartition(".")[0]  # stages.runtime, or caddie inside an artifact


def package(kind: str) -> str:
    """The package that holds the plug-ins of one kind, a key of ROOMS."""
    return f"{RUNTIME}.{ROOMS[kind]}.{kind}"


def names(kind: str) -> list[str]:
    """The names of the plug-ins of one kind, sorted; works in a folder and in a zip file."""
    return names_in(package(kind))


def names_in(folder: str) -> list[str]:
    """The names of the plug-ins in a package, sorted."""
    return sorted(entry.name for entry in pkgutil.iter_modules(importlib.import_module(folder).__path__))


def load(kind: str, name: str) -> ModuleType:
    """Import one plug-in of the runtime. ValueError with the nearest spelling if there is no such file."""
    return load_from(package(kind), name)


def load_from(folder: str, name: str) -> ModuleType:
    """Import one plug-in of a package. ValueError with the nearest spelling if there is no such file."""
    path = f"{folder}.{name}"
    if path in sys.modules:  # listing the folder again would take longer than all the rest; another thread may still be importing it
        return importlib.import_module(path)
    known = names_in(folder)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"no file {name}.py under {'/'.join(folder.split('.')[1:])}; {hint}")
    return importlib.import_module(path)
