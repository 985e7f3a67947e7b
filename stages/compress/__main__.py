"""Compress the quantized model in one way, decompress it again and compare. Gives the blob, its size and its speed.

A run is one codec for everything, or a codec or coder for each group of tensors: stages/lib/blob/grouping.py. If a codec is not installed
here, the run gives an empty blob and metrics that say so, so that it is never missing in the tables.
"""

import hashlib
import sys
import time

from stages.lib.blob import quantized_model
from stages.lib.blob.grouping import Run
from stages.lib.node import files
from stages.lib.node.stage import Input, Metrics, Output, Variant
from stages.runtime.blob import container, header
from stages.runtime.blob.codecs import MissingProgram


def main(
    run: Variant,
    settings: Run,
    *,
    model: Input = "artifacts/quantize/model.safetensors",
    blob: Output = "artifacts/compress/{variant}/model.blob",
    metrics: Metrics = "artifacts/compress/{variant}/metrics.json",
) -> None:
    quantized, facts = quantized_model.read(model)
    sizes = quantized_model.sizes(quantized)
    result = {
        "run": run,
        **describe(settings),
        "available": True,
        "reason": None,
        "blob_bytes": None,
        **sizes,
        "bits_per_weight": None,
        "encode_seconds": None,
        "decode_seconds": None,
        "header_bytes": None,
        "groups": {},
        "blob_sha256": None,
        "model_sha256": files.sha256(model),
        "text_sha256": facts["text_sha256"],
    }
    try:
        reordered = settings.reordered(quantized)
        codings = settings.codings(reordered)
        coded, encode_seconds = _timed(lambda: _pack(reordered, run, list(codings.values())))
        decoded, decode_seconds = _timed(lambda: container.unpack(coded))
        if not quantized_model.same(decoded, reordered):
            raise ValueError(f"{run} does not decode to what it coded; do not use it, and report it")
        bits = 8 * len(coded) / sizes["weights"]
        result |= {
            "blob_bytes": len(coded),
            "blob_sha256": hashlib.sha256(coded).hexdigest(),
            "bits_per_weight": bits,
            "encode_seconds": round(encode_seconds, 3),
            "decode_seconds": round(decode_seconds, 3),
            **coded_bytes(coded, codings),
        }
        print(f"{run}: {len(coded)} bytes, {bits:.4f} bits per weight")
    except MissingProgram as missing:
        coded = b""
        result |= {"available": False, "reason": f"{missing}; then: dvc repro -f compress@{run}"}
        print(f"{run} IS UNAVAILABLE: {result['reason']}", file=sys.stderr)
    with files.atomic(blob) as partial:
        partial.write_bytes(coded)
    files.write_json(metrics, result)


def describe(settings: Run) -> dict:
    """The run in words for tables: its codecs and coders, and its filters, each named once."""
    filters = [name for name, _ in settings.reorderings]
    filters += [name for group in settings.groups.values() for name, _ in group.filters]
    return {"codec": " + ".join(how.partition("/")[2] for how in settings.plugins()), "filters": list(dict.fromkeys(filters))}


def coded_bytes(blob: bytes, codings: dict[str, container.Coding]) -> dict:
    """The sizes of a blob's parts: the header, and each group before and after compression."""
    found = header.read(blob)
    by_tensors = {tuple(entry.name for entry in section.tensors): section for section in found.sections}
    groups = {}
    for group, coding in codings.items():
        section = by_tensors[coding.tensors]
        groups[group] = {"raw_bytes": sum(entry.num_bytes for entry in section.tensors), "coded_bytes": section.size}
    return {"header_bytes": found.end, "groups": groups}


def _pack(model: container.Model, run: str, codings: list[container.Coding]) -> bytes:
    try:
        return container.pack(model, codings)
    except MissingProgram:
        raise
    except ValueError as error:
        raise ValueError(f"compress.runs.{run}: {error}") from None


def _timed(call):
    started = time.perf_counter()
    value = call()
    return value, time.perf_counter() - started


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
