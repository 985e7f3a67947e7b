"""The report shows every number of the runs that params.yaml names; what is not legal is never the result."""

import csv
import hashlib
import inspect
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stages.lib import params, stage
from stages.report import __main__ as report
from stages.report import evidence, tables

SHA256 = {split: hashlib.sha256(split.encode()).hexdigest() for split in ("train", "holdout", "val")}
ARTIFACT_SHA256 = hashlib.sha256(b"artifact").hexdigest()
HOSTILE = "<b>bold & \"quoted\" $x^2$"
NO_LRZIP = "the program 'lrzip' is not installed; install it with: apt-get install lrzip (Debian, Ubuntu)"
ENTROPY = 3.512
VAL_BYTES = 1_203_411


class Tree:
    """A fake artifacts/ folder with the numbers of a small run; change `files` before `run()`."""

    def __init__(self, root: Path):
        self.root, self.files = root, {}
        self.compress_runs, self.evaluate_runs = {}, {}
        self.curve = [
            [step, 3.1 + 5.9 * 0.98 ** step + 0.7 * ((step * 7919) % 13 / 13 - 0.5), min(1, (241 - step) / 120),
             1.35358 + 2.2 * 0.985 ** step if step % 24 == 0 else ""] for step in range(1, 241)]
        self.files["prepare/metrics.json"] = {
            "source": "builtin", "documents": {"train": 18_204, "holdout": 412, "val": 957},
            "bytes": {"train": 24_918_337, "holdout": 541_220, "val": VAL_BYTES}, "sha256": SHA256,
            "packages": {"numpy": "2.3.1", "torch": "2.12.0"}}
        self.files["baseline/metrics.json"] = {
            "val_bytes": VAL_BYTES, "train_bytes": 24_918_337, "text_sha256": SHA256["val"], "compressors": {
                "xz_9e": _compressor(311_204, 298_113, 21.4), "brotli_11": _compressor(307_881, None, 48.9),
                "zstd_22": _compressor(318_442, 301_770, 9.31)}}
        self.files["train/metrics.json"] = {
            "steps": 240, "train_seconds": 612.44, "tokens_per_second": 12_839, "loss_nats": 3.14159,
            "holdout_bits_per_byte": 1.41207, "parameters": 9_437_184, "seed": 1337, "processes": 2, "device": "cpu",
            "text_sha256": SHA256["train"], "budget": 590.0, "spent": 590.44, "budget_unit": "virtual seconds"}
        self.files["ema/metrics.json"] = {"average": "posthoc_ema_0.98"}
        self.files["prequant_ttt/metrics.json"] = {"enabled": False, "seconds": 0.01}
        self.files["calibrate/metrics.json"] = {"tokens": 32_768, "seconds": 7.25}
        self.averages = [["final", 1.41207, 0.0], ["posthoc_ema_0.98", 1.38913, 0.0021], ["posthoc_ema_0.9", 1.39871, 0.0313],
                         ["posthoc_ema_0.99", 1.39204, 0.0127]]
        self.tensors = [
            ["embedding.weight", "embedding", "gptq", 2_097_152, 4.7151, 0.00031, 58],
            ["blocks.0.mlp.up.weight", "mlp", "gptq", 3_145_728, 3.3281, 0.0043, 13],
            ["blocks.1.mlp.up.weight", "mlp", "nearest", 3_145_728, 3.4281, 0.0061, 14],
            ["everything else", "other", "none", 1_048_576, 16.0, 0.0, 0]]
        for name, score in {"train": 1.40311, "ema": 1.38842, "prequant_ttt": 1.38842, "quantize": 1.39674}.items():
            self.files[f"measure/{name}/metrics.json"] = {"stage": name, **_score(score, 4.27)}
        self.add_codec("brotli_11", 4_230_118, "brotli", ["byte_shuffle"], 28.21, 0.061)
        self.add_codec("lzma_9", 4_198_772, "lzma", [], 6.93, 0.288)
        self.add_codec("zstd_22", 4_319_060, "zstd", ["byte_shuffle"], 4.4, 0.0132)
        self.add_codec("lrzip_9", None, "lrzip", ["byte_shuffle"], None, None)
        self.files["package/metrics.json"] = {
            "artifact_bytes": 4_239_004, "code_bytes": 40_232, "model_bytes": 4_198_772, "cap_bytes": 16_000_000,
            "sha256": ARTIFACT_SHA256, "compress_run": "lzma_9", "text_sha256": SHA256["train"]}
        self.add_evaluator("sliding", "sliding", 1.36905, 31.7)
        self.add_evaluator("causal_slot", "causal_slot", 1.36118, 188.2)
        self.add_evaluator("slot", "slot", 1.20413, 201.9, failed=("causality", "round_trip"),
                           claims=("single_pass",))

    def add_codec(self, run, num_bytes, codec, filters, encode_seconds, decode_seconds):
        self.compress_runs[run] = {"codec": codec, "filters": filters, "options": {}}
        self.files[f"compress/{run}/metrics.json"] = {
            "codec": codec, "filters": filters, "available": num_bytes is not None,
            "reason": None if num_bytes else NO_LRZIP, "blob_bytes": num_bytes, "raw_bytes": 9_514_332,
            "bits_per_weight": num_bytes and 8 * num_bytes / 9_437_184, "entropy_bits_per_weight": ENTROPY,
            "entropy_bytes": 4_101_555, "left_out_bytes": 77_123, "quantized_weights": 9_400_000, "header_bytes": 901,
            "groups": {"codes": {"raw_bytes": 9_400_000, "coded_bytes": 4_100_000}, "rest": {"raw_bytes": 77_123, "coded_bytes": 66_001}},
            "encode_seconds": encode_seconds, "decode_seconds": decode_seconds, "text_sha256": SHA256["train"]}

    def add_evaluator(self, run, evaluator, score, seconds, *, failed=(), claims=tables.CLAIMS):
        self.evaluate_runs[run] = {"evaluator": evaluator, "options": {}}
        self.files[f"evaluate/{run}/metrics.json"] = {
            "evaluator": evaluator, "artifact_sha256": ARTIFACT_SHA256, **_score(score, seconds)}
        evidence = {"causality": {"flips": 8, "positions": [1281, 640], "earlier_scores_changed": 17 if failed else 0,
                                  "largest_change_nats": 0.4031 if failed else 0.0},
                    "normalization": {"rows": 64, "largest_deviation_of_sum": 2.22e-16},
                    "byte_count": "1203411 bytes in the documents, 1203411 in the sidecar",
                    "round_trip": {"coded_bytes": 204_771, "identical": not failed},
                    "lineage": {"reason": "dvc.lock is missing: the artifact was not made by dvc repro"}}
        self.files[f"audit/{run}/certificate.json"] = {
            "run": run, "evaluator": evaluator, "legal": not failed, "claims": list(claims),
            "bits_per_byte": score, "artifact_sha256": ARTIFACT_SHA256, "checks": {
                name: {"verdict": "fail" if name in failed else "not_applicable" if name == "lineage" else "pass",
                       "evidence": facts} for name, facts in evidence.items()}}

    def drop_evaluator(self, run):
        del self.evaluate_runs[run]
        del self.files[f"evaluate/{run}/metrics.json"], self.files[f"audit/{run}/certificate.json"]

    def run(self) -> dict[str, str]:
        """Write the tree, run the stage as a plain function, return what it wrote by file name."""
        artifacts = self.root / "artifacts"
        for name, content in self.files.items():
            stage.write_json(artifacts / name, content)
        with open(artifacts / "train/loss.csv", "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["step", "train_loss", "learning_rate_scale", "holdout_bits_per_byte"])
            writer.writerows(self.curve)
        (artifacts / "ema/candidates.csv").write_text("average,holdout_bits_per_byte,profile_error\n" + "".join(
            ",".join(map(str, row)) + "\n" for row in self.averages))
        (artifacts / "quantize").mkdir(exist_ok=True)
        (artifacts / "quantize/tensors.csv").write_text(",".join(evidence.QUANTIZED) + "\n" + "".join(
            ",".join(map(str, row)) + "\n" for row in self.tensors))
        declared = {p.name: self.root / p.default for p in inspect.signature(report.main).parameters.values()
                    if isinstance(p.default, str)}
        report.main(report.Compress(self.compress_runs), report.Evaluate(self.evaluate_runs), **declared)
        return {path.name: path.read_text(encoding="utf-8") for path in (artifacts / "report").iterdir()}


def _compressor(alone: int, after: int | None, seconds: float) -> dict:
    return {"bytes": alone, "bits_per_byte": 8 * alone / VAL_BYTES, "bytes_after_train": after,
            "bits_per_byte_after_train": after and 8 * after / VAL_BYTES, "seconds": seconds}


def _score(bits_per_byte: float, seconds: float) -> dict:
    return {"bits_per_byte": bits_per_byte, "loss_nats": 2.31 * bits_per_byte, "tokens": 361_022, "bytes": VAL_BYTES,
            "raw_bytes": VAL_BYTES, "bytes_counted_on": "raw documents", "seconds": seconds, "text_sha256": SHA256["val"]}


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, str]:
    """What the unchanged tree gives, for the tests that only read."""
    return Tree(tmp_path_factory.mktemp("report")).run()


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


