"""Runs of params.yaml: what they make of a model, what is refused, and what moves without being stored."""

import shutil

import numpy as np
import pytest
import torch
from dvc.utils.hydra import apply_overrides

from stages.lib.blob import hidden_order, quantized_model
from stages.lib.blob.grouping import Run
from stages.lib.node import params
from stages.recipes import catalog
from stages.runtime.blob import container
from stages.runtime.blob.container import Model
from stages.runtime.weights import dequantize
from tests.conftest import ROOT
from tests.golden import make
from tests.test_stacks import documents, random_model, small

RAW = {"codec": "raw", "filters": [], "options": {}}
TREE = params.read(ROOT / "params.yaml")


def run(values):
    return Run.from_params(values, "compress.runs.mine")


def grouped(**groups):
    return {"filters": [], "groups": groups}


@pytest.mark.parametrize("name", TREE["compress"]["runs"])
def test_every_run_of_params_puts_every_tensor_into_exactly_one_section(name):
    settings = params.section(TREE, Run, variant=name)
    codings = settings.codings(make.model())
    named = [tensor for coding in codings.values() for tensor in coding.tensors]
    assert len(named) == len(set(named)) and set(make.model().tensors) <= set(named)
    assert all(tensor.endswith(".order") for tensor in set(named) - set(make.model().tensors))


def test_published_container_has_the_published_groups():
    """Seven groups of one role each, by layer; the embedding, query and up sorted, all transposed; all else beside them."""
    tensors = {
        f"blocks.{layer}.{part}.weight.codes": np.zeros((4, 4), np.int8)
        for layer in (10, 2, 0)
        for part in ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down")
    }
    tensors |= {
        "embedding.weight.codes": np.zeros((5, 4), np.int8),
        "sparse_gate.weight.codes": np.zeros((2, 4), np.int8),
        "embedding.weight.scales": np.ones(5, np.float16),
    }
    tree = catalog.applied(catalog.values("pr1855", TREE), TREE)
    codings = params.section(tree, Run, variant="pr1855_lrzip").codings(Model(tensors, {}, {}))
    assert list(codings) == ["embedding", "query", "key", "value", "output", "up", "down", "orders", "rest"]
    assert codings["query"].tensors == tuple(f"blocks.{layer}.attention.query.weight.codes" for layer in (0, 2, 10))
    is_sorted = {group for group, coding in codings.items() if ("sort_rows", {}) in coding.filters}
    assert is_sorted == {"embedding", "query", "up"}
    lrzip = {group for group, coding in codings.items() if coding.how == "codecs/lrzip"}
    assert lrzip == set(codings) - {"orders", "rest"} and all(("transpose", {}) in codings[group].filters for group in lrzip)
    assert codings["orders"].tensors[:2] == ("embedding.weight.codes.order", "blocks.0.attention.query.weight.codes.order")
    assert set(codings["rest"].tensors) == {"embedding.weight.scales", "sparse_gate.weight.codes"}


def test_order_of_groups_does_not_depend_on_the_order_of_keys():
    one, other = grouped(codes=RAW, scales=RAW, rest=RAW), grouped(rest=RAW, scales=RAW, codes=RAW)
    assert list(run(one).codings(make.model())) == list(run(other).codings(make.model())) == ["codes", "scales", "rest"]


def test_group_that_is_empty_makes_no_section():
    model = Model({"gain": np.ones(3, np.float16)}, {}, {})
    codings = run(grouped(embedding=RAW, codes={"coder": "ans", "filters": [], "options": {}}, rest=RAW)).codings(model)
    assert list(codings) == ["rest"] and quantized_model.same(container.unpack(container.pack(model, list(codings.values()))), model)


@pytest.mark.parametrize(
    "values, sentence",
    [
        (3, "takes a mapping"),
        ({"codec": "brotli", "filters": []}, ".options is missing"),
        (RAW | {"filter": 1}, "did you mean 'filters'"),
        (RAW | {"codec": "brotlli"}, r".codec: no file brotlli.py .* did you mean 'brotli'"),
        (RAW | {"filters": "delta"}, "takes a list"),
        (RAW | {"filters": ["dleta"]}, r".filters: no file dleta.py .* did you mean 'delta'"),
        (RAW | {"options": []}, "takes a mapping"),
        (RAW | {"options": {"level": 1}}, ".options.level"),
        (RAW | {"filters": ["delta"]}, ".filters: delta takes the options stride, not none"),
        (RAW | {"filters": [{"delta": {"stride": 0}}]}, "stride of 1..65535, not 0"),
        (RAW | {"filters": [{"transpose": {"a": 1}}]}, "transpose takes the options none, not a"),
        (RAW | {"filters": [{"a": {}, "b": {}}]}, "it takes names"),
        (RAW | {"filters": [{"delta": {"stride": 1}}, "transpose"]}, "arrays come before"),
        (grouped(codes=RAW), "at least the group rest"),
        (grouped(rset=RAW, rest=RAW), "did you mean 'rest'"),
        (grouped(rest={"coder": "ans", "filters": [], "options": {}}), "coder takes codes alone"),
        (grouped(codes={"coder": "ans", "filters": ["transpose"], "options": {}}, rest=RAW), r"it takes \[\]"),
        (grouped(rest=RAW | {"coder": "ans"}), "rest.codec is not a known"),
        (grouped(rest=RAW) | {"filters": ["transpose"]}, "belong into a group"),
        (grouped(rest=RAW | {"filters": [{"hidden_order": {"by": "norm"}}]}), "beside groups"),
        (grouped(rest=RAW) | {"codec": "raw"}, ".codec is not a known parameter"),
    ],
    ids=str,
)
def test_run_that_is_wrong_is_one_sentence_that_names_the_path(values, sentence):
    with pytest.raises(ValueError, match=f"params.yaml: compress.runs.mine.*{sentence}"):
        run(values)


