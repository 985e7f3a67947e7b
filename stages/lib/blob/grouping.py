"""Read and check a run of `compress.runs`, and divide a model into the sections that the run asks for.

    whole:   {codec: brotli, filters: [{byte_shuffle: {stride: 2}}], options: {quality: 11, window_bits: 24}}
    groups:  {groups: {<group>: {codec | coder: <name>, filters: [...], options: {...}}, ..., rest: {...}}, filters: [...]}

| group                             | what goes into it                                                               |
|-----------------------------------|---------------------------------------------------------------------------------|
| embedding, query, key, ... other  | the codes of matrices of that role (runtime/blob/matrix_context.py), by layer                 |
| codes                             | codes that are in none of those                                                 |
| scales                            | scales and steps of quantized matrices                                          |
| orders                            | the permutations of sort_rows                                                   |
| rest                              | everything else: low-rank factors, float16 tensors; always there                |

The groups' order in the blob is that of this table, whatever their order in params.yaml. The filters transpose and sort_rows work on codes
only. A filter that reorders the whole model into an equivalent one (hidden_order) is listed beside `groups`, or first in a whole run.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

from stages.lib.blob import hidden_order, quantized_model
from stages.lib.node import params
from stages.runtime.base import plugin
from stages.runtime.blob import matrix_context
from stages.runtime.blob.coders import ROLES
from stages.runtime.blob.container import Coding, Model

GROUPS = (*ROLES, "codes", "scales", "orders", "rest")
ON_CODES = (*ROLES, "codes")
STEPS = ("scales", "step", "row_steps", "column_steps")
REORDERINGS = {"hidden_order": hidden_order.apply}


@dataclass(frozen=True)
class Grouped:
    """A run with groups, as written in params.yaml."""

    groups: dict
    filters: tuple[str | dict, ...]


@dataclass(frozen=True)
class Codec:
    """A whole run or one group, with a codec, as written in params.yaml."""

    codec: str
    filters: tuple[str | dict, ...]
    options: dict


@dataclass(frozen=True)
class Coder:
    """One group with a coder, as written in params.yaml. Only a group of codes can have a coder."""

    coder: str
    filters: tuple[str | dict, ...]
    options: dict


@dataclass(frozen=True)
class Group:
    """How one group is coded."""

    how: str
    options: dict
    filters: tuple[tuple[str, dict], ...]


@dataclass(frozen=True)
class Run:
    """One of `compress.runs`. `groups` are by name in the order of GROUPS; a whole run has only the group `rest`."""

    SECTION: ClassVar[str] = "compress.runs.{variant}"
    groups: dict[str, Group]
    reorderings: tuple[tuple[str, dict], ...]

    @classmethod
    def from_params(cls, values: dict, path: str) -> "Run":
        """Read a run from its parameters. ValueError naming the path of what is wrong."""
        if not isinstance(values, dict) or "groups" not in values:
            whole = params.build(Codec, values, path)
            filters = _filters(whole.filters, f"{path}.filters")
            reorderings = tuple(filter for filter in filters if filter[0] in REORDERINGS)
            return cls({"rest": _group(whole, [filter for filter in filters if filter not in reorderings], path, "rest")}, reorderings)
        found = params.build(Grouped, values, path)
        reorderings = tuple(_filters(found.filters, f"{path}.filters"))
        for filter, _ in reorderings:
            params.require(
                filter in REORDERINGS,
                f"params.yaml: {path}.filters holds {filter}; beside groups it takes "
                f"{' | '.join(REORDERINGS)}, the others belong into a group",
            )
        params.require("rest" in found.groups, f"params.yaml: {path}.groups must be a mapping with at least the group rest")
        for name in found.groups:
            params.require(name in GROUPS, f"params.yaml: {path}.groups.{name} is no group; {_nearest(name, GROUPS)}")
        groups = {}
        for name in (name for name in GROUPS if name in found.groups):
            at, group = f"{path}.groups.{name}", found.groups[name]
            group = params.build(Coder if isinstance(group, dict) and "coder" in group else Codec, group, at)
            groups[name] = _group(group, _filters(group.filters, f"{at}.filters"), at, name)
        return cls(groups, reorderings)

    def plugins(self) -> list[str]:
        """The plug-ins of the run, as codecs/<name> and coders/<name>, in the order of its groups."""
        return list(dict.fromkeys(group.how for group in self.groups.values()))

    def reordered(self, model: Model) -> Model:
        """The equivalent model that is compressed."""
        for name, options in self.reorderings:
            model = REORDERINGS[name](model, **options)
        return model

    def codings(self, model: Model) -> dict[str, Coding]:
        """The sections by group. A group that is empty for this model is left out."""
        names: dict[str, list[str]] = {group: [] for group in self.groups}
        for name in model.tensors:
            names[self._group_of(name, model)].append(name)
        for group in names:
            if group in ROLES:
                names[group].sort(key=lambda name: matrix_context.role(name)[1])  # stable: the file's order within a layer
        orders = "orders" if "orders" in self.groups else "rest"
        for group, settings in self.groups.items():
            words = [
                word
                for filter, _ in settings.filters
                if plugin.load("filters", filter).ON_ARRAYS
                for word in plugin.load("filters", filter).EXTRA
            ]
            names[orders] += [f"{name}.{word}" for name in names[group] if quantized_model.is_codes(name) for word in words]
        return {
            group: Coding(settings.how, settings.options, settings.filters, tuple(names[group]))
            for group, settings in self.groups.items()
            if names[group]
        }

    def _group_of(self, name: str, model: Model) -> str:
        wanted = ["rest"]
        if quantized_model.is_codes(name):
            wanted = [matrix_context.role(name.removesuffix(matrix_context.CODES))[0], "codes", "rest"]
        elif quantized_model.is_side(name, model.tensors) and name.rpartition(".")[2] in STEPS:
            wanted = ["scales", "rest"]
        return next(group for group in wanted if group in self.groups)


def _group(chosen: Codec | Coder, filters: list[tuple[str, dict]], path: str, name: str) -> Group:
    """The group `name` with these filters; ValueError for a plug-in that does not exist or does not take what it is given."""
    one, plugin_name = ("coder", chosen.coder) if isinstance(chosen, Coder) else ("codec", chosen.codec)
    module = _sentence(lambda: plugin.load(f"{one}s", plugin_name), f"{path}.{one}")
    if one == "coder":
        params.require(name in ON_CODES, f"params.yaml: {path}.coder takes codes alone; put it under one of {', '.join(ON_CODES)}")
        params.require(not filters, f"params.yaml: {path}.filters: a coder sees the matrices as they are; it takes []")
    signature = inspect.signature(module.encode).parameters.values()
    known = [parameter.name for parameter in signature if parameter.kind is parameter.KEYWORD_ONLY]
    for key in chosen.options:
        params.require(key in known, f"params.yaml: {path}.options.{key}: {plugin_name} does not take it; {_nearest(key, known)}")
    for filter, given in filters:
        params.require(filter not in REORDERINGS, f"params.yaml: {path}.filters: {filter} moves rows of two matrices; put it beside groups")
        _sentence(lambda filter=filter, given=given: _try(plugin.load("filters", filter), given), f"{path}.filters")
    order = [plugin.load("filters", filter).ON_ARRAYS for filter, _ in filters]
    params.require(order == sorted(order, reverse=True), f"params.yaml: {path}.filters: those on arrays come before those on bytes")
    return Group(f"{one}s/{plugin_name}", chosen.options, tuple(filters))


def _filters(values: tuple[str | dict, ...], path: str) -> list[tuple[str, dict]]:
    """`[transpose, {byte_shuffle: {stride: 2}}]` as names with options."""
    out = []
    for value in values:
        one = {value: {}} if isinstance(value, str) else value
        if len(one) != 1 or not all(isinstance(options, dict) for options in one.values()):
            raise ValueError(f"params.yaml: {path} holds {value!r}; it takes names, with options as {{byte_shuffle: {{stride: 2}}}}")
        out += one.items()
    return out


def _try(filter: ModuleType, options: dict) -> None:
    """Refuse options that the filter does not take."""
    known = (
        []
        if filter.ON_ARRAYS
        else [
            parameter.name for parameter in inspect.signature(filter.length).parameters.values() if parameter.kind is parameter.KEYWORD_ONLY
        ]
    )
    name = filter.__name__.rpartition(".")[2]
    params.require(
        sorted(options) == sorted(known), f"{name} takes the options {', '.join(known) or 'none'}, not {', '.join(options) or 'none'}"
    )
    if not filter.ON_ARRAYS:
        filter.length(0, **options)


def _sentence(call: Callable, path: str):
    try:
        return call()
    except (TypeError, ValueError) as error:
        raise ValueError(f"params.yaml: {path}: {error}") from None


def _nearest(name, known) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
