"""The report shows every number of the runs that params.yaml names; what is not legal is never the result."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jinja2.exceptions import UndefinedError

from stages.lib import page as lib_page
from stages.lib.node import params, stage
from stages.report import __main__ as report
from stages.report import results
from stages.report.table_columns import cell
from tests.conftest import ROOT
from tests.report_tree import HOSTILE, NO_LRZIP, Page, Tree


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, str]:
    """What the unchanged tree gives, for the tests that only read."""
    return Tree(tmp_path_factory.mktemp("report")).run()


def shown(value) -> set[str]:
    """The ways in which a number may be written on the page."""
    if isinstance(value, float):
        return {cell(value, kind) for kind in ("score", "ratio", "seconds")}
    return {f"{value:,}" if isinstance(value, int) else value, str(value)}


def test_every_number_is_in_the_page_the_json_and_the_summary(tree, written):
    page, summary = Page(written["index.html"]).text, written["summary.md"]
    metrics = json.loads(written["metrics.json"])
    for name, content in tree.files.items():
        numbers = [
            content[key]
            for key in ("bits_per_byte", "blob_bytes", "encode_seconds", "decode_seconds", "bits_per_weight", "artifact_bytes", "cap_bytes")
            if content.get(key)
        ]
        if name.startswith(("plain_score", "evaluate", "compress", "package")):
            assert numbers or not content["available"]
            for number in numbers:
                assert number in metrics.values(), (name, number)
                assert any(text in page for text in shown(number)), (name, number)
                assert any(text in summary for text in shown(number)), (name, number)
    for entry in tree.files["text_compressors/metrics.json"]["compressors"].values():
        for number in filter(None, entry.values()):
            assert number in metrics.values()
            assert any(text in page for text in shown(number)) and any(text in summary for text in shown(number))
    train, prepare = tree.files["train/metrics.json"], tree.files["prepare/metrics.json"]
    for number in (
        *(train[key] for key in ("parameters", "steps", "train_seconds", "holdout_bits_per_byte", "seed")),
        *prepare["documents"].values(),
        *prepare["bytes"].values(),
        *prepare["sha256"].values(),
    ):
        assert number in metrics.values()
        assert any(text in page for text in shown(number)), number
    assert metrics["package.bytes_left"] == 16_000_000 - 4_239_004 and "11,760,996 bytes left" in page


@pytest.mark.parametrize("strongest, distance, side", [("xz_9e", 0.25, "0.2500 below"), ("zstd_22", -0.125, "0.1250 above")])
def test_strongest_compressor_after_the_train_text_is_named_at_the_top_whoever_wins(tree, strongest, distance, side):
    score = tree.files["audit/causal_slot/certificate.json"]["at_most_bits_per_byte"]
    rows = tree.files["text_compressors/metrics.json"]["compressors"]
    for name, row in rows.items():
        row["bits_per_byte_after_train"] = score + distance if name == strongest else 7.5
    rows["brotli_11"].update(bits_per_byte=0.001, bits_per_byte_after_train=None)  # val alone is not the comparison
    said = tree.run()
    expected = (
        f"strongest general-purpose compressor after the train text: {strongest}, {score + distance:.4f} bits per byte; the score is {side}"
    )
    summary, metrics = " ".join(said["summary.md"].split()), json.loads(said["metrics.json"])
    assert summary.index(expected) < summary.index("## ") and f"The {expected}." in Page(said["index.html"]).text
    assert metrics["score.bits_per_byte"] == score
    assert metrics["text_compressors.strongest.name"] == strongest
    assert metrics["text_compressors.strongest.bits_per_byte"] == score + distance


def test_where_no_compressor_has_read_the_train_text_none_is_the_strongest(tree):
    for row in tree.files["text_compressors/metrics.json"]["compressors"].values():
        row.update(bytes_after_train=None, bits_per_byte_after_train=None)
    said = tree.run()
    assert "strongest general-purpose" not in said["summary.md"] + Page(said["index.html"]).text
    assert not any("strongest" in key for key in json.loads(said["metrics.json"]))


def test_compressors_that_are_not_installed_are_named(written):
    for text in (Page(written["index.html"]).text, " ".join(written["summary.md"].split())):
        assert "zpaq_5 is not in the table: the program zpaq is not installed; install it" in text


def test_every_check_is_shown_with_its_verdict_and_evidence(written):
    page = Page(written["index.html"]).text
    for expected in (
        "causality fail 8 positions; largest deviation 0.4031; flips 8; positions 1281, 640; earlier scores changed 17; largest",
        "byte_count pass 1203411 bytes in the documents, 1203411 in the sidecar",
        "round_trip fail largest deviation 0.4031; coded",
        "proves What causality proves. cannot see What causality cannot see. precedent none",
        "verdict legal legal not legal",
        "Significance: one seed: nothing can be said.",
        "causality pass pass fail",
        "lineage not applicable reason dvc.lock is missing",
        "coded bytes 204,771; identical false",
        "evaluator slot, claims single_pass",
        "evaluator sliding, claims causal, score_first, single_pass",
    ):
        assert expected in page


def test_unavailable_codec_is_shown_with_its_reason(written):
    metrics = json.loads(written["metrics.json"])
    for text in (Page(written["index.html"]).text, " ".join(written["summary.md"].split())):
        assert f"not available: {NO_LRZIP}" in text or f"lrzip_9 is not available: {NO_LRZIP}" in text
    assert metrics["compress.lrzip_9.available"] is False and metrics["compress.lrzip_9.blob_bytes"] is None
    assert re.search(r"^lrzip_9,lrzip,byte_shuffle,,", written["tables/codecs.csv"], re.MULTILINE)
    assert re.search(r"^\| lrzip_9 .*- .*not available", written["summary.md"], re.MULTILINE)


def test_a_codec_folder_that_params_does_not_name_is_not_read(tree):
    tree.add_codec("removed", 1, "zlib", [], 1.0, 1.0)
    del tree.compress_runs["removed"]
    assert not any("removed" in text for text in tree.run().values())


def test_a_score_that_is_not_legal_is_never_the_result(written):
    metrics, page = json.loads(written["metrics.json"]), Page(written["index.html"]).text
    assert metrics["bits_per_byte.slot"] < metrics["score.claimed_bits_per_byte"] == 1.36118
    assert metrics["score.bits_per_byte"] == metrics["at_most_bits_per_byte.causal_slot"] == pytest.approx(1.37368)
    assert metrics["at_most_bits_per_byte.slot"] is None
    assert metrics["score.evaluator"] == "causal_slot"
    assert metrics["legal.slot"] is False and metrics["legal.causal_slot"] is True
    assert "score 1.3737 bits per byte at most, with 99 % confidence; the evaluator causal_slot, legal, claims 1.3612." in page
    assert "slot is lower, 1.2041, but not legal." in page
    assert "failed: causality, round_trip; does not claim causal, score_first" in page
    assert "<title>Caddie report: 1.3737 bits per byte</title>" in written["index.html"]
    assert "verdict valid causal_slot is legal and the artifact fits" in page


def test_lowest_certified_limit_is_the_result_and_not_the_lowest_claim(tree):
    """A looser audit of a better score certifies less."""
    tree.files["audit/causal_slot/certificate.json"]["at_most_bits_per_byte"] = 1.4
    metrics = json.loads(tree.run()["metrics.json"])
    assert (metrics["score.evaluator"], metrics["score.bits_per_byte"]) == ("sliding", pytest.approx(1.38155))
    assert metrics["score.claimed_bits_per_byte"] == 1.36905 > metrics["bits_per_byte.causal_slot"]


def test_top_card_says_in_a_line_which_evaluators_do_not_count(written):
    page = Page(written["index.html"]).text
    assert "verdict valid causal_slot is legal and the artifact fits; not counted: slot, which is not legal." in page
    assert "not counted: slot, which is not legal" in " ".join(written["summary.md"].split())


def test_names_stay_whole_on_a_telephone_and_what_a_check_proves_stands_beside_it_where_there_is_room(written):
    html, style = written["index.html"], (lib_page.FOLDER / "style.css").read_text()
    assert lib_page.breakable("model, causal_slot") == "model, causal_slot" and "<wbr>" in lib_page.breakable("a/path/of/many/parts.py")
    narrow = style[style.index("@media (max-width: 560px)") : style.index("@media print")]
    assert ".optional { display: none; }" in narrow and "white-space: normal" not in narrow
    checks = html[html.index('<table class="checks">') :].split("</table>")[0]
    assert checks.count('<td class="note optional">') == checks.count('<th scope="row">') - 1 > 3
    widths = [float(width) for width in re.findall(r'viewBox="0 0 ([\d.]+) [^>]*max-width: \d+px', html)]
    limits = [float(limit) for limit in re.findall(r"<svg[^>]*max-width: (\d+)px", html)]
    assert len(limits) == len(widths) > 5 and all(limit <= 1.2 * width for limit, width in zip(limits, widths, strict=True))


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
    assert len(page.ids) == len(set(page.ids)), "no two things share an id"
    assert not re.search(r"@import|url\((?!#)|<script|<iframe|<img", html)
    targets = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert targets and targets <= set(page.ids)
    assert set(re.findall(r"https?://[^\"\s]+", html)) == {"http://www.w3.org/2000/svg"}


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
        results._table(tree.root / "artifacts/quantize/tensors.csv", "quantize", results.QUANTIZED)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_page_with_few_averages_or_none_is_drawn(tree, kept):
    tree.averages = [["final", 4.9132, 0.0], ["posthoc_ema_0.9", 4.9718, 0.0]][:kept]
    page = tree.run()["index.html"]
    assert ("<h3>Averages of the weights</h3>" in page) == (kept > 0)
    assert ("No average was compared." in page) == (kept == 0) and "Goes on: posthoc_ema_0.98, which is not among" in page


def test_figures_take_their_colours_from_the_page(written):
    html = written["index.html"]
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 11 and "var(--ink, " in drawings[0]
    for drawing in drawings:
        fixed = set(re.findall(r'(?:fill|stroke)="(?!none|transparent|var\()([^"]+)"', drawing))
        assert not fixed, "a fixed colour cannot suit both schemes"
    for name in set(re.findall(r"var\(--([\w-]+)", html)):
        assert re.search(rf"--{name}: light-dark\(#\w+, #\w+\);", html), f"--{name} has a light and a dark value"
    assert "@media print { :root { color-scheme: light;" in html


def test_all_text_is_escaped(tree):
    tree.add_evaluator(HOSTILE, HOSTILE, 1.35, 10.0, failed=(), claims=("<i>claim",))
    tree.add_codec(HOSTILE, 4_100_000, HOSTILE, "<u>", 1.0, 1.0)
    tree.files["prepare/metrics.json"]["source"] = "<script>alert(1)</script>"
    certificate = tree.files[f"audit/{HOSTILE}/certificate.json"]
    certificate["checks"]["<h1>check"] = certificate["checks"]["causality"] | {"evidence": {"<p>": "</p></main>"}, "proves": "<i>"}
    written = tree.run()
    html = written["index.html"]
    page = Page(html)
    assert page.problems == [] and page.text.count(HOSTILE) > 6
    assert not re.search(r"<(b|i|u|script)>|<h1>check|</main>[^\n]", html)
    assert not re.search(r"<(b|i|u|script)>", "".join(text for name, text in written.items() if name.endswith(".svg")))


def test_value_of_a_template_is_escaped_and_a_missing_one_is_an_error(tmp_path):
    template = tmp_path / "x.html.j2"
    template.write_text("{% from 'parts.html.j2' import facts, pill %}<p>{{ name|breakable }}</p>{{ facts({name: name}) }}{{ pill(name) }}")
    page = Page(lib_page.render(template, name="<i>a_b/c&amp;"))
    assert page.problems == [] and page.text.count("<i>a") == 4 and "<i>a_b/c&amp;" in page.text
    assert "a_<wbr>long_<wbr>name/<wbr>of_<wbr>it" in lib_page.render(template, name="a_long_name/of_it")
    template.write_text("<p>{{ name }}</p>")
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        lib_page.render(template)


def test_equal_evidence_gives_equal_bytes(tree, written):
    assert tree.run() == written


def test_metrics_are_flat_and_in_stable_order(written):
    metrics = json.loads(written["metrics.json"])
    assert all(value is None or isinstance(value, str | int | float | bool) for value in metrics.values())
    groups = [key.partition(".")[0] for key in metrics]
    assert list(dict.fromkeys(groups)) == [
        "score",
        "bits_per_byte",
        "at_most_bits_per_byte",
        "legal",
        "verdict",
        "evaluate",
        "package",
        "compress",
        "text_compressors",
        "train",
        "text",
        "notices",
    ]
    assert [key for key in metrics if key.startswith("bits_per_byte.")] == [
        f"bits_per_byte.{name}" for name in (*results.STAGES, "sliding", "causal_slot", "slot")
    ]


def test_tables_for_plots_have_the_declared_columns(written):
    scores = list(csv.DictReader(written["tables/bits_per_byte.csv"].splitlines()))
    assert list(scores[0]) == ["name", "kind", "bits_per_byte", "before", "verdict"]
    before = {row["name"]: row["before"] for row in scores}
    assert (before["ema"], before["sliding"], before["slot"], before["xz_9e"]) == ("1.40311", "1.39674", "1.39674", "")
    assert {(row["name"], row["kind"], row["verdict"]) for row in scores} >= {
        ("ema", "stage", ""),
        ("sliding", "evaluator", "legal"),
        ("slot", "evaluator", "not legal"),
        ("xz_9e", "compressor", ""),
        ("xz_9e_after_train", "compressor", ""),
    }
    assert not any(row["name"] == "brotli_11_after_train" for row in scores), "an absent number is no row"
    codecs = list(csv.DictReader(written["tables/codecs.csv"].splitlines()))
    assert [row["name"] for row in codecs] == ["lzma_9", "brotli_11", "zstd_22", "lrzip_9"], "smallest first, what did not run last"
    assert {name for name in written if name.startswith("tables/")} == {
        f"tables/{name}.csv"
        for name in (
            "stages",
            "evaluators",
            "bits_per_byte",
            "compressors",
            "codecs",
            "groups",
            "quantized",
            "tensors",
            "bytes",
            "averages",
            "loss",
            "budget",
            "checks",
            "lineage",
            "splits",
            "environment",
            "hashes",
        )
    }


def test_every_column_that_dvc_draws_is_in_the_tables(written):
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    assert len(plots) >= 5
    for ((path, plot),) in (entry.items() for entry in plots):
        header = written[path.removeprefix("artifacts/report/")].splitlines()[0].split(",")
        assert {plot["x"], plot["y"]} <= set(header), path
        template = (ROOT / plot["template"]).read_text()
        made = set(re.findall(r'"as": "(\w+)"', template)) | {"rev"}
        assert set(re.findall(r'"field": "(\w+)"', template)) | set(re.findall(r"datum\.(\w+)", template)) <= {*header, *made}, path


def test_bytes_of_each_group_are_in_a_table_and_the_entropy_says_what_it_leaves_out(written):
    rows = list(csv.DictReader(written["tables/groups.csv"].splitlines()))
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
    assert "no evaluator is legal" in page and "nothing is certified" in page and "No codec ran." in page


@pytest.mark.parametrize(
    ("absent", "maker"),
    [
        ("compress/lrzip_9/metrics.json", "compress@lrzip_9"),
        ("evaluate/slot/metrics.json", "evaluate@slot"),
        ("audit/sliding/certificate.json", "audit@sliding"),
        ("plain_score/ema/metrics.json", "plain_score@ema"),
        ("package/metrics.json", "package"),
    ],
)
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


def test_a_check_without_what_it_proves_is_refused_by_name(tree):
    del tree.files["audit/slot/certificate.json"]["checks"]["lineage"]["proves"]
    with pytest.raises(ValueError, match=r"certificate.json: checks.lineage has no proves; .* dvc repro --force audit@slot"):
        tree.run()


def test_a_score_that_is_not_ruled_is_not_the_result_and_is_called_so(tree):
    tree.files["audit/causal_slot/certificate.json"] |= {"legal": False, "verdict": "not ruled"}
    written = tree.run()
    assert json.loads(written["metrics.json"])["score.evaluator"] == "sliding"
    page = Page(written["index.html"]).text
    assert "causal_slot is lower, 1.3612, but not ruled." in page
    assert "causal_slot: not ruled; 4 of 5 checks passed" in written["summary.md"]


def test_an_evaluator_run_may_not_have_the_name_of_a_stage(tree):
    tree.add_evaluator("ema", "sliding", 1.3, 1.0)
    with pytest.raises(ValueError, match=r"evaluate.runs.ema has the name of a stage"):
        tree.run()


def test_numbers_that_do_not_belong_together_are_announced(tree):
    assert json.loads(tree.run()["metrics.json"])["notices"] == 0
    for file in ("evaluate/sliding/metrics.json", "audit/sliding/certificate.json"):
        tree.files[file]["artifact_sha256"] = "0" * 64
    tree.files["evaluate/slot/metrics.json"]["raw_bytes"] = 10
    tree.files["plain_score/ema/metrics.json"]["text_sha256"] = "0" * 64
    tree.files["audit/slot/certificate.json"]["checks"]["causality"]["power"] = 0.99
    tree.bytes[0][3] += 1
    written = tree.run()
    assert json.loads(written["metrics.json"])["notices"] == 5
    for sentence in (
        "evaluate@sliding scored another artifact than the one packaged",
        "evaluate@slot counted 10 bytes",
        "the certificates say power of their checks, which this page does not show",
        "the table of bytes adds up to 4,239,005, the artifact has 4,239,004",
        "plain_score@ema was made from text that prepare does not have now",
    ):
        assert sentence in Page(written["index.html"]).text and sentence in written["summary.md"]


def test_what_quantizing_costs_is_not_said_where_it_was_not_measured(tree):
    tree.scored_after = ("train", "ema")
    written = tree.run()
    sentence = "What quantizing costs was not measured: plain_score.after must name quantize and a stage before it."
    assert sentence in written["summary.md"] and sentence in Page(written["index.html"]).text


def test_the_sections_fit_params_and_the_contract_names_every_file():
    tree = {"compress": {"runs": {"a": {}}}, "evaluate": {"runs": {"b": {}}}}
    tree |= {"plain_score": {"after": ["train", "quantize"], "window": 64, "device": "auto"}}
    assert params.section(tree, report.PlainScore).after == ("train", "quantize")
    assert params.section(tree, report.Compress).runs == {"a": {}}
    assert params.section(tree, report.Evaluate) == report.Evaluate({"b": {}})
    contract = stage.contract(report.main)
    assert contract.sections == ("plain_score", "compress", "evaluate") and len(contract.inputs) == 16
    assert contract.outputs == ("artifacts/report/index.html", "artifacts/report/summary.md", "artifacts/report/tables")
    assert contract.plots == ("artifacts/report/lineage.svg",)


def test_help_works_and_imports_no_torch():
    code = (
        "import sys; from stages.lib.node import command; import stages.report.__main__ as report\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules and 'dvc' not in sys.modules\n"
        "command.run(report.main, ['--help'])"
    )
    root = Path(report.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert "Show what the other stages measured" in done.stdout and "--loss-curve" in done.stdout


def test_tuning_counts_as_training(tree):
    tree.files["quantize/metrics.json"] = {"tuning": {"steps": 50, "seconds": 17.5}}
    written = tree.run()
    assert "| tuning " in written["summary.md"] and "50 steps" in written["summary.md"]