def shown(value) -> set[str]:
    """The ways in which a number may be written on the page."""
    if isinstance(value, float):
        return {tables.cell(value, kind) for kind in ("score", "ratio", "seconds")}
    return {f"{value:,}" if isinstance(value, int) else value, str(value)}


def test_every_number_is_in_the_page_the_json_and_the_summary(tree, written):
    page, summary = Page(written["index.html"]).text, written["summary.md"]
    metrics = json.loads(written["metrics.json"])
    for name, content in tree.files.items():
        numbers = [content[key] for key in ("bits_per_byte", "blob_bytes", "encode_seconds", "decode_seconds",
                                            "bits_per_weight", "artifact_bytes", "cap_bytes") if content.get(key)]
        if name.startswith(("measure", "evaluate", "compress", "package")):
            assert numbers or not content["available"]
            for number in numbers:
                assert number in metrics.values(), (name, number)
                assert any(text in page for text in shown(number)), (name, number)
                assert any(text in summary for text in shown(number)), (name, number)
    for entry in tree.files["baseline/metrics.json"]["compressors"].values():
        for number in filter(None, entry.values()):
            assert number in metrics.values()
            assert any(text in page for text in shown(number)) and any(text in summary for text in shown(number))
    train, prepare = tree.files["train/metrics.json"], tree.files["prepare/metrics.json"]
    for number in (*(train[key] for key in ("parameters", "steps", "train_seconds", "holdout_bits_per_byte", "seed")),
                   *prepare["documents"].values(), *prepare["bytes"].values(), *prepare["sha256"].values()):
        assert number in metrics.values()
        assert any(text in page for text in shown(number)), number
    assert metrics["package.bytes_left"] == 16_000_000 - 4_239_004 and "11,760,996 bytes left" in page


