"""Read one section of params.yaml into a frozen dataclass, or say exactly what is wrong with it.

A section class has no defaults, because params.yaml is complete and literal. It names the section that it reads in `SECTION`; a `{variant}`
in that name is filled with the name of the run. These rules are checked: every top-level section is known, no key is missing, no key is
unknown (the nearest spelling is offered), and every value has its field's type and lies in its field's range. A range is part of the type:
one of the names below, or an Interval. A rule about two parameters together is a function of the section. Pydantic checks the values; the
error sentences are our own. A section that is built directly, also with `dataclasses.replace`, is not checked.
"""

import difflib
import functools
import json
import re
import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated

import yaml
from annotated_types import Interval

AtLeastOne = Annotated[int, Interval(ge=1)]
AtLeastZero = Annotated[int, Interval(ge=0)]
Seed = Annotated[int, Interval(ge=0, lt=1 << 63)]  # the range that torch and numpy both accept
Positive = Annotated[float, Interval(gt=0)]
NonNegative = Annotated[float, Interval(ge=0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Decay = Annotated[float, Interval(ge=0, lt=1)]  # of a running average, which would never change at 1
Device = typing.Literal["auto", "cpu", "cuda", "mps"]


FIRST = {"unexpected_keyword_argument": 0, "missing": 1}  # pydantic's names of the errors that are reported before all others
STAGES = Path(__file__).resolve().parents[2]
EXTRA_SECTIONS = {"model"}  # read by `train`; later stages take the configuration from the checkpoint


class Yaml12Floats(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads 1e-08 as a number. DVC reads and writes it so (`dvc exp run -S`); YAML 1.1 requires 1.0e-8."""


Yaml12Floats.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def sections() -> set[str]:
    """The top-level sections that params.yaml may have: one per stage folder, plus `model`."""
    return {entry.parent.name for entry in STAGES.glob("*/__main__.py")} - {"recipes", "submission"} | EXTRA_SECTIONS


def read(path: Path) -> dict:
    """The whole file as a dict. ValueError if it is absent, is not YAML, or has an unknown top-level section."""
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
    """`schema` filled from its section of `tree`. ValueError naming the path of the offending key.

    A schema whose sections have several forms reads them itself, with `from_params(values, path)`.
    """
    path = schema.SECTION.format(variant=variant)
    return getattr(schema, "from_params", functools.partial(build, schema))(lookup(tree, path), path)


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
    """An instance of the dataclass `schema` from a mapping. `path` is used in error messages."""
    from pydantic import ValidationError  # imported here, because it takes a tenth of a second that `--help` should not wait for

    try:
        return _adapter(schema).validate_json(json.dumps({path: _plain(values)}, default=str))[path]
    except ValidationError as error:
        # A misspelled key is unknown, and the right one is missing: report the unknown one. In a union, report the error that got furthest.
        found = min(error.errors(include_url=False), key=lambda found: (FIRST.get(found["type"], len(FIRST)), -len(found["loc"])))
        raise ValueError(_sentence(found, schema, path)) from None


@functools.cache
def _adapter(schema: type):
    """Pydantic's validator of {path: section}.

    What is strict for JSON is right for params.yaml: a list becomes a tuple and a whole number a float, but text or a truth value is no
    number. The configuration belongs to the mapping around the section, because only from there every dataclass within it has it too.
    """
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(dict[str, schema], config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))


def _plain(value):
    """The value with text for its keys, and with numbers where YAML 1.1 sees text: 1e-3, as DVC writes it, and 1.5e3."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(value) if is_number else value


def _sentence(error: dict, schema: type, path: str) -> str:
    """One of pydantic's errors in our words."""
    location = error["loc"][1:]
    if error["type"] in FIRST:
        owner, hint = _place(location[:-1], schema, path)
        if FIRST[error["type"]]:
            return f"params.yaml: {owner}.{location[-1]} is missing; add it (git diff params.yaml shows what was removed)"
        return f"params.yaml: {owner}.{location[-1]} is not a known parameter{nearest(location[-1], [f.name for f in fields(hint)])}"
    if error["type"] == "value_error":  # raised by the section's own __post_init__
        return str(error["ctx"]["error"])
    path, hint = _place(location, schema, path)
    return f"params.yaml: {path} is {error['input']!r}; it takes {_takes(hint, error['input'])}"


def _place(location: tuple, hint, path: str) -> tuple[str, object]:
    """The path in params.yaml of one of pydantic's locations, and the annotation of what belongs there."""
    for part, *more in (location[i:] for i in range(len(location))):
        arms = [arm for arm in typing.get_args(hint) if arm is not types.NoneType] if _is_union(hint) else [hint]
        if len(arms) > 1:  # pydantic names the member of the union that it tried, and only a list has positions inside it
            hint = next(arm for arm in arms if typing.get_origin(arm) is tuple) if more else hint
        elif is_dataclass(arms[0]):
            path, hint = f"{path}.{part}", typing.get_type_hints(arms[0], include_extras=True)[part]
        else:
            path, hint = f"{path}[{part}]", typing.get_args(arms[0])[0]
    return path, hint


def _takes(hint, value) -> str:
    """What an annotation takes instead of `value`, in words: its range if that is a number of its kind, else its type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return " | ".join(_takes(arm, value) for arm in arguments)
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin is typing.Annotated and hasattr(arguments[1], "names"):  # plugin_names.PluginName
        return " | ".join(arguments[1].names())
    if origin is typing.Annotated:
        is_number = isinstance(value, int if arguments[0] is int else (int, float)) and not isinstance(value, bool)
        return _range(arguments[1]) if is_number else _takes(arguments[0], value)
    if origin is tuple:
        return "a list"
    if hint is dict or is_dataclass(hint):
        return "a mapping"
    if hint is float and isinstance(value, float):
        return "a finite number"
    return "null" if hint is types.NoneType else hint.__name__


def _range(bounds: Interval) -> str:
    if bounds.ge is not None and bounds.le is not None:
        return f"{bounds.ge} to {bounds.le}"
    words = (
        (f"{bounds.ge} or more", bounds.ge),
        (f"more than {bounds.gt}", bounds.gt),
        (f"below {bounds.lt}", bounds.lt),
        (f"up to {bounds.le}", bounds.le),
    )
    return ", ".join(word for word, bound in words if bound is not None)


def _is_union(hint) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def nearest(name, known) -> str:
    close = difflib.get_close_matches(str(name), [str(item) for item in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(sorted(map(str, known)))})" if known else ""


def require(condition: bool, sentence: str) -> None:
    """Raise ValueError(sentence) unless `condition` holds. Used for mistakes that a user can make."""
    if not condition:
        raise ValueError(sentence)
