"""The blob: named tensors and a JSON configuration in coded, checksummed sections. Specified in docs/artifact-format.md.

    blob = header | coded bytes of section after section

A section of a codec holds tensors as bytes, filtered and coded. A section of a coder holds matrices of codes, and comes after the sections
that have their rounding steps. The header is in header.py; nothing is unpickled.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..base import plugin
from ..base.errors import ArtifactError
from . import header, matrix_context
from .codecs import CodecError
from .header import DTYPES, Entry, Section

AT_A_TIME = 8  # sections that are decoded at a time; each may take a core, and some hundred megabytes in a program


@dataclass(frozen=True)
class Model:
    """The content of a blob: tensors by name, the architecture, and for each quantized tensor that needs one its scheme of quantization."""

    tensors: dict[str, np.ndarray]
    config: dict
    schemes: dict


@dataclass(frozen=True)
class Coding:
    """How to code one section: `how` is codecs/<name> or coders/<name>, filters come with their options, tensors are in order."""

    how: str
    options: dict
    filters: tuple[tuple[str, dict], ...]
    tensors: tuple[str, ...]


def pack(model: Model, codings: list[Coding]) -> bytes:
    """Make the blob; sections of coders go to the end. ValueError unless every tensor of the model, and every array that a filter needs, is
    in exactly one coding."""
    tensors, stored = dict(model.tensors), {}
    for coding in codings:
        for name in coding.tensors:
            for filter, _ in header.on_arrays(coding.filters, name):
                stored[name], extra = plugin.load("filters", filter).forward(stored.get(name, tensors[name]))
                tensors |= {f"{name}.{word}": array for word, array in extra.items()}
    named = [name for coding in codings for name in coding.tensors]
    if sorted(named) != sorted(tensors):
        raise ValueError(f"not every tensor is in exactly one section: {sorted(set(named) ^ set(tensors)) or 'one is named twice'}")
    sections, parts = [], []
    for coding in sorted(codings, key=lambda coding: coding.how.startswith("coders/")):
        arrays = {name: tensors[name] for name in coding.tensors}
        entries = tuple(Entry(name, _dtype(name, array), array.shape) for name, array in arrays.items())
        module = plugin.load(*coding.how.split("/"))
        if coding.how.startswith("coders/"):
            part = module.encode(list(arrays.values()), _contexts(entries, model.tensors, model.schemes), **coding.options)
        else:
            data = b"".join(_bytes(stored.get(name, array)) for name, array in arrays.items())
            for filter, options in header.on_bytes(coding.filters):
                data = plugin.load("filters", filter).forward(data, **options)
            part = module.encode(data, **coding.options)
        sections.append(Section(coding.how, coding.filters, entries, len(part), _digest(arrays.values())))
        parts.append(part)
    blob = header.write(config=model.config, schemes=model.schemes, sections=sections) + b"".join(parts)
    header.read(blob)  # raises what a reader would raise, so no unreadable blob is written
    return blob


def unpack(blob: bytes) -> Model:
    """Read a blob and verify each section by its sha256. ArtifactError or CodecError with one sentence if it is damaged.

    Sections of codecs are decoded at the same time, because a program such as lrzip takes a minute on one core for a full model.
    """
    found = header.read(blob)
    arrays: dict[str, np.ndarray] = {}
    parts, offset = [], found.end
    for section in found.sections:
        parts.append(blob[offset : offset + section.size])
        offset += section.size
    codecs = [section for section in found.sections if not section.how.startswith("coders/")]  # these come first
    with ThreadPoolExecutor(min(os.cpu_count() or 1, AT_A_TIME)) as pool:
        for decoded in pool.map(_decode_bytes, parts, codecs):
            arrays |= decoded
    for part, section in list(zip(parts, found.sections, strict=True))[len(codecs) :]:
        arrays |= _decode_matrices(part, section, _contexts(section.tensors, arrays, found.schemes))
    for section in found.sections:
        for entry in section.tensors:
            for filter, _ in header.on_arrays(section.filters, entry.name)[::-1]:
                module = plugin.load("filters", filter)
                arrays[entry.name] = module.inverse(arrays[entry.name], {word: arrays[f"{entry.name}.{word}"] for word in module.EXTRA})
        if _digest(arrays[entry.name] for entry in section.tensors) != section.sha256:
            raise ArtifactError(
                f"a section of {section.how} decodes to other bytes than were coded (sha256 differs); the blob is damaged, make it again"
            )
    extra = {name for section in found.sections for name in header.extras(section)}
    return Model({name: array for name, array in arrays.items() if name not in extra}, found.config, found.schemes)


def _decode_bytes(coded: bytes, section: Section) -> dict[str, np.ndarray]:
    """The tensors of a codec's section in the shapes in which they are stored, as views of the decoded bytes."""
    filters = header.on_bytes(section.filters)
    sizes = [sum(entry.num_bytes for entry in section.tensors)]
    for filter, options in filters:
        sizes.append(plugin.load("filters", filter).length(sizes[-1], **options))
    data = plugin.load(*section.how.split("/")).decode(coded, size=sizes.pop())
    for filter, options in filters[::-1]:
        data = plugin.load("filters", filter).inverse(data, size=sizes.pop(), **options)
    out, offset = {}, 0
    for entry in section.tensors:
        shape = entry.shape
        for filter, _ in header.on_arrays(section.filters, entry.name):
            shape = plugin.load("filters", filter).stored_shape(shape)
        out[entry.name] = np.frombuffer(data, DTYPES[entry.dtype], math.prod(shape), offset).reshape(shape)
        offset += entry.num_bytes
    return out


def _decode_matrices(coded: bytes, section: Section, made: list[matrix_context.MatrixContext]) -> Iterator[tuple[str, np.ndarray]]:
    matrices = plugin.load(*section.how.split("/")).decode(coded, made)
    for entry, matrix in zip(section.tensors, matrices, strict=True):
        limits = np.iinfo(entry.dtype)
        if matrix.shape != entry.shape or (matrix.size and not limits.min <= matrix.min() <= matrix.max() <= limits.max):
            raise CodecError(f"codes of {entry.name} do not fit {entry.dtype} {entry.shape}; the blob is damaged, make it again")
        yield entry.name, matrix.astype(DTYPES[entry.dtype])


def _contexts(entries: Iterable[Entry], arrays: dict[str, np.ndarray], schemes: dict) -> list[matrix_context.MatrixContext]:
    names = [entry.name.removesuffix(matrix_context.CODES) for entry in entries]
    return [matrix_context.context(name, entry.shape, arrays, schemes.get(name, {})) for name, entry in zip(names, entries, strict=True)]


def _dtype(name: str, array: np.ndarray) -> str:
    if array.dtype.name not in DTYPES:
        raise ValueError(f"tensor {name} has dtype {array.dtype}; the container stores {', '.join(DTYPES)}")
    return array.dtype.name


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, DTYPES[array.dtype.name]).tobytes()


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(_bytes(array))
    return digest.hexdigest()
