"""Pack the artifact: `submission.pyz` with the chosen blob, the tokenizer and the code that scores, and compare its size with the cap.

    python -I submission.pyz score TOKENS.bin

An artifact over the cap is packed all the same, so that what was trained is never lost. The metrics say by how much it is over, the audit
fails it, and the report begins with it. lib/blob/counted.py defines what counts.

The blob is that of one run (`package.blob: compress/<run>`), or the smallest of all runs that are available here (`smallest`; of equal ones
the first by name).
"""

import hashlib
from pathlib import Path

from stages.lib.blob import bundle, byte_table, counted, quantized_model
from stages.lib.node import files
from stages.lib.node.stage import Input, Metrics, Output, Plot
from stages.runtime.base import plugin
from stages.runtime.scoring import evaluators
from stages.runtime.text.tokenizer import Tokenizer

MADE = ("run", "blob_bytes", "blob_sha256", "model_sha256", "reason")


def main(
    settings: counted.PackageSettings,
    compress: counted.CompressSettings,
    *,
    model: Input = "artifacts/quantize/model.safetensors",
    blobs: Input = "artifacts/compress",
    memory: Input = "artifacts/memory/memory.bin",
    tokenizer: Input = "artifacts/vocabulary/tokenizer.model",
    script: Input = "artifacts/script/metrics.json",
    script_table: Input = "artifacts/script/bytes.csv",
    submission: Output = "artifacts/package/submission.pyz",
    bytes_table: Plot = "artifacts/package/bytes.csv",
    metrics: Metrics = "artifacts/package/metrics.json",
) -> None:
    if settings.evaluator not in settings.evaluators:
        raise ValueError(f"package.evaluator {settings.evaluator!r} is not among package.evaluators {list(settings.evaluators)}; add it")
    packed = settings.other_options | {settings.evaluator: settings.options}
    for name in settings.evaluators:
        module = plugin.load("evaluators", name)
        try:  # no model is given, because only the options are checked
            if name in packed:
                evaluators.build(module, None, packed[name])
        except TypeError as error:
            where = "options" if name == settings.evaluator else "other_options"
            raise ValueError(f"package.{where} do not fit {name}: {error}") from None
    made = chosen(settings.blob, list(compress.runs), blobs)
    coded, text, vocabulary = (blobs / made["run"] / "model.blob").read_bytes(), memory.read_bytes(), tokenizer.read_bytes()
    _check_blob(coded, made, model_sha256=files.sha256(model), where=f"package.blob {settings.blob}")
    quantized, facts = quantized_model.read(model)
    if Tokenizer(vocabulary).vocabulary_size != facts["model"]["vocabulary_size"]:
        raise ValueError(f"{tokenizer} has another vocabulary size than the model; run: dvc repro package")
    pyz = bundle.submission(coded, text, vocabulary, facts["model"], settings)
    code_bytes = files.read_json(script, required=("code_bytes",))["code_bytes"]
    artifact = counted.Artifact(code_bytes, len(coded), len(text), settings.cap_bytes)
    weights = quantized_model.sizes(quantized)["weights"]
    size = artifact.sentence(weights)
    with files.atomic(submission) as partial:
        partial.write_bytes(pyz)
    with files.atomic(bytes_table) as partial:
        rows = byte_table.of_blob(coded, quantized) + ([("model", "memory", "memory.bin", len(text))] if text else [])
        byte_table.write(partial, rows + byte_table.read(script_table))
    files.write_json(
        metrics,
        {
            "artifact_bytes": artifact.total_bytes,
            "code_bytes": artifact.code_bytes,
            "model_bytes": artifact.model_bytes,
            "memory_bytes": artifact.memory_bytes,
            "cap_bytes": artifact.cap_bytes,
            "over_cap_bytes": artifact.over_cap_bytes,
            "bits_per_weight": 8 * len(coded) / weights,
            "size": size,
            "pyz_bytes": len(pyz),
            "sha256": hashlib.sha256(pyz).hexdigest(),
            "compress_run": made["run"],
            "text_sha256": facts["text_sha256"],
        },
    )
    print(f"{'OVER THE CAP: ' if artifact.over_cap_bytes else ''}{made['run']}: {size}; {submission} itself has {len(pyz):,}")


def chosen(blob: str, runs: list[str], blobs: Path) -> dict:
    """The metrics of the run that ships, by `package.blob`. Only `runs` are considered, because the folder may contain runs of the past."""
    made = [_made(blobs, name) for name in counted.shipped(blob, runs)]
    if len(made) == 1:
        return made[0]
    if len({metrics["model_sha256"] for metrics in made}) > 1:
        raise ValueError("the blobs under artifacts/compress are of different models; run: dvc repro compress")
    available = [metrics for metrics in made if metrics["blob_bytes"]]
    if not available:
        reasons = "; ".join(f"{metrics['run']}: {metrics['reason']}" for metrics in made)
        raise ValueError(f"no run of compress.runs is available here ({reasons or 'there is none'})")
    return min(available, key=lambda metrics: (metrics["blob_bytes"], metrics["run"]))


def _made(blobs: Path, run: str) -> dict:
    path = blobs / run / "metrics.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; run: dvc repro compress@{run}")
    return files.read_json(path, required=MADE)


def _check_blob(coded: bytes, made: dict, *, model_sha256: str, where: str) -> None:
    """The compress stage has decoded the blob and compared it. Check that this is that blob, and of this model."""
    if not coded:
        raise ValueError(f"{where} is empty because it is not available here ({made['reason']}); or choose another package.blob")
    if hashlib.sha256(coded).hexdigest() != made["blob_sha256"]:
        raise ValueError(f"{where} is not the blob that was checked; it is damaged, run: dvc repro compress@{made['run']}")
    if model_sha256 != made["model_sha256"]:
        raise ValueError(f"{where} is not a blob of the current quantized model; run: dvc repro compress@{made['run']}")


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
