"""Read one section of params.yaml into a frozen dataclass, or say exactly what is wrong with it.

A section class has no defaults (params.yaml is complete and literal: what you see is what runs) and names the section
it reads in `SECTION`; a `{variant}` in it is filled with the name of the run. Checked: every top-level section is a
known one, no key is missing, no key is unknown (the nearest spelling is offered), every value has its field's type.
"""

import difflib
import re
import types
import typing
from dataclasses import fields, is_dataclass, make_dataclass
from functools import partial
from pathlib import Path

import yaml

STAGES = Path(__file__).resolve().parents[2]
EXTRA_SECTIONS = {"model"}  # read by `train`; from there on the configuration travels inside the checkpoint


class Yaml12Floats(yaml.SafeLoader):
    """PyYAML's safe loader, with 1e-08 a number, as DVC reads it and writes it after `dvc exp run -S`; YAML 1.1 wants 1.0e-8."""


Yaml12Floats.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def sections() -> set[str]:
    """The top-level sections that params.yaml may have: one per stage folder, plus `model`."""
    return {entry.parent.name for entry in STAGES.glob("*/__main__.py")} - {"recipes", "submission"} | EXTRA_SECTIONS


def read(path: Path) -> dict:
    """The whole file as a dict; raises ValueError if it is absent, not YAML, or has an unknown top-level section."""
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=Yaml12Floats)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run from the repository root, or restore it: git checkout {path}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        at = f", line {where.line + 1}" if where else ""
        raise ValueError(f"{path}{at} is not valid YAML ({getattr(error, 'problem', error)}); correct that line") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must be a mapping of sections; restore it: git checkout {path}")
    for name in tree:
        if name not in sections():
            raise ValueError(f"{path}: unknown section {name!r}{nearest(name, sections())}; remove or rename it")
    return tree


def section(tree: dict, schema: type, *, variant: str | None = None):
    """`schema` filled from its section of `tree`. Raises ValueError naming the path of the offending key.

    A schema whose sections come in several shapes reads them itself: `from_params(values, path)`.
    """
    path = schema.SECTION.format(variant=variant)
    return getattr(schema, "from_params", partial(build, schema))(lookup(tree, path), path)


def lookup(tree: dict, path: str):
    """The value at a dotted path of the parsed params.yaml."""
    node, walked = tree, ""
    for key in path.split("."):
        if not isinstance(node, dict) or key not in node:
            known = node if isinstance(node, dict) else {}
            raise ValueError(f"params.yaml has no {path!r}: {walked or 'the top level'} lacks {key!r}{nearest(key, known)}")
        node, walked = node[key], f"{walked}.{key}".lstrip(".")
    return node


def build(schema: type, values, path: str):
    """An instance of the dataclass `schema` from a mapping; `path` is used in the error messages."""
    if not isinstance(values, dict):
        raise ValueError(f"params.yaml: {path} must be a mapping, not {values!r}")
    hints = typing.get_type_hints(schema)
    names = [field.name for field in fields(schema)]
    for key in values:
        if key not in names:
            raise ValueError(f"params.yaml: {path}.{key} is not a known parameter{nearest(key, names)}")
    for name in names:
        if name not in values:
            raise ValueError(f"params.yaml: {path}.{name} is missing; add it (git diff params.yaml shows what was removed)")
    return schema(**{name: _typed(values[name], hints[name], f"{path}.{name}") for name in names})


def _typed(value, hint, path: str):
    origin = typing.get_origin(hint)
    if is_dataclass(hint):
        return build(hint, value, path)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"params.yaml: {path} is {value!r}; it takes {' | '.join(map(str, typing.get_args(hint)))}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        for arm in arms:  # a number or a word
            if typing.get_origin(arm) is typing.Literal and isinstance(value, str):
                return _typed(value, arm, path)
        if len(arms) > 1:  # a number or a list of them
            arms = [arm for arm in arms if (typing.get_origin(arm) is tuple) == isinstance(value, list)]
        return _typed(value, arms[0], path)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"params.yaml: {path} is {value!r}; it takes a list")
        return tuple(_typed(item, typing.get_args(hint)[0], f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise ValueError(f"params.yaml: {path} is {value!r}; it takes a mapping")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)  # YAML 1.1 takes 1e-3 for text; DVC writes numbers that way
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"params.yaml: {path} is {value!r}; it takes {hint.__name__}")
    return value


def nearest(name, known) -> str:
    close = difflib.get_close_matches(str(name), [str(item) for item in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(sorted(map(str, known)))})" if known else ""


def whole(name: str) -> type:
    """A schema that takes a section as it stands, for a stage that hands it on; the section's own stage checks it."""
    def from_params(cls, values: dict, path: str):
        return cls(values)

    return make_dataclass(name, [("values", dict)], frozen=True, namespace={
        "SECTION": name, "from_params": classmethod(from_params), "__annotations__": {"SECTION": typing.ClassVar[str]}})


def require(condition: bool, sentence: str) -> None:
    """Raise ValueError(sentence) unless `condition` holds: for what a user can set wrong."""
    if not condition:
        raise ValueError(sentence)
