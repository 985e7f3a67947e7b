"""Figures: one template each for the pages and for DVC, what each one shows, and that no text runs into another; the lineage graph."""

import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pandas as pd
import pytest
import vl_convert
import yaml

from stages.lib import page
from stages.report import figures, lineage, results
from tests.conftest import ROOT
from tests.report_tree import LOCK, Page, Tree, step

SVG = "{http://www.w3.org/2000/svg}"
TEMPLATES = sorted(path.stem for path in figures.FOLDER.glob("*.json"))
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STYLE = (page.FOLDER / "style.css").read_text()
COLOURS = {name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", STYLE)}


def large(tree: Tree) -> Tree:
    """The numbers of a run as large as the field's: eleven layers, many codecs of almost one size, many evaluators, long names."""
    tree.tensors = [
        ["embedding.weight", "embedding", "gptq", 4_194_304, 4.7, 0.0003, 58],
        ["unembedding.weight", "embedding", "gptq", 4_194_304, 4.8, 0.0004, 58],
    ]
    for layer in range(11):
        for i, kind in enumerate(("attention.key", "attention.output", "attention.query", "attention.value", "mlp.down", "mlp.up")):
            tree.tensors.append(
                [f"blocks.{layer}.{kind}.weight", "mlp", "gptq", 2**20, 3.3 + 0.02 * layer + 0.01 * i, 0.004 * 1.1 ** (i - layer), 14]
            )
    tree.tensors.append(["everything else", "other", "none", 4_000, 16.0, 0.0, 0])
    for i in range(8):
        tree.add_codec(f"another_codec_{i}", 4_198_900 + i, "lzma", [], 7.0 + i, 0.3)
    tree.add_evaluator("time_to_train_phased_with_a_long_name", "ttt_phased", 1.36, 590.0)
    tree.add_evaluator("streaming", "streaming", 1.3615, 640.0)
    tree.files["audit/streaming/certificate.json"] |= {"legal": False, "verdict": "not ruled"}
    tree.bytes += [["code", f"folder_{i}", f"caddie/f{i}.py", 1] for i in range(12)]
    return tree


def texts(svg: str) -> list[tuple[str, float, float, float, float]]:
    """Every level text of a figure with its box: left, right, top, bottom, in a font as wide as the one it was measured in."""
    out = []

    def visit(element, x: float, y: float) -> None:
        moved = re.search(r"translate\(([-\d.e]+), ?([-\d.e]+)\)", element.get("transform", ""))
        x, y = (x + float(moved[1]), y + float(moved[2])) if moved else (x, y)
        if element.tag == f"{SVG}text" and "rotate" not in element.get("transform", ""):
            text, size = "".join(element.itertext()), float(element.get("font-size", "11").removesuffix("px"))
            left, top = x + float(element.get("x", 0)), y + float(element.get("y", 0))
            width = size * sum(0.28 if letter in "fijltI.,:;-/() " else 0.8 if letter in "mwMW" else 0.56 for letter in text)
            left -= {"start": 0.0, "middle": 0.5, "end": 1.0}[element.get("text-anchor", "start")] * width
            out.append((text, left, left + width, top - 0.7 * size, top))
        for child in element:
            visit(child, x, y)

    visit(ElementTree.fromstring(svg), 0.0, 0.0)
    return out


def words(svg: str) -> list[str]:
    return [text for text, *_ in texts(svg)]


def tooltips(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}title")][1:]


@pytest.fixture(scope="module", params=["small", "large"])
def drawn(request, tmp_path_factory) -> dict[str, str]:
    """The drawings of a page by name."""
    tree = Tree(tmp_path_factory.mktemp("figures"))
    html = (large(tree) if request.param == "large" else tree).run()["index.html"]
    return {re.search(r'id="([a-z]+)-title"', svg)[1]: svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)}


