"""A plug-in's name is its file name: `load("codecs", "brotli")` is the module runtime/codecs/brotli.py. No registry."""

import difflib
import importlib
import pkgutil
import sys
from types import ModuleType


def names(kind: str) -> list[str]:
    """The plug-ins of one kind (`codecs`, `coders`, `filters`, `evaluators`), by name, sorted; works from a folder and from a zip."""
    folder = importlib.import_module(f"{__package__}.{kind}")
    return sorted(entry.name for entry in pkgutil.iter_modules(folder.__path__))


def load(kind: str, name: str) -> ModuleType:
    """Import one plug-in. ValueError if there is no such file; the nearest spelling is offered."""
    module = f"{__package__}.{kind}.{name}"
    if module in sys.modules:  # listing the folder again would take longer than everything else
        return sys.modules[module]
    known = names(kind)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"no file {name}.py under runtime/{kind}; {hint}")
    return importlib.import_module(module)
