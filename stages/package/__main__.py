"""Pack what ships: `submission.pyz` with the chosen blob, the tokenizer and the code that scores. Refused above the cap.

    python -I submission.pyz score TOKENS.bin
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stages.lib import payload, stage
from stages.lib.stage import Input, Metrics, Output
from stages.package import bundle
from stages.runtime import container, plugin
from stages.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "package"
    compress_run: str
    evaluators: tuple[str, ...]
    evaluator: str
    options: dict
    cap_bytes: int


def main(
    settings: Settings,
    *,
    model: Input = "artifacts/quantize/model.safetensors",
    blob: Input = "artifacts/compress/${package.compress_run}/model.blob",
    tokenizer: Input = "artifacts/vocabulary/tokenizer.model",
    submission: Output = "artifacts/package/submission.pyz",
    metrics: Metrics = "artifacts/package/metrics.json",
) -> None:
    if settings.evaluator not in settings.evaluators:
        raise ValueError(f"package.evaluator {settings.evaluator!r} is not among package.evaluators {list(settings.evaluators)}; add it")
    for name in settings.evaluators:
        plugin.load("evaluators", name)
    try:  # with no model: only the options are looked at
        plugin.load("evaluators", settings.evaluator).Evaluator(None, **settings.options)
    except TypeError as error:
        raise ValueError(f"package.options do not fit {settings.evaluator}: {error}") from None
    coded, vocabulary = blob.read_bytes(), tokenizer.read_bytes()
    raw, _, facts = payload.read(model)
    _check_blob(coded, raw, blob, settings.compress_run)
    if Tokenizer(vocabulary).vocabulary_size != facts["model"]["vocabulary_size"]:
        raise ValueError(f"{tokenizer} has another vocabulary size than the model; run: dvc repro package")
    header = container.header(coded)
    pyz = bundle.build(
        bundle.code(codec=header["codec"], filter=header["filter"], evaluators=settings.evaluators,
                    features=tuple(facts["model"]["features"])),
        manifest={"format": 1, "evaluator": settings.evaluator, "options": settings.options, "evaluators": list(settings.evaluators),
                  "codec": header["codec"], "model": facts["model"]},
        blob=coded, tokenizer=vocabulary)
    _refuse_above_cap(len(pyz), len(coded), settings.cap_bytes)
    with stage.atomic(submission) as partial:
        partial.write_bytes(pyz)
    shipped = bundle.model_bytes(pyz)
    stage.write_json(metrics, {
        "artifact_bytes": len(pyz), "code_bytes": len(pyz) - shipped, "model_bytes": shipped, "cap_bytes": settings.cap_bytes,
        "sha256": hashlib.sha256(pyz).hexdigest(), "compress_run": settings.compress_run, "text_sha256": facts["text_sha256"]})
    print(f"{submission}: {len(pyz)} bytes, {settings.cap_bytes - len(pyz)} below the cap")


def _check_blob(coded: bytes, raw: bytes, path: Path, run: str) -> None:
    if not coded:
        raise ValueError(f"{path} is empty because the codec of {run} is not available here; choose another package.compress_run")
    if container.unpack(coded) != raw:
        raise ValueError(f"{path} is not a blob of the current quantized model; run: dvc repro compress@{run}")


def _refuse_above_cap(total: int, coded: int, cap: int) -> None:
    if total > cap:
        raise ValueError(f"the artifact would have {total} bytes, {total - cap} over package.cap_bytes {cap} (model {coded}, rest "
                         f"{total - coded}); lower quantize bits, raise the clip sigmas, shrink the model, or choose another codec")


if __name__ == "__main__":
    stage.run(main)