def test_no_text_of_a_figure_runs_into_another_or_leaves_it(drawn):
    assert set(drawn) == {*TEMPLATES, "lineage"}
    for name, svg in drawn.items():
        width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
        assert 320 < width < 480, "text is as large in one figure as in another"
        boxes = [box for box in texts(svg) if box[0].strip()]
        assert len(boxes) > 3, name
        for i, (text, left, right, top, bottom) in enumerate(boxes):
            assert left > -8 and right < width + 8 and top > -2 and bottom < height + 1, (name, text)
            for other, other_left, other_right, other_top, other_bottom in boxes[i + 1 :]:
                across, down = min(right, other_right) - max(left, other_left), min(bottom, other_bottom) - max(top, other_top)
                assert across < 1 or down < 1, (name, text, other)


def test_figure_has_a_title_and_a_description_that_say_how_to_read_it(drawn):
    for name, svg in drawn.items():
        root = ElementTree.fromstring(svg)
        named = {element.get("id"): element.text for element in root if element.get("id")}
        assert root.get("role") == "img" and root.get("aria-labelledby").split() == list(named), name
        assert [len(text) > length for text, length in zip(named.values(), (15, 60), strict=True)] == [True, True], name


def test_every_figure_of_the_page_is_drawn_by_dvc_from_the_same_template_and_by_no_other():
    by_node = [entry for body in PIPELINE["stages"].values() for entry in body.get("do", body).get("plots", [])]
    named = [properties["template"] for entry in [*by_node, *PIPELINE["plots"]] if isinstance(entry, dict) for properties in entry.values()]
    ours = [template for template in named if "/" in template]
    assert sorted(ours) == [f"stages/report/figures/{name}.json" for name in TEMPLATES]
    assert set(named) - set(ours) == {"bar_horizontal"}, "of the script, which the page does not draw"


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_has_a_title_lines_that_fit_and_the_two_places_that_dvc_fills(name):
    text = (figures.FOLDER / f"{name}.json").read_text()
    template = json.loads(text)
    assert all(len(line) <= 70 for line in template["title"]["subtitle"]), "DVC does not break lines"
    assert template["data"] == {"values": "<DVC_METRIC_DATA>"}
    assert set(re.findall(r"<DVC_\w+>", text)) <= {"<DVC_METRIC_DATA>", "<DVC_METRIC_COLOR>"}
    assert template["usermeta"]["embedOptions"]["renderer"] == "svg", "a canvas knows no CSS variables"


