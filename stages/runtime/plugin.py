"""A plug-in's name is its file name: `load("codecs", "brotli")` is the module runtime/blob/codecs/brotli.py. No registry.

A plug-in of a larger kind is a folder: `load("coders", "covariance")` is the package runtime/blob/coders/covariance.
"""

import difflib
import importlib
import pkgutil
import sys
from types import ModuleType

ROOMS = {"features": "network", "codecs": "blob", "coders": "blob", "filters": "blob", "evaluators": "scoring"}


def module(kind: str, name: str = "") -> str:
    """The full name of a plug-in's module; of the package of the kind where no name is given."""
    return ".".join(filter(None, (__package__, ROOMS[kind], kind, name)))


def names(kind: str) -> list[str]:
    """The plug-ins of one kind (a key of ROOMS), by name, sorted; works from a folder and from a zip."""
    folder = importlib.import_module(module(kind))
    return sorted(entry.name for entry in pkgutil.iter_modules(folder.__path__))


def load(kind: str, name: str) -> ModuleType:
    """Import one plug-in. ValueError if there is no such file; the nearest spelling is offered."""
    path = module(kind, name)
    if path in sys.modules:  # listing the folder again would take longer than everything else
        return sys.modules[path]
    known = names(kind)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"no file {name}.py under runtime/{ROOMS[kind]}/{kind}; {hint}")
    return importlib.import_module(path)
