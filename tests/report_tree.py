"""A fake artifacts/ folder with the numbers of a small run, for tests of the report, and a reader of its page."""

import csv
import hashlib
import inspect
from html.parser import HTMLParser
from pathlib import Path

import yaml

from stages.lib.node import files
from stages.report import __main__ as report
from stages.report import results

SHA256 = {split: hashlib.sha256(split.encode()).hexdigest() for split in ("train", "holdout", "val")}
ARTIFACT_SHA256 = hashlib.sha256(b"artifact").hexdigest()
HOSTILE = '<b>bold & "quoted" $x^2$'
NO_LRZIP = "the program 'lrzip' is not installed; install it with: apt-get install lrzip (Debian, Ubuntu)"
ENTROPY = 3.512
VAL_BYTES = 1_203_411


def step(*deps: str, outs: tuple[str, ...]) -> dict:
    """One stage of a dvc.lock."""
    return {"deps": [{"path": f"artifacts/{path}"} for path in deps], "outs": [{"path": f"artifacts/{path}"} for path in outs]}


LOCK = {
    "prepare": step(outs=("prepare/train", "prepare/holdout", "prepare/val")),
    "tokenize@train": step("prepare/train", outs=("tokenize/train",)),
    "tokenize@val": step("prepare/val", outs=("tokenize/val",)),
    "train": step("tokenize/train", outs=("train/model",)),
    "plain_score@train": step("train/model", "tokenize/val", outs=("plain_score/train",)),
    "compress@brotli_11": step("train/model", outs=("compress/brotli_11/model.blob",)),
    "compress@lzma_9": step("train/model", outs=("compress/lzma_9/model.blob",)),
    "compress@removed": step("train/model", outs=("compress/removed/model.blob",)),
    "package": step("compress/lzma_9/model.blob", "train/model", outs=("package/submission.pyz",)),
    "evaluate@sliding": step("package/submission.pyz", "tokenize/val", outs=("evaluate/sliding",)),
    "report": step("evaluate/sliding", outs=("report/index.html",)),
}