def test_every_check_is_shown_with_its_verdict_and_evidence(written):
    page = Page(written["index.html"]).text
    for expected in (
        "causality fail flips 8; positions 1281, 640; earlier scores changed 17; largest change nats 0.4031",
        "byte_count pass 1203411 bytes in the documents, 1203411 in the sidecar",
        "lineage not applicable reason dvc.lock is missing", "round_trip fail coded bytes 204,771; identical false",
        "evaluator slot, claims single_pass", "evaluator sliding, claims causal, score_first, single_pass",
    ):
        assert expected in page


def test_unavailable_codec_is_shown_with_its_reason(written):
    metrics = json.loads(written["metrics.json"])
    for text in (Page(written["index.html"]).text, " ".join(written["summary.md"].split())):
        assert f"not available: {NO_LRZIP}" in text or f"lrzip_9 is not available: {NO_LRZIP}" in text
    assert metrics["compress.lrzip_9.available"] is False and metrics["compress.lrzip_9.blob_bytes"] is None
    assert "lrzip" not in written["sizes.csv"]
    assert re.search(r"^\| lrzip_9 .*- .*not available", written["summary.md"], re.MULTILINE)


def test_a_codec_folder_that_params_does_not_name_is_not_read(tree):
    tree.add_codec("removed", 1, "zlib", [], 1.0, 1.0)
    del tree.compress_runs["removed"]
    assert not any("removed" in text for text in tree.run().values())


