"""Pack what ships: `submission.pyz` with the chosen blob, the tokenizer and the code that scores. Refused above the cap.

    python -I submission.pyz score TOKENS.bin
"""

import hashlib

from stages.lib import anatomy, bundle, payload, stage
from stages.lib.stage import Input, Metrics, Output, Plot
from stages.runtime import plugin
from stages.runtime.tokenizer import Tokenizer


def main(
    settings: bundle.Settings,
    *,
    model: Input = "artifacts/quantize/model.safetensors",
    blob: Input = "artifacts/${package.blob}/model.blob",
    blob_metrics: Input = "artifacts/${package.blob}/metrics.json",
    tokenizer: Input = "artifacts/vocabulary/tokenizer.model",
    submission: Output = "artifacts/package/submission.pyz",
    anatomy_table: Plot = "artifacts/package/bytes.csv",
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
    made = stage.read_json(blob_metrics, required=("run", "blob_sha256", "model_sha256", "reason"))
    _check_blob(coded, made, model_sha256=stage.sha256(model), where=f"package.blob {settings.blob}")
    quantized, facts = payload.read(model)
    if Tokenizer(vocabulary).vocabulary_size != facts["model"]["vocabulary_size"]:
        raise ValueError(f"{tokenizer} has another vocabulary size than the model; run: dvc repro package")
    pyz = bundle.submission(coded, vocabulary, facts["model"], settings)
    _refuse_above_cap(len(pyz), len(coded), settings.cap_bytes)
    with stage.atomic(submission) as partial:
        partial.write_bytes(pyz)
    with stage.atomic(anatomy_table) as partial:
        anatomy.write(partial, anatomy.rows(pyz, coded, quantized))
    shipped = bundle.model_bytes(pyz)
    stage.write_json(metrics, {
        "artifact_bytes": len(pyz), "code_bytes": len(pyz) - shipped, "model_bytes": shipped, "cap_bytes": settings.cap_bytes,
        "sha256": hashlib.sha256(pyz).hexdigest(), "compress_run": made["run"], "text_sha256": facts["text_sha256"]})
    print(f"{submission}: {len(pyz)} bytes, {settings.cap_bytes - len(pyz)} below the cap")


def _check_blob(coded: bytes, made: dict, *, model_sha256: str, where: str) -> None:
    """The compress stage has decoded the blob and compared; here it must be that blob, of this model."""
    if not coded:
        raise ValueError(f"{where} is empty because it is not available here ({made['reason']}); or choose another package.blob")
    if hashlib.sha256(coded).hexdigest() != made["blob_sha256"]:
        raise ValueError(f"{where} is not the blob that was checked; it is damaged, run: dvc repro compress@{made['run']}")
    if model_sha256 != made["model_sha256"]:
        raise ValueError(f"{where} is not a blob of the current quantized model; run: dvc repro compress@{made['run']}")


def _refuse_above_cap(total: int, coded: int, cap: int) -> None:
    if total > cap:
        raise ValueError(f"the artifact would have {total} bytes, {total - cap} over package.cap_bytes {cap} (model {coded}, rest "
                         f"{total - coded}); lower quantize bits, raise the clip sigmas, shrink the model, or choose another codec")


if __name__ == "__main__":
    stage.run(main)