@pytest.mark.dvc
def test_dvc_plots_show_draws_every_template_with_the_rows_of_the_run(tmp_path):
    Tree(tmp_path).run()
    (tmp_path / "dvc.lock").unlink()  # the stand-in of the tree is none that DVC would read
    for name in ("dvc.yaml", "params.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(figures.FOLDER, tmp_path / "stages/report/figures", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    done = subprocess.run(["dvc", "plots", "show", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [error["name"] for error in said["errors"]] == ["artifacts/script/bytes.csv"], "which the tree does not have"
    plots = [plot for entries in said["data"].values() for plot in entries]
    shown = {plot["content"]["title"]["text"]: plot["content"] for plot in plots if plot["type"] == "vega"}
    for name in TEMPLATES:
        content = shown[json.loads((figures.FOLDER / f"{name}.json").read_text())["title"]["text"]]
        assert len(content["data"]["values"]) >= 3 and "<DVC_METRIC" not in json.dumps(content), name
        assert "<text" in vl_convert.vegalite_to_svg(content, vl_version="5.8"), name
    loss = shown["Loss, with the schedule"]["data"]["values"]
    assert [row["step"] for row in loss[:2]] == ["1", "2"] and {row["rev"] for row in loss} == {"workspace"}
    assert said["data"]["artifacts/report/lineage.svg"][0]["type"] == "image"


def test_colours_outside_of_the_page_are_the_light_ones_of_the_style_sheet():
    for path in [*figures.FOLDER.glob("*.*")]:
        for name, colour in re.findall(r"var\(--([\w-]+), (#\w+)\)", path.read_text()):
            assert COLOURS[name][0] == colour, path


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(
            share * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
            for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read_in_both_schemes(scheme):
    colours = {name: pair[scheme] for name, pair in COLOURS.items()}
    for name in ("ink", "muted", "accent", "good", "bad", "other"):
        assert contrast(colours[name], colours["card"]) >= 4.5 and contrast(colours[name], colours["ground"]) >= 4.5, name
    assert contrast(colours["good"], colours["good-ground"]) >= 4.5 and contrast(colours["bad"], colours["bad-ground"]) >= 4.5
    assert contrast(colours["muted"], colours["plain"]) >= 4.5


def test_long_curve_is_drawn_with_few_points_and_keeps_its_range():
    loss = pd.DataFrame({"step": range(1, 20_001), "train_loss": 3.0, "learning_rate_scale": 1.0, "holdout_bits_per_byte": None})
    loss.loc[777, "train_loss"] = 9.0
    svg = figures.draw("loss", loss.iloc[:20_000]).svg
    area = max((path.get("d") for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if path.get("opacity") == "0.25"), key=len)
    assert area.count("L") < 300
    assert "8" in words(svg), "a spike of one step is inside of the axes"


def test_scores_have_a_mark_and_a_number_for_each_stage_and_evaluator(drawn):
    shown = words(drawn["scores"])
    for name, score in (("train", "1.4031"), ("quantize", "1.3967"), ("sliding", "1.3691"), ("slot", "1.2041")):
        assert name in shown and score in shown
    assert len(tooltips(drawn["scores"])) == len([text for text in shown if re.fullmatch(r"1\.\d{4}", text)]) >= 7
    marks = {element.findtext(f"{SVG}title", ""): element.get("d") for element in ElementTree.fromstring(drawn["scores"]).iter()}
    shapes = {name: next(mark for said, mark in marks.items() if f"name: {name};" in said) for name in ("sliding", "slot", "ema")}
    assert shapes["slot"] != shapes["sliding"] == shapes["ema"], "what is not legal has a mark of its own"


def test_heat_map_has_a_cell_for_each_tensor_and_says_which(tmp_path):
    tensors = pd.DataFrame(large(Tree(tmp_path)).tensors, columns=list(results.QUANTIZED))
    said = [f"{row.tensor}: {row.bits_per_weight:.4f} bits per weight, {row.method}" for row in tensors.itertuples()]
    svg = figures.draw("bits", tensors).svg
    assert sorted(tooltips(svg)) == sorted(said)
    assert [f"layer {i}" for i in range(11)] == [text for text in words(svg) if text.startswith("layer")]
    errors = tooltips(figures.draw("errors", tensors).svg)
    assert len(errors) == len(tensors) - 1 and "blocks.0.mlp.up.weight: 6.44e-3" in errors


def test_many_groups_of_bytes_are_put_together_and_nothing_is_lost():
    table = pd.DataFrame(
        [("code", f"group {i}", "x", 100 - i) for i in range(30)] + [("archive", "archive", "zip", 7)],
        columns=["part", "group", "name", "bytes"],
    )
    shown = words(figures.draw("bytes", table).svg)
    assert "code: 22 others" in shown and "archive: archive" in shown and "code: group 7" in shown and "code: group 8" not in shown
    sizes = [int(text.split()[0].replace(",", "")) for text in shown if text.endswith("%")]
    assert sum(sizes) == table["bytes"].sum() and len(sizes) == 10


def test_revisions_are_told_apart_in_every_figure_that_lays_them_over_each_other():
    rows = [("final", 1.0, "main"), ("ema", 1.1, "main"), ("final", 1.2, "<two>"), ("ema", 1.3, "<two>")]
    table = pd.DataFrame(rows, columns=["average", "holdout_bits_per_byte", "rev"])
    svg = figures.draw("averages", table).svg
    assert {"main", "<two>", "1.0000", "1.1000", "1.2000", "1.3000"} <= set(words(svg))
    assert figures.SERIES[0] in svg and figures.SERIES[1] in svg
    places = [top for text, _, _, top, _ in texts(svg) if re.fullmatch(r"1\.\d{4}", text)]
    assert len(set(places)) == 4, "no bar or number lies on another"
    curve = pd.DataFrame({"step": [1, 2], "train_loss": [3.1, 3.0], "learning_rate_scale": [1.0, 0.5], "holdout_bits_per_byte": [1.5, 1.4]})
    shown = words(figures.draw("loss", pd.concat([curve.assign(rev=name) for name in ("main", "<two>")])).svg)
    assert {"main", "<two>", "0.0", "1.0"} <= set(shown) and "2.0" not in shown, "factors are not added up"


def test_what_is_not_measured_is_not_drawn_as_nought():
    row = {"name": "xz", "bytes": 9, "bits_per_byte": 2.5, "bytes_after_train": None, "bits_per_byte_after_train": None, "seconds": 1.0}
    assert len(tooltips(figures.draw("compressors", pd.DataFrame([row])).svg)) == 1


def test_graph_has_what_ran_and_leaves_out_runs_that_params_dropped(tmp_path):
    tree = Tree(tmp_path)
    rows = tree.run()["tables/lineage.csv"].splitlines()
    assert "compress@removed" not in "".join(rows) and not any(row.startswith("report") for row in rows)
    table = {row.split(",")[0].strip('"'): row for row in rows[1:]}
    assert table["tokenize@val"] == "tokenize@val,False,reads it,artifacts/prepare/val"
    assert table["train"] == "train,True,,artifacts/tokenize/train"
    assert table["plain_score@train"].split(",")[1:3] == ["False", "reads it"]


def graph(**changes):
    return lineage.graph({name: entry for name, entry in (LOCK | changes).items() if name not in ("compress@removed", "report")})


def test_lineage_graph_has_every_node_and_stands_alone_as_a_file(tmp_path):
    tree = Tree(tmp_path)
    written = tree.run()
    svg, found = written["lineage.svg"], graph()
    assert svg.strip() in written["index.html"] and not re.search(r"var\(--[\w-]+\)", svg), "every colour has one for elsewhere"
    seen = {f"{box.name}: has {'' if box.touches_val else 'not '}seen val" for box in found.boxes}
    assert set(tooltips(svg)) == seen
    assert len(re.findall(r"<path", svg)) == len(found.links)


def test_nothing_above_an_honest_artifact_has_seen_val():
    found = graph()
    assert lineage.spoiled(found) == ""
    assert {box.name for box in found.boxes if box.touches_val} == {"tokenize@val", "plain_score@train", "evaluate@sliding"}
    assert {box.name for box in found.boxes if box.ships} == {"prepare", "tokenize@train", "train", "compress@lzma_9", "package"}


@pytest.mark.parametrize("path", ["tokenize/val", "prepare/val/documents.jsonl", "tokenize"])
def test_artifact_of_weights_that_were_trained_on_val_is_spoiled_and_said_to_be(tmp_path, path):
    spoiled = step("tokenize/train", path, outs=("train/model",))
    sentence = lineage.spoiled(graph(train=spoiled))
    assert "descends from the validation split, through" in sentence and "train" in sentence and "package" in sentence
    tree = Tree(tmp_path)
    tree.lock = LOCK | {"train": spoiled}
    written = tree.run()
    assert sentence in written["index.html"] and sentence in " ".join(written["summary.md"].split())


def test_link_that_a_longer_way_replaces_is_left_out():
    found = graph()
    names = [box.name for box in found.boxes]
    links = {(names[a], names[b]) for a, b in found.links}
    assert ("train", "package") not in links and ("compress@lzma_9", "package") in links and ("tokenize@val", "evaluate@sliding") in links
    assert ("train", "plain_score@train") in links
    assert all(lineage.ranks(found)[a] < lineage.ranks(found)[b] for a, b in found.links)


def test_without_a_lock_nothing_is_claimed_and_a_broken_one_is_refused(tmp_path):
    tree = Tree(tmp_path / "without")
    tree.lock = None
    written = tree.run()
    said = Page(written["index.html"]).text
    assert "nothing is known of its lineage" in said and "Nothing above the artifact" not in said
    assert "dvc.lock is missing" in written["lineage.svg"] and ElementTree.fromstring(written["lineage.svg"]).tag == f"{SVG}svg"
    (tmp_path / "dvc.lock").write_text("stages: [")
    with pytest.raises(ValueError, match=r"not a readable dvc\.lock"):
        lineage.load(tmp_path / "dvc.lock", scored_after=(), compress_runs=(), evaluate_runs=())
    with pytest.raises(ValueError, match="goes in a circle"):
        lineage.graph({"a": step("b", outs=("a",)), "b": step("a", outs=("b",))})
