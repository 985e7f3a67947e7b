"""Code the quantized model with one codec, decode it again and compare: the blob, its size and its speed.

A codec whose program is not installed leaves an empty blob and metrics that say so; it is never left out of the tables.
"""

import sys
import time
from dataclasses import dataclass
from typing import ClassVar

from stages.lib import payload, stage
from stages.lib.stage import Input, Metrics, Output, Variant
from stages.runtime import container
from stages.runtime.codecs import MissingProgram


@dataclass(frozen=True)
class Run:
    SECTION: ClassVar[str] = "compress.runs.{variant}"
    codec: str
    filter: str
    options: dict


def main(
    run: Variant,
    settings: Run,
    *,
    model: Input = "artifacts/quantize/model.safetensors",
    quantize_metrics: Input = "artifacts/quantize/metrics.json",
    blob: Output = "artifacts/compress/{variant}/model.blob",
    metrics: Metrics = "artifacts/compress/{variant}/metrics.json",
) -> None:
    raw, tensors, facts = payload.read(model)
    num_weights = sum(tensor.size for name, tensor in tensors.items() if not name.endswith(".scales"))
    result = {
        "codec": settings.codec, "filter": settings.filter, "options": settings.options, "available": True, "reason": None,
        "blob_bytes": None, "raw_bytes": len(raw), "bits_per_weight": None,
        "entropy_bits_per_weight": stage.read_json(quantize_metrics, required=("entropy_bits_per_weight",))["entropy_bits_per_weight"],
        "encode_seconds": None, "decode_seconds": None, "text_sha256": facts["text_sha256"]}
    try:
        coded, encode_seconds = _timed(lambda: _pack(raw, run, settings))
        decoded, decode_seconds = _timed(lambda: container.unpack(coded))
        if decoded != raw:
            raise ValueError(f"{run} does not decode to what it coded; do not use this codec, and report it")
        result |= {"blob_bytes": len(coded), "bits_per_weight": 8 * len(coded) / num_weights,
                   "encode_seconds": round(encode_seconds, 3), "decode_seconds": round(decode_seconds, 3)}
        print(f"{run}: {len(coded)} bytes, {8 * len(coded) / num_weights:.4f} bits per weight")
    except MissingProgram as missing:
        coded = b""
        result |= {"available": False, "reason": f"{missing}; then: dvc repro -f compress@{run}"}
        print(f"{run} IS UNAVAILABLE: {result['reason']}", file=sys.stderr)
    with stage.atomic(blob) as partial:
        partial.write_bytes(coded)
    stage.write_json(metrics, result)


def _pack(raw: bytes, run: str, settings: Run) -> bytes:
    try:
        return container.pack(raw, codec=settings.codec, filter=settings.filter, options=settings.options)
    except TypeError as error:
        raise ValueError(f"compress.runs.{run}.options: {error}") from None


def _timed(call):
    started = time.perf_counter()
    value = call()
    return value, time.perf_counter() - started


if __name__ == "__main__":
    stage.run(main)