def test_a_score_that_is_not_legal_is_never_the_result(written):
    metrics, page = json.loads(written["metrics.json"]), Page(written["index.html"]).text
    assert metrics["bits_per_byte.slot"] < metrics["score.bits_per_byte"] == 1.36118
    assert metrics["score.evaluator"] == "causal_slot"
    assert metrics["legal.slot"] is False and metrics["legal.causal_slot"] is True
    assert "score 1.3612 bits per byte with the evaluator causal_slot, legal." in page
    assert "slot is lower, 1.2041, but not legal." in page
    assert "failed: causality, round_trip; does not claim causal, score_first" in page
    assert "<title>Caddie report: 1.3612 bits per byte</title>" in written["index.html"]
    assert "verdict valid causal_slot is legal and the artifact fits" in page


def test_without_a_legal_evaluator_there_is_no_score(tree):
    tree.drop_evaluator("sliding")
    tree.drop_evaluator("causal_slot")
    written = tree.run()
    metrics, page = json.loads(written["metrics.json"]), Page(written["index.html"]).text
    assert [metrics[f"score.{key}"] for key in ("bits_per_byte", "evaluator", "is_valid")] == [None, None, False]
    assert "verdict not valid no evaluator is legal" in page and "score - bits per byte" in page
    assert "model, slot" not in page, "the comparison with compressors takes legal scores only"


def test_an_artifact_over_the_cap_is_not_valid(tree):
    tree.files["package/metrics.json"]["artifact_bytes"] = 16_000_001
    written = tree.run()
    assert json.loads(written["metrics.json"])["score.is_valid"] is False
    page = Page(written["index.html"]).text
    assert "verdict not valid the artifact is over the cap" in page and "1 bytes too many of 16,000,000" in page
    assert "verdict: not valid: the artifact is over the cap" in written["summary.md"]


