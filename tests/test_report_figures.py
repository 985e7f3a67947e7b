"""Figures: scales and labels, what each one shows, and that no text runs into another; the lineage graph and what it calls spoiled."""

import math
import re
from xml.etree import ElementTree

import pandas as pd
import pytest

from stages.report import drawing, lineage
from stages.report.drawing import DARK, LIGHT, Drawing, Scale
from stages.report.figures import codecs, training, weights
from tests.report_tree import LOCK, Tree, step

SVG = "{http://www.w3.org/2000/svg}"


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
    """Every level text of a figure with its box: left, right, top, bottom, by the widest of the common fonts."""
    out = []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        if element.get("transform"):
            continue
        text, size, x, y = "".join(element.itertext()), float(element.get("font-size")), float(element.get("x")), float(element.get("y"))
        text = element[0].tail if len(element) else text
        width = 0.55 * size * len(text)
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[element.get("text-anchor", "start")] * width
        out.append((text, left, left + width, y - 0.75 * size, y))
    return out


@pytest.fixture(scope="module", params=["small", "large"])
def drawn(request, tmp_path_factory) -> dict[str, str]:
    tree = Tree(tmp_path_factory.mktemp("figures"))
    written = (large(tree) if request.param == "large" else tree).run()
    return {name: text for name, text in written.items() if name.endswith(".svg")}


def test_no_text_of_a_figure_runs_into_another_or_leaves_it(drawn):
    assert len(drawn) == 11
    for name, svg in drawn.items():
        height = float(re.search(r'viewBox="0 0 400 ([\d.]+)"', svg)[1])
        boxes = texts(svg)
        for i, (text, left, right, top, bottom) in enumerate(boxes):
            assert left > -3 and right < drawing.WIDTH + 3 and top > -2 and bottom < height + 1, (name, text)
            for other, other_left, other_right, other_top, other_bottom in boxes[i + 1 :]:
                across, down = min(right, other_right) - max(left, other_left), min(bottom, other_bottom) - max(top, other_top)
                assert across < 1 or down < 1, (name, text, other)


def test_a_figure_has_a_text_alternative_and_stands_alone_as_a_file(drawn):
    for name, svg in drawn.items():
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and len(root.get("aria-label")) > 30, name
        assert "var(" not in svg and set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= set(LIGHT.values())


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


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_read_in_both_schemes(colours):
    for name in ("ink", "muted", "accent", "good", "bad", "other"):
        assert contrast(colours[name], colours["card"]) >= 4.5 and contrast(colours[name], colours["ground"]) >= 4.5, name
    assert contrast(colours["good"], colours["good-ground"]) >= 4.5 and contrast(colours["bad"], colours["bad-ground"]) >= 4.5
    assert contrast(colours["muted"], colours["plain"]) >= 4.5


def test_ticks_are_round_and_inside():
    assert Scale(0.0, 1.0, 0, 1).ticks(5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(1.7213, 1.7542, 0, 1).ticks(5) == pytest.approx([1.73, 1.74, 1.75])
    assert Scale(0.002, 300.0, 0, 1, True).ticks(5)[0] == 0.01
    assert Scale(40.0, 120.0, 0, 1, True).ticks(5) == [50.0, 100.0]
    for low, high in ((1e-9, 2e-9), (0.0, 16e6), (5.0, 5.0001), (-3.0, 7.0)):
        ticks = Scale(low, high, 0, 1).ticks(5)
        assert 2 <= len(ticks) <= 7 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_a_scale_puts_its_ends_at_the_ends():
    assert [Scale(2.0, 4.0, 100, 0)(value) for value in (2, 3, 4)] == [100, 50, 0]
    assert [Scale(1.0, 100.0, 0, 10, True)(value) for value in (1, 10, 100)] == pytest.approx([0, 5, 10])
    assert Scale(1.0, 100.0, 0, 10, True)(0.0) == 0, "what is off a logarithmic scale is at its end"
    one_value = drawing.around([3.0], 0, 10)
    assert one_value.low < 3.0 < one_value.high and drawing.around([], 0, 10).low < drawing.around([], 0, 10).high


def test_labels_are_moved_apart_and_no_further_than_needed():
    assert drawing.spread([10, 30, 50], gap=10, low=0, high=100) == [10, 30, 50]
    assert drawing.spread([10, 11, 12], gap=10, low=0, high=100) == [10, 20, 30]
    assert drawing.spread([95, 96, 97], gap=10, low=0, high=100) == [80, 90, 100]


def test_a_line_is_interrupted_where_a_value_is_missing():
    figure = Drawing("x", 10)
    figure.line([(0, 1), (1, math.nan), (2, 3), (3, 4)])
    assert 'd="M0 1M2 3L3 4"' in figure.parts[0]


def test_long_curve_is_drawn_with_few_points_and_keeps_its_range():
    loss = pd.DataFrame(
        {"step": range(1, 20_001), "train_loss": [3.0] * 20_000, "learning_rate_scale": 1.0, "holdout_bits_per_byte": math.nan}
    )
    loss.loc[777, "train_loss"] = 9.0
    figure = training.loss_curve(loss)
    assert len(figure.svg) < 20_000 and "not measured in this run" in figure.svg
    assert "8" in [text for text, *_ in texts(figure.svg)], "a spike of one step is inside of the axes"


def test_heat_map_has_a_cell_for_each_tensor_and_says_which(tmp_path):
    tensors = pd.DataFrame(
        large(Tree(tmp_path)).tensors, columns=["tensor", "group", "method", "weights", "bits_per_weight", "relative_error", "max_code"]
    )
    figure = weights.bits(tensors)
    for row in tensors.itertuples():
        assert (
            f"<title>{row.tensor}: {row.bits_per_weight:.4f} bits per weight, {row.weights:,} weights, {row.method}</title>" in figure.svg
        )
    assert "66 matrices in 11 layers and 3 outside of them; bits per weight from 3.30 to 4.80" in figure.label
    assert "largest is 6.44e-03 in blocks.0.mlp.up.weight" in weights.errors(tensors).label


def test_many_groups_of_bytes_are_put_together_and_nothing_is_lost():
    table = pd.DataFrame(
        [("code", f"group {i}", "x", 100 - i) for i in range(30)] + [("archive", "archive", "zip", 7)],
        columns=["part", "group", "name", "bytes"],
    )
    figure = codecs.anatomy(table)
    shown = {text: size for text, size in zip(*[iter([text for text, *_ in texts(figure.svg)][-28:])] * 2, strict=True)}
    total = sum(100 - i for i in range(30)) + 7
    assert f"Together {total:,} bytes" in figure.caption and "19 others" in shown and "code" in shown
    sizes = [int(size.split()[0].replace(",", "")) for name, size in shown.items() if name not in ("code", "archive")]
    assert sum(sizes) == total - 7


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
    page = tree.run()["index.html"]
    assert "nothing is known of its lineage" in page and "Nothing above the artifact" not in page
    (tmp_path / "dvc.lock").write_text("stages: [")
    with pytest.raises(ValueError, match=r"not a readable dvc\.lock"):
        lineage.load(tmp_path / "dvc.lock", compress_runs=(), evaluate_runs=())
    with pytest.raises(ValueError, match="goes in a circle"):
        lineage.graph({"a": step("b", outs=("a",)), "b": step("a", outs=("b",))})