def test_hidden_order_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match=r"norm \| nearest"):
        run(RAW | {"filters": [{"hidden_order": {"by": "size"}}]}).reordered(make.model())


@pytest.mark.parametrize(
    "values",
    [
        "{codec: zlib, filters: [{byte_shuffle: {stride: 2}}, {delta: {stride: 1}}], options: {level: 9}}",
        "{filters: [{hidden_order: {by: norm}}], groups: {codes: {coder: ans, filters: [], options: {}}, "
        "up: {codec: zlib, filters: [sort_rows, transpose], options: {level: 9}}, rest: {codec: raw, filters: [], options: {}}}}",
    ],
)
def test_run_that_is_added_on_the_command_line_is_read(values, tmp_path):
    """dvc exp run -S '+compress.runs.mine={...}', through DVC's own reading of it."""
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    apply_overrides(tmp_path / "params.yaml", [f"+compress.runs.mine={values}"])
    settings = params.section(params.read(tmp_path / "params.yaml"), Run, variant="mine")
    model = settings.reordered(make.model())
    assert quantized_model.same(container.unpack(container.pack(model, list(settings.codings(model).values()))), model)


# hidden order


def quantized(net, *, low_rank=False):
    """A model of random codes in the shapes of a network, in the stored form."""
    generator = np.random.default_rng(3)
    tensors, schemes = {}, {}
    for name, weight in net.named_parameters():
        if weight.ndim != 2:
            tensors[name] = weight.detach().half().numpy()
            continue
        rows, columns = weight.shape
        tensors |= {
            f"{name}.codes": generator.integers(-31, 32, (rows, columns)).astype(np.int8),
            f"{name}.scales": (generator.random(rows) / 100).astype(np.float16),
            f"{name}.row_steps": generator.integers(-8, 9, rows).astype(np.int8),
            f"{name}.column_steps": generator.integers(-8, 9, columns).astype(np.int8),
        }
        schemes[name] = {"gain": True}
        if low_rank:
            tensors |= {
                f"{name}.left": generator.integers(-8, 9, (rows, 2)).astype(np.int8),
                f"{name}.left_scales": (generator.random(rows) / 100).astype(np.float16),
                f"{name}.right": generator.integers(-8, 9, (2, columns)).astype(np.int8),
                f"{name}.right_scales": generator.random(2).astype(np.float16),
            }
    return Model(tensors, net.config.to_dict(), schemes)


def build(model):
    return dequantize.build(dequantize.weights(model.tensors, model.schemes), model.config)


@pytest.mark.parametrize("by", hidden_order.BY)
@pytest.mark.parametrize("low_rank", [False, True])
def test_hidden_units_in_another_order_are_the_same_network(by, low_rank):
    model, (x, _) = quantized(random_model(small("1493")), low_rank=low_rank), documents((30,))
    moved = hidden_order.apply(model, by=by)
    assert len(hidden_order.pairs(model)) == model.config["num_layers"]
    for up, _ in hidden_order.pairs(model):
        assert not np.array_equal(moved.tensors[up + ".codes"], model.tensors[up + ".codes"])
        if by == "norm":
            scales = moved.tensors[up + ".scales"].astype(float) * 2.0 ** (moved.tensors[up + ".row_steps"] / 8)
            assert (np.log2(scales[1:] / scales[:-1]) > -0.26).all()
    with torch.no_grad():
        assert torch.allclose(build(moved)(x), build(model)(x), atol=1e-4)


@pytest.mark.parametrize("change", ["trellis", "rotation", "groups", "untied"])
def test_layer_whose_order_is_not_free_is_left_alone(change):
    net = random_model(small("1493"))
    model = quantized(net)
    up, down = hidden_order.pairs(model)[0]
    tensors, schemes = dict(model.tensors), dict(model.schemes)
    if change == "trellis":
        schemes[up] = {"trellis": 8}
    elif change == "rotation":
        schemes[down] = {"rotation": {"block": 8, "seed": 1}}
    elif change == "groups":
        tensors[down + ".scales"] = np.ones((len(tensors[down + ".scales"]), 2), np.float16)
    else:
        tensors["untied_mlp.down.0.weight.codes"] = tensors[down + ".codes"]
    assert (up, down) not in hidden_order.pairs(Model(tensors, model.config, schemes))


def test_order_of_a_trellis_of_the_down_projection_is_free():
    """Its state runs down the rows, which are outputs; columns move whole."""
    model = quantized(random_model(small("1493")))
    down = hidden_order.pairs(model)[0][1]
    model.schemes[down] = {"trellis": 8}
    assert down in {pair[1] for pair in hidden_order.pairs(model)}
    moved, (x, _) = hidden_order.apply(model, by="norm"), documents((30,))
    with torch.no_grad():
        assert torch.allclose(build(moved)(x), build(model)(x), atol=1e-4)