class Tree:
    """A fake artifacts/ folder with the numbers of a small run; change `files` before `run()`."""

    def __init__(self, root: Path):
        self.root, self.files = root, {}
        self.scored_after = ("train", "ema", "prequant_ttt", "quantize")
        self.compress_runs, self.evaluate_runs = {}, {}
        self.curve = [
            [
                step,
                3.1 + 5.9 * 0.98**step + 0.7 * ((step * 7919) % 13 / 13 - 0.5),
                min(1, (241 - step) / 120),
                1.35358 + 2.2 * 0.985**step if step % 24 == 0 else "",
            ]
            for step in range(1, 241)
        ]
        self.files["prepare/metrics.json"] = {
            "source": "builtin",
            "documents": {"train": 18_204, "holdout": 412, "val": 957},
            "bytes": {"train": 24_918_337, "holdout": 541_220, "val": VAL_BYTES},
            "sha256": SHA256,
            "packages": {"numpy": "2.3.1", "torch": "2.12.0"},
        }
        self.files["text_compressors/metrics.json"] = {
            "val_bytes": VAL_BYTES,
            "train_bytes": 24_918_337,
            "text_sha256": SHA256["val"],
            "compressors": {
                "xz_9e": _compressor(311_204, 298_113, 21.4, 97_431_552),
                "brotli_11": _compressor(307_881, None, 48.9, 231_212_544),
                "zstd_22": _compressor(318_442, 301_770, 9.31, 310_004_224),
            },
            "absent": {"zpaq_5": "the program zpaq is not installed; install it"},
        }
        self.files["train/metrics.json"] = {
            "steps": 240,
            "train_seconds": 612.44,
            "tokens_per_second": 12_839,
            "loss_nats": 3.14159,
            "holdout_bits_per_byte": 1.41207,
            "parameters": 9_437_184,
            "seed": 1337,
            "processes": 2,
            "device": "cpu",
            "torch": "2.13.0+cpu",
            "precision": "fp32",
            "attention_backend": "sdpa",
            "text_sha256": SHA256["train"],
            "budget": 590.0,
            "spent": 590.44,
            "budget_unit": "virtual seconds",
        }
        self.files["ema/metrics.json"] = {"average": "posthoc_ema_0.98"}
        self.files["prequant_ttt/metrics.json"] = {"enabled": False, "seconds": 0.01}
        self.files["calibrate/metrics.json"] = {"tokens": 32_768, "seconds": 7.25}
        self.files["quantize/metrics.json"] = {"tuning": None}
        self.averages = [
            ["final", 1.41207, 0.0],
            ["posthoc_ema_0.98", 1.38913, 0.0021],
            ["posthoc_ema_0.9", 1.39871, 0.0313],
            ["posthoc_ema_0.99", 1.39204, 0.0127],
        ]
        self.tensors = [
            ["embedding.weight", "embedding", "gptq", 2_097_152, 4.7151, 0.00031, 58],
            ["blocks.0.mlp.up.weight", "mlp", "gptq", 3_145_728, 3.3281, 0.0043, 13],
            ["blocks.1.mlp.up.weight", "mlp", "nearest", 3_145_728, 3.4281, 0.0061, 14],
            ["everything else", "other", "none", 1_048_576, 16.0, 0.0, 0],
        ]
        self.bytes = [
            ["model", "header", "header", 901],
            ["model", "up", "blocks.0.mlp.up.weight.codes", 4_131_870],
            ["model", "scales", "blocks.0.mlp.up.weight.scales", 66_001],
            ["code", "network", "stages/runtime/network/gpt.py", 40_000],
            ["code", "train", "stages/train/loop.py", 232],
        ]
        self.lock = LOCK
        for name, score in {"train": 1.40311, "ema": 1.38842, "prequant_ttt": 1.38842, "quantize": 1.39674}.items():
            self.files[f"plain_score/{name}/metrics.json"] = {"stage": name, **_score(score, 4.27)}
        self.add_codec("brotli_11", 4_230_118, "brotli", ["byte_shuffle"], 28.21, 0.061)
        self.add_codec("lzma_9", 4_198_772, "lzma", [], 6.93, 0.288)
        self.add_codec("zstd_22", 4_319_060, "zstd", ["byte_shuffle"], 4.4, 0.0132)
        self.add_codec("lrzip_9", None, "lrzip", ["byte_shuffle"], None, None)
        self.files["package/metrics.json"] = {
            "artifact_bytes": 4_239_004,
            "code_bytes": 40_232,
            "model_bytes": 4_198_772,
            "cap_bytes": 16_000_000,
            "over_cap_bytes": 0,
            "pyz_bytes": 4_280_116,
            "size": "4,239,004 bytes",
            "sha256": ARTIFACT_SHA256,
            "compress_run": "lzma_9",
            "text_sha256": SHA256["train"],
        }
        self.add_evaluator("sliding", "sliding", 1.36905, 31.7)
        self.add_evaluator("causal_slot", "causal_slot", 1.36118, 188.2)
        self.add_evaluator("slot", "slot", 1.20413, 201.9, failed=("causality", "round_trip"), claims=("single_pass",))

    def add_codec(self, run, num_bytes, codec, filters, encode_seconds, decode_seconds):
        self.compress_runs[run] = {"codec": codec, "filters": filters, "options": {}}
        self.files[f"compress/{run}/metrics.json"] = {
            "codec": codec,
            "filters": filters,
            "available": num_bytes is not None,
            "reason": None if num_bytes else NO_LRZIP,
            "blob_bytes": num_bytes,
            "raw_bytes": 9_514_332,
            "bits_per_weight": num_bytes and 8 * num_bytes / 9_437_184,
            "entropy_bits_per_weight": ENTROPY,
            "entropy_bytes": 4_101_555,
            "left_out_bytes": 77_123,
            "quantized_weights": 9_400_000,
            "header_bytes": 901,
            "blob_sha256": SHA256["val"],
            "model_sha256": SHA256["train"],
            "groups": {"codes": {"raw_bytes": 9_400_000, "coded_bytes": 4_100_000}, "rest": {"raw_bytes": 77_123, "coded_bytes": 66_001}},
            "encode_seconds": encode_seconds,
            "decode_seconds": decode_seconds,
            "text_sha256": SHA256["train"],
        }

    def add_evaluator(self, run, evaluator, score, seconds, *, failed=(), claims=results.CLAIMS):
        self.evaluate_runs[run] = {"evaluator": evaluator, "options": {}}
        self.files[f"evaluate/{run}/metrics.json"] = {
            "evaluator": evaluator,
            "artifact_sha256": ARTIFACT_SHA256,
            "ledger_sha256": SHA256["holdout"],
            **_score(score, seconds),
        }
        facts = {
            "causality": {
                "flips": 8,
                "positions": [1281, 640],
                "earlier_scores_changed": 17 if failed else 0,
                "largest_change_nats": 0.4031 if failed else 0.0,
            },
            "normalization": {"rows": 64, "largest_deviation_of_sum": 2.22e-16},
            "byte_count": "1203411 bytes in the documents, 1203411 in the sidecar",
            "round_trip": {"coded_bytes": 204_771, "identical": not failed},
            "lineage": {"reason": "dvc.lock is missing: the artifact was not made by dvc repro"},
        }
        self.files[f"audit/{run}/certificate.json"] = {
            "run": run,
            "evaluator": evaluator,
            "verdict": "not legal" if failed else "legal",
            "legal": not failed,
            "claims": list(claims),
            "significance": "one seed: nothing can be said",
            "bits_per_byte": score,
            "at_most_bits_per_byte": None if failed else score + 0.0125,
            "confidence": 0.99,
            "drawn": [1, 2, 3, 4],
            "referee": {"protocol": 2, "jail": "bubblewrap"},
            "artifact_sha256": ARTIFACT_SHA256,
            "checks": {
                name: {
                    "verdict": "fail" if name in failed else "not_applicable" if name == "lineage" else "pass",
                    "evidence": found,
                    "positions": 8 if name == "causality" else None,
                    "largest_deviation": 0.4031 if name in failed else None,
                    "proves": f"What {name} proves.",
                    "cannot_see": f"What {name} cannot see.",
                    "precedent": "none",
                }
                for name, found in facts.items()
            },
        }

    def drop_evaluator(self, run):
        del self.evaluate_runs[run]
        del self.files[f"evaluate/{run}/metrics.json"], self.files[f"audit/{run}/certificate.json"]

    def run(self) -> dict[str, str]:
        """Write the tree, run the stage as a plain function, return what it wrote by file name."""
        artifacts = self.root / "artifacts"
        for name, content in self.files.items():
            files.write_json(artifacts / name, content)
        with open(artifacts / "train/loss.csv", "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["step", "train_loss", "learning_rate_scale", "holdout_bits_per_byte"])
            writer.writerows(self.curve)
        (artifacts / "ema/candidates.csv").write_text(
            "average,holdout_bits_per_byte,profile_error\n" + "".join(",".join(map(str, row)) + "\n" for row in self.averages)
        )
        (artifacts / "quantize").mkdir(exist_ok=True)
        (artifacts / "quantize/tensors.csv").write_text(
            ",".join(results.QUANTIZED) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in self.tensors)
        )
        (artifacts / "package").mkdir(exist_ok=True)
        (artifacts / "package/bytes.csv").write_text(
            "part,group,name,bytes\n" + "".join(",".join(map(str, row)) + "\n" for row in self.bytes)
        )
        if self.lock is not None:
            (self.root / "dvc.lock").write_text(yaml.safe_dump({"stages": self.lock}, sort_keys=False))
        declared = {p.name: self.root / p.default for p in inspect.signature(report.main).parameters.values() if isinstance(p.default, str)}
        report.main(
            report.PlainScore(self.scored_after, 64, "auto"),
            report.Compress(self.compress_runs),
            report.Evaluate(self.evaluate_runs),
            **declared,
        )
        return {
            str(path.relative_to(artifacts / "report")): path.read_text(encoding="utf-8")
            for path in sorted((artifacts / "report").rglob("*"))
            if path.is_file()
        }


def _compressor(alone: int, after: int | None, seconds: float, peak_bytes: int) -> dict:
    return {
        "bytes": alone,
        "bits_per_byte": 8 * alone / VAL_BYTES,
        "bytes_after_train": after,
        "bits_per_byte_after_train": after and 8 * after / VAL_BYTES,
        "seconds": seconds,
        "peak_bytes": peak_bytes,
    }


def _score(bits_per_byte: float, seconds: float) -> dict:
    return {
        "bits_per_byte": bits_per_byte,
        "loss_nats": 2.31 * bits_per_byte,
        "tokens": 361_022,
        "bytes": VAL_BYTES,
        "raw_bytes": VAL_BYTES,
        "bytes_counted_on": "raw documents",
        "seconds": seconds,
        "text_sha256": SHA256["val"],
    }


class Page(HTMLParser):
    """Parses a page; `problems` are tags that do not pair, `texts` what a reader sees, `links` what it would load."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.problems, self.texts, self.links, self.ids = [], [], [], [], []
        self.feed(html.replace("<wbr>", ""))
        self.close()
        self.problems += self.open

    def handle_starttag(self, tag, attrs):
        loading = ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
        self.links += [value for name, value in attrs if name in loading]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())