def test_the_page_is_well_formed_and_loads_nothing(written):
    html = written["index.html"]
    page = Page(html)
    assert page.problems == []
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert len(page.ids) == len(set(page.ids)), "the three plots share no id"
    assert not re.search(r"@import|url\((?!#)|<script|<iframe|<img", html)
    targets = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert targets and targets <= set(page.ids)
    assert set(re.findall(r"https?://[^\"\s]+", html)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_quantization_is_shown_by_group_with_what_it_costs(tree, written):
    page = Page(written["index.html"]).text
    line = "Quantizing costs +0.0083 bits per byte: 1.3884 before, 1.3967 after."
    assert line in page and line in written["summary.md"]
    assert f"mlp gptq, nearest 2 6,291,456 3.378 {3_145_728 * (3.3281 + 3.4281) / 8:,.0f} 5.20e-03 14" in page
    assert f"embedding gptq 1 2,097,152 4.715 {2_097_152 * 4.7151 / 8:,.0f} 3.10e-04 58" in page
    assert "other none 1 1,048,576 16.000 2,097,152 - -" in page
    tree.tensors = tree.tensors[-1:]
    assert "other none" in Page(tree.run()["index.html"]).text, "a network that is all float16 has a page too"


def test_a_table_of_tensors_without_a_column_is_refused(tree):
    tree.tensors = [["a", "b"]]
    with pytest.raises(ValueError, match=r"tensors\.csv"):
        (tree.root / "artifacts/quantize").mkdir(parents=True)
        evidence._table(tree.root / "artifacts/quantize/tensors.csv", "quantize", evidence.QUANTIZED)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_page_with_few_averages_or_none_is_drawn(tree, kept):
    tree.averages = [["final", 4.9132, 0.0], ["posthoc_ema_0.9", 4.9718, 0.0]][:kept]
    assert ("holdout bits per byte over the decay" in tree.run()["index.html"].lower()) == (kept > 0)


def test_plots_take_their_colours_from_the_page(written):
    html = written["index.html"]
    plots = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert html.count("<svg") == 6 and "currentColor" in plots and "url(#scores-" in plots
    assert set(re.findall(r"#[0-9a-f]{6}\b", plots)) <= {"#000000"}, "a fixed colour cannot suit both schemes"
    for name in set(re.findall(r"var\(--(\w+)\)", html)):
        assert len(re.findall(rf"--{name}:", html)) == 2, f"--{name} has a light and a dark value"


def test_all_text_is_escaped(tree):
    tree.add_evaluator(HOSTILE, HOSTILE, 1.35, 10.0, failed=(), claims=("<i>claim",))
    tree.add_codec(HOSTILE, 4_100_000, HOSTILE, "<u>", 1.0, 1.0)
    tree.files["prepare/metrics.json"]["source"] = "<script>alert(1)</script>"
    certificate = tree.files[f"audit/{HOSTILE}/certificate.json"]
    certificate["checks"]["<h1>check"] = {"verdict": "pass", "evidence": {"<p>": "</p></main>"}}
    html = tree.run()["index.html"]
    page = Page(html)
    assert page.problems == [] and page.text.count(HOSTILE) > 6
    assert not re.search(r"<(b|i|u|script)>|<h1>check|</main>[^\n]", html)


def test_equal_evidence_gives_equal_bytes(tree, written):
    assert tree.run() == written


def test_metrics_are_flat_and_in_stable_order(written):
    metrics = json.loads(written["metrics.json"])
    assert all(value is None or isinstance(value, str | int | float | bool) for value in metrics.values())
    groups = [key.partition(".")[0] for key in metrics]
    assert list(dict.fromkeys(groups)) == ["score", "bits_per_byte", "legal", "evaluate", "package", "compress",
                                           "baseline", "train", "text", "notices"]
    assert [key for key in metrics if key.startswith("bits_per_byte.")] == [
        f"bits_per_byte.{name}" for name in (*evidence.STAGES, "sliding", "causal_slot", "slot")]


def test_tables_for_plots_have_the_declared_columns(written):
    scores = list(csv.DictReader(written["bits_per_byte.csv"].splitlines()))
    assert list(scores[0]) == ["name", "kind", "bits_per_byte", "legal"]
    assert {(row["name"], row["kind"], row["legal"]) for row in scores} >= {
        ("ema", "stage", ""), ("sliding", "evaluator", "true"), ("slot", "evaluator", "false"),
        ("xz_9e", "compressor", ""), ("xz_9e_after_train", "compressor", "")}
    assert not any(row["name"] == "brotli_11_after_train" for row in scores), "an absent number is no row"
    sizes = list(csv.DictReader(written["sizes.csv"].splitlines()))
    assert list(sizes[0]) == ["codec", "bytes", "bits_per_weight", "encode_seconds", "decode_seconds"]
    assert [row["codec"] for row in sizes] == ["lzma_9", "brotli_11", "zstd_22"], "smallest first"


def test_bytes_of_each_group_are_in_a_table_and_the_entropy_says_what_it_leaves_out(written):
    rows = list(csv.DictReader(written["groups.csv"].splitlines()))
    assert list(rows[0]) == ["name", "group", "raw_bytes", "coded_bytes"]
    assert {row["name"] for row in rows} == {"lzma_9", "brotli_11", "zstd_22"}
    assert [(row["group"], row["coded_bytes"]) for row in rows[:3]] == [("header", "901"), ("codes", "4100000"), ("rest", "66001")]
    for text in (Page(written["index.html"]).text, " ".join(written["summary.md"].split())):
        assert "4,101,555 bytes for the codes of all quantized matrices" in text and "float16 tensors, 77,123 bytes as stored" in text
    assert "66,001" in Page(written["index.html"]).text


def test_the_summary_is_printed_and_its_columns_are_aligned(tree, capsys):
    summary = tree.run()["summary.md"]
    assert capsys.readouterr().out == summary
    assert max(map(len, summary.splitlines())) <= 110
    for block in re.findall(r"(?:^\|.*\n)+", summary, re.MULTILINE):
        bars = {tuple(i for i, letter in enumerate(line) if letter == "|") for line in block.splitlines()}
        assert len(bars) == 1, block


def test_a_run_without_holdout_measurements_codecs_or_evaluators_still_has_a_report(tree):
    for run in list(tree.evaluate_runs):
        tree.drop_evaluator(run)
    tree.compress_runs.clear()
    tree.files["train/metrics.json"]["holdout_bits_per_byte"] = None
    tree.curve = [[1, 9.0, 1.0, ""]]
    page = Page(tree.run()["index.html"]).text
    assert "holdout - bits per byte" in page and "not measured in this run" in page
    assert "no evaluator is legal" in page


@pytest.mark.parametrize(("absent", "maker"), [
    ("compress/lrzip_9/metrics.json", "compress@lrzip_9"), ("evaluate/slot/metrics.json", "evaluate@slot"),
    ("audit/sliding/certificate.json", "audit@sliding"), ("measure/ema/metrics.json", "measure@ema"),
    ("package/metrics.json", "package")])
def test_a_missing_file_is_one_sentence_that_names_the_stage(tree, absent, maker):
    del tree.files[absent]
    path = re.escape(str(tree.root / "artifacts" / absent))
    with pytest.raises(ValueError, match=f"^{path} is missing; run the stage that makes it: dvc repro {maker}$"):
        tree.run()
    assert not (tree.root / "artifacts/report").exists()


def test_a_file_without_a_value_is_refused_by_name(tree):
    del tree.files["evaluate/slot/metrics.json"]["seconds"]
    with pytest.raises(ValueError, match=r"metrics.json has no seconds; .* dvc repro --force evaluate@slot"):
        tree.run()


def test_an_evaluator_run_may_not_have_the_name_of_a_stage(tree):
    tree.add_evaluator("ema", "sliding", 1.3, 1.0)
    with pytest.raises(ValueError, match=r"evaluate.runs.ema has the name of a stage"):
        tree.run()


def test_numbers_that_do_not_belong_together_are_announced(tree):
    assert json.loads(tree.run()["metrics.json"])["notices"] == 0
    for file in ("evaluate/sliding/metrics.json", "audit/sliding/certificate.json"):
        tree.files[file]["artifact_sha256"] = "0" * 64
    tree.files["evaluate/slot/metrics.json"]["raw_bytes"] = 10
    tree.files["measure/ema/metrics.json"]["text_sha256"] = "0" * 64
    written = tree.run()
    assert json.loads(written["metrics.json"])["notices"] == 3
    for sentence in ("evaluate@sliding scored another artifact than the one packaged",
                     "evaluate@slot counted 10 bytes",
                     "measure@ema was made from text that prepare does not have now"):
        assert sentence in Page(written["index.html"]).text and sentence in written["summary.md"]


def test_the_sections_fit_params_and_the_contract_names_every_file():
    tree = {"compress": {"runs": {"a": {}}}, "evaluate": {"runs": {"b": {}}}}
    assert params.section(tree, report.Compress).runs == {"a": {}}
    assert params.section(tree, report.Evaluate) == report.Evaluate({"b": {}})
    contract = stage.contract(report.main)
    assert contract.sections == ("compress", "evaluate") and len(contract.inputs) == 14
    assert contract.outputs == ("artifacts/report/index.html", "artifacts/report/summary.md")


def test_help_works_and_imports_no_torch():
    code = ("import sys; from stages.lib import stage; import stages.report.__main__ as report\n"
            "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
            "stage.run(report.main, ['--help'])")
    root = Path(report.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert "Show what the other stages measured" in done.stdout and "--loss-curve" in done.stdout
