"""params.yaml: every mistake is one sentence that names the path and the way out."""

import copy
import dataclasses
import importlib
import inspect
import math
import re
import types
import typing
from typing import ClassVar, Literal

import pytest
import yaml
from annotated_types import Interval
from dvc.utils.hydra import apply_overrides

from stages.lib.node import params
from stages.lib.quant.settings import EntropySettings
from stages.recipes import __main__ as recipes
from stages.recipes import catalog
from stages.runtime.weights import dequantize
from stages.train.optim import muon, orthogonalise
from tests.conftest import ROOT, run_node, set_leaf

TREE = params.read(ROOT / "params.yaml")


@dataclasses.dataclass(frozen=True)
class Schema:
    SECTION: ClassVar[str] = "train"
    steps: int
    rate: float
    mode: Literal["a", "b"]
    seconds: float | None
    decays: tuple[float, ...]
    options: dict
    share: params.Share
    clip: params.Positive | tuple[params.Positive, ...]
    bytes: params.AtLeastOne | Literal["auto"] | None


GOOD = {
    "steps": 3,
    "rate": 1,
    "mode": "a",
    "seconds": None,
    "decays": [0.5, 1],
    "options": {"b": 1, "a": [2.0, None]},
    "share": 0.5,
    "clip": 2,
    "bytes": "auto",
}


def test_section_becomes_a_frozen_object_with_the_types_of_its_fields():
    built = params.section({"train": GOOD}, Schema)
    assert built == Schema(3, 1.0, "a", None, (0.5, 1.0), {"b": 1, "a": [2.0, None]}, 0.5, 2.0, "auto")
    assert isinstance(built.rate, float) and isinstance(built.clip, float) and list(built.options) == ["b", "a"]
    other = params.section({"train": GOOD | {"clip": [1, 2.5], "bytes": 10**12, "seconds": 3}}, Schema)
    assert other.clip == (1.0, 2.5) and other.bytes == 10**12 and isinstance(other.seconds, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.steps = 4
    assert params.section({"train": GOOD | {"rate": "1e-3"}}, Schema).rate == 0.001  # as DVC writes it, and YAML 1.1 takes for text


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"stepz": 1}, r"train\.stepz is not a known parameter \(did you mean 'steps'\?\)"),
        ({"steps": "3"}, r"train\.steps is '3'; it takes int"),
        ({"steps": 3.5}, r"train\.steps is 3\.5"),
        ({"steps": True}, "takes int"),
        ({"rate": "fast"}, r"train\.rate is 'fast'; it takes float"),
        ({"mode": "c"}, r"train\.mode is 'c'; it takes a \| b"),
        ({"seconds": "long"}, r"train\.seconds"),
        ({"decays": 0.5}, "takes a list"),
        ({"decays": ["x"]}, r"train\.decays\[0\]"),
        ({"options": []}, "takes a mapping"),
        ({"steps": None}, "takes int"),
        ({"seconds": "long"}, r"is 'long'; it takes float \| null$"),
        ({"decays": [0.5, [1]]}, r"train\.decays\[1\] is \[1\]; it takes float"),
        ({"rate": float("nan")}, "train.rate is nan; it takes a finite number"),
        ({"rate": True}, "train.rate is True; it takes float"),
        ({"share": "x"}, "train.share is 'x'; it takes float$"),
        ({"share": 1.5}, r"train.share is 1\.5; it takes 0 to 1$"),
        ({"share": float("inf")}, "train.share is inf; it takes 0 to 1$"),
        ({"clip": "x"}, r"train.clip is 'x'; it takes float \| a list$"),
        ({"clip": -1}, r"train.clip is -1; it takes more than 0 \| a list$"),
        ({"clip": [1, "x"]}, r"train.clip\[1\] is 'x'; it takes float$"),
        ({"clip": [1, 0]}, r"train.clip\[1\] is 0; it takes more than 0$"),
        ({"bytes": "all"}, r"is 'all'; it takes int \| auto \| null$"),
        ({"bytes": 0}, r"train.bytes is 0; it takes 1 or more \| auto \| null$"),
        ({"bytes": 1.5}, r"it takes int \| auto \| null$"),
        ({"steps": "x", "stepz": 1}, "train.stepz is not a known"),
    ],
)
def test_wrong_value_names_its_path_and_what_it_takes(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        params.section({"train": GOOD | change}, Schema)


@pytest.mark.parametrize(
    "bounds, words",
    [
        ({"ge": 1}, "1 or more"),
        ({"gt": 0}, "more than 0"),
        ({"ge": 2, "le": 8}, "2 to 8"),
        ({"ge": 0, "lt": 1}, "0 or more, below 1"),
        ({"gt": 0, "lt": 1000}, "more than 0, below 1000"),
        ({"gt": 0, "le": 16}, "more than 0, up to 16"),
        ({"le": 9}, "up to 9"),
    ],
)
def test_range_is_said_in_words(bounds, words):
    section = dataclasses.make_dataclass("Section", [("SECTION", ClassVar[str], "ema"), ("x", typing.Annotated[int, Interval(**bounds)])])
    outside = next(
        value
        for value in (-1, 0, 10**6)
        if not all(
            {"ge": value >= bound, "gt": value > bound, "le": value <= bound, "lt": value < bound}[name] for name, bound in bounds.items()
        )
    )
    with pytest.raises(ValueError, match=f"^params.yaml: ema.x is {outside}; it takes {words}$"):
        params.section({"ema": {"x": outside}}, section)


def test_sentence_of_a_section_itself_is_passed_on():
    @dataclasses.dataclass(frozen=True)
    class Section:
        SECTION: ClassVar[str] = "ema"
        low: int
        high: int

        def __post_init__(self):
            params.require(self.low < self.high, f"ema.low is {self.low}; it takes less than ema.high {self.high}")

    assert params.section({"ema": {"low": 1, "high": 2}}, Section).high == 2
    with pytest.raises(ValueError, match=r"^ema\.low is 3; it takes less than ema\.high 2$"):
        params.section({"ema": {"low": 3, "high": 2}}, Section)


def test_missing_key_names_its_path():
    with pytest.raises(ValueError, match=r"train\.steps is missing"):
        params.section({"train": {k: v for k, v in GOOD.items() if k != "steps"}}, Schema)


# every parameter of the real params.yaml


def _schemas() -> dict[str, type]:
    """The dataclass that a stage reads from each section of params.yaml as it stands."""
    found = {}
    for path in sorted(ROOT.glob("stages/*/__main__.py")):
        for parameter in inspect.signature(importlib.import_module(f"stages.{path.parent.name}.__main__").main).parameters.values():
            schema = parameter.annotation
            if hasattr(schema, "SECTION") and "{" not in schema.SECTION and not hasattr(schema, "from_params"):
                found.setdefault(schema.SECTION, schema)
    return found


SCHEMAS = _schemas()


def mappings(schema: type, path: str):
    """(path, dataclass) of a section and of the mappings in it."""
    yield path, schema
    for name, hint in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint):
            yield from mappings(hint, f"{path}.{name}")


def leaves(section: str):
    """(path, annotation) of each parameter of a section."""
    for path, schema in mappings(SCHEMAS[section], section):
        hints = typing.get_type_hints(schema, include_extras=True)
        yield from (
            (f"{path}.{field.name}", hints[field.name])
            for field in dataclasses.fields(schema)
            if not dataclasses.is_dataclass(hints[field.name])
        )


def said(section: str, path: str, value) -> str | None:
    """The sentence about a parameter that has this value, None where it may have it."""
    tree = copy.deepcopy(TREE)
    set_leaf(tree, path, value)
    try:
        params.section(tree, SCHEMAS[section])
    except ValueError as error:
        assert error.__suppress_context__, "pydantic's own words would stand above the sentence"
        return str(error)


WRONG = {
    bool: [1, "yes", None],
    int: [2.5, True, "x", [{}]],
    float: [True, "x", {}],
    str: [3, True, None, ["x"]],
    list: ["x", True, {"a": 1}],
    dict: [3, "x", []],
    types.NoneType: ["x", True, {"a": 1}],
}


@pytest.mark.parametrize("section", SCHEMAS)
def test_value_of_a_wrong_kind_is_one_sentence_that_names_its_parameter(section):
    for path, _ in leaves(section):
        for value in WRONG[type(params.lookup(TREE, path))]:
            if path.startswith("train.adopt.") and value == "x":
                continue  # null, or text
            sentence = said(section, path, value)
            assert sentence is not None, f"{path} takes {value!r}"
            assert sentence.startswith(f"params.yaml: {path} is {value!r}; it takes ") and "\n" not in sentence, sentence


def ranges(hint, wrap=lambda value: value):
    """(Interval, function that makes a parameter's value of a number) of the ranges in an annotation."""
    if typing.get_origin(hint) is typing.Annotated and isinstance(typing.get_args(hint)[1], Interval):
        yield typing.get_args(hint)[0], typing.get_args(hint)[1], wrap
    elif typing.get_origin(hint) in (tuple, typing.Union, types.UnionType):
        for arm in typing.get_args(hint):
            yield from ranges(arm, (lambda value: wrap([value])) if typing.get_origin(hint) is tuple else wrap)


RANGED = {section: [(path, *found) for path, hint in leaves(section) for found in ranges(hint)] for section in SCHEMAS}


@pytest.mark.parametrize("section", [section for section, found in RANGED.items() if found])
def test_value_out_of_its_range_is_one_sentence_that_names_its_parameter(section):
    for path, kind, bounds, wrap in RANGED[section]:
        below = bounds.gt if bounds.ge is None else bounds.ge - 1
        above = bounds.lt if bounds.le is None else bounds.le + 1
        for value in (below, math.inf if above is None and kind is float else above):
            if value is None:  # a whole number without an upper bound
                continue
            sentence = said(section, path, wrap(value))
            assert sentence is not None, f"{path} takes {value}"
            where = f"{path}[0]" if isinstance(wrap(value), list) else path
            assert sentence.startswith(f"params.yaml: {where} is ") and "; it takes " in sentence and "\n" not in sentence, sentence
        for value in (bounds.ge, bounds.le):
            assert value is None or said(section, path, wrap(value)) is None, f"{path} does not take {value}"


@pytest.mark.parametrize("section", SCHEMAS)
def test_key_that_is_missing_or_misspelled_is_named_with_its_path(section):
    for path, schema in mappings(SCHEMAS[section], section):
        name = dataclasses.fields(schema)[0].name
        values = params.lookup(TREE, path)
        without = {key: value for key, value in values.items() if key != name}
        misspelled = without | {f"{name}x": values[name]}
        for changed, sentence in (
            (without, f"params.yaml: {path}.{name} is missing"),
            (misspelled, f"params.yaml: {path}.{name}x is not a known parameter (did you mean {name!r}?)"),
        ):
            tree = copy.deepcopy(TREE)
            if path == section and "." not in section:
                tree[section] = changed
            else:
                set_leaf(tree, path, changed)
            with pytest.raises(ValueError, match="^" + re.escape(sentence)):
                params.section(tree, SCHEMAS[section])


def test_choices_of_parameters_are_those_of_the_code():
    hints = typing.get_type_hints(muon.Options)
    assert typing.get_args(hints["coefficients"]) == tuple(orthogonalise.COEFFICIENTS)
    assert typing.get_args(hints["bound"]) == orthogonalise.BOUNDS
    assert set(typing.get_args(typing.get_type_hints(EntropySettings)["trellis"])) == set(dequantize.NOISE)


# the file


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("trian: {}", "unknown section 'trian' \\(did you mean 'train'"),
        ("train: [", "not valid YAML"),
        ("- a", "mapping of sections"),
        ("train: {a: 1\nb", "line 2"),
    ],
)
def test_file_that_cannot_be_used_is_a_sentence(tmp_path, text, sentence):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        params.read(tmp_path / "params.yaml")


def test_number_in_the_form_that_dvc_writes_is_a_number(tmp_path):
    """DVC writes 1e-08 after `dvc exp run -S train.adamw.epsilon=1e-8`; to YAML 1.1 that is text."""
    (tmp_path / "params.yaml").write_text("train: {a: 1e-08, b: -2E+3, c: 1.5e-3, d: e5, e: 1e5x}")
    assert params.read(tmp_path / "params.yaml")["train"] == {"a": 1e-8, "b": -2000.0, "c": 0.0015, "d": "e5", "e": "1e5x"}


def test_missing_file_says_how_to_restore_it(tmp_path):
    with pytest.raises(ValueError, match="git checkout"):
        params.read(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", catalog.names())
def test_every_recipe_sets_only_what_exists(name):
    assert catalog.flags(catalog.values(name, params.read(ROOT / "params.yaml")))


def test_unknown_recipe_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        recipes.main(["tinny"])
    assert "there are caddie, naive, pr1019" in capsys.readouterr().err


def test_applied_recipe_is_in_params_with_the_comments_kept(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    recipes.main(["tiny", "--apply"])
    text, tree = (tmp_path / "params.yaml").read_text(), params.read(tmp_path / "params.yaml")
    assert tree["model"]["width"] == 64 and tree["evaluate"]["runs"]["slot"]["options"]["window"] == 64
    assert tree["quantize"] == params.read(ROOT / "params.yaml")["quantize"]
    assert text.count("#") == (ROOT / "params.yaml").read_text().count("#")


def test_recipe_replaces_a_mapping_as_a_whole(tmp_path, monkeypatch):
    """Through DVC's own reading of -S: what was there before is gone, whichever way the recipe is applied."""
    wanted = {
        "xsa": {"last_layers": 2},
        "residual_mix": {},
        "value_residual": {"form": "add"},
        "value_embedding": {"layers": [0, 1], "width": 8, "scale": 0.1},
        "unet_skips": {"gated": True, "sets": 1},
    }
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"model.num_layers": 3, "model.features": wanted}))
    before = (ROOT / "params.yaml").read_text().replace("    smear_gate:", "    dtg: {}\n    smear_gate:")
    assert "    dtg: {}\n" in before
    for name in ("flags", "applied"):
        (tmp_path / f"{name}.params.yaml").write_text(before)
    values = catalog.values("mine", params.read(ROOT / "params.yaml"))
    flags = catalog.flags(values)
    apply_overrides(tmp_path / "flags.params.yaml", [flag for flag in flags if flag != "-S"])
    catalog.apply(values, tmp_path / "applied.params.yaml")
    for name in ("flags", "applied"):
        model = params.read(tmp_path / f"{name}.params.yaml")["model"]
        assert model["features"] == wanted and model["num_layers"] == 3


def test_recipe_command_prints_flags_for_a_shell(capsys):
    recipes.main(["tiny"])
    assert "-S model.width=64" in capsys.readouterr().out


@pytest.mark.parametrize(
    "leaves, node, sentence",
    [
        ({"package.cap_bytes": 0}, ("package",), "package.cap_bytes is 0; it takes 1 or more"),
        ({"package.evaluator": "slott"}, ("package",), "is not among package.evaluators"),
        ({"package.evaluators": ["sliding", "nope"]}, ("package",), "no file nope.py"),
        ({"ema.average": "ema_0.5"}, ("ema",), "the training has final, ema_0.95"),
        ({"quantize.groups.mlp.bits": 9}, ("quantize",), "quantize.groups.mlp.bits is 9; it takes 2 to 8"),
        ({"quantize.gptq.block": 0}, ("quantize",), "quantize.gptq.block"),
        ({"calibrate.sequences": 0}, ("calibrate",), "calibrate.sequences is 0; it takes 1 or more"),
        ({"model.num_heads": 3}, ("train",), "divisible by num_heads"),
        ({"train.batch_tokens": 1000}, ("train",), "multiple of sequence_length"),
        ({"train.steps": 0}, ("train",), "train.steps is 0; it takes 1 or more"),
        ({"train.holdout_every": 0}, ("train",), "train.holdout_every"),
        ({"train.processes": 3}, ("train",), "do not divide over 3 processes"),
        ({"train.averages.ema": [0.9999999, 0.99999999]}, ("train",), "share a name"),
        ({"train.averages.power": [0.0]}, ("train",), "train.averages.power[0] is 0.0; it takes more than 0, below 1000"),
        ({"train.averages.lawa_every": 5, "train.averages.lawa_last": 0}, ("train",), "lawa_last must be 1 or more"),
        ({"train.clock": [[10, 1.0]]}, ("train",), "train.seconds is null"),
        ({"train.seconds": 5.0, "train.clock": [[10, 1.0], [9, 2.0]]}, ("train",), "train.clock has [9.0, 2.0] after [10.0, 1.0]"),
        ({"train.seconds": 5.0, "train.reserve_seconds": 5.0}, ("train",), "leaves nothing of train.seconds"),
        ({"train.warmdown": 20.0}, ("train",), "share of the budget, 0 to 1"),
        ({"train.muon.coefficients": "polar"}, ("train",), "takes classical | polar_express"),
        (
            {"train.adamw": {"beta1": 0.9, "beta2": 0.95, "epsilom": 1e-8}},
            ("train",),
            "train.adamw.epsilom is not a known parameter (did you",
        ),
        ({"train.muon.projections": ["value_embedding"]}, ("train",), "no such feature with a linear layer"),
        ({"train.adamw.beta2": 1.0}, ("train",), "train.adamw.beta2 is 1.0; it takes 0 or more, below 1"),
        ({"train.split.layers": 3}, ("train",), "the model has 2 layers"),
        ({"train.qat.form": "soft_round", "train.qat.scope": "projections"}, ("train",), "the model has no such layer"),
        ({"train.qat.bits": 1}, ("train",), "train.qat.bits is 1; it takes 2 to 8"),
        ({"ema.average": "posthoc_ema_1.5"}, ("ema",), "posthoc_ema_<decay below 1>"),
        ({"ema.average": "best", "ema.candidates": []}, ("ema",), "ema.candidates is empty"),
        ({"model.num_heads": 0}, ("train",), "model.num_heads is 0"),
        ({"model.embedding_std": -1.0}, ("train",), "model.embedding_std"),
        ({"quantize.groups.mlp.clip": 1e9}, ("quantize",), "does not fit in float16"),
        ({"quantize.gptq.damping": float("inf")}, ("quantize",), "quantize.gptq.damping"),
        ({"prequant_ttt.epochs": 0}, ("prequant_ttt",), "prequant_ttt.epochs is 0; it takes 1 or more"),
        ({"calibrate.sequence_length": 0}, ("calibrate",), "calibrate"),
        ({"vocabulary.size": 0}, ("vocabulary",), "vocabulary.size is 0; it takes 261 to 65536"),
        ({"vocabulary.size": 70000}, ("vocabulary",), "it takes 261 to 65536"),
        ({"package.options": {"window": "x", "stride": 1, "batch": 1}}, ("package",), "whole numbers"),
        ({"package.options": {}}, ("package",), "package.options do not fit sliding"),
        ({"train.averages.ema": [1.5]}, ("train",), "train.averages.ema[0] is 1.5; it takes 0 or more, below 1"),
        ({"train.device": "cuda"}, ("train",), "torch sees no GPU"),
        ({"tokenize.shard_tokens": 0}, ("tokenize", "val"), "tokenize.shard_tokens"),
        ({"vocabulary.size": 60000}, ("vocabulary",), "set it to at most"),
        ({"compress.runs.zlib_9.options": {"lvl": 3}}, ("compress", "zlib_9"), "compress.runs.zlib_9.options"),
        ({"compress.runs.zlib_9.codec": "zip"}, ("compress", "zlib_9"), "did you mean"),
        ({"evaluate.runs.sliding.options": {"windo": 3}}, ("evaluate", "sliding"), "evaluator sliding does not take these options"),
        ({"evaluate.runs.sliding.options.stride": 900}, ("evaluate", "sliding"), "stride"),
        ({"evaluate.runs.sliding.evaluator": "etlb"}, ("evaluate", "sliding"), "add it to package.evaluators"),
        ({"audit.replayed": 0}, ("audit", "sliding"), "audit.replayed is 0; it takes 1 or more"),
        ({"prepare.max_bytes": 0}, ("prepare",), "max_bytes"),
        ({"plain_score.window": 0}, ("plain_score", "train"), "plain_score.window is 0; it takes 1 or more"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else None,
)
def test_value_that_cannot_work_is_one_sentence_and_leaves_outputs_alone(project, tree, capsys, leaves, node, sentence):
    import torch

    if "train.device" in leaves and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = {path: path.read_bytes() for path in (project / "artifacts" / node[0]).rglob("*") if path.is_file()}
    tree(leaves)
    with pytest.raises(SystemExit) as stopped:
        run_node(*node)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("caddie ")]
    assert stopped.value.code == 1 and len(said) == 1 and sentence in said[0], said
    assert before == {path: path.read_bytes() for path in (project / "artifacts" / node[0]).rglob("*") if path.is_file()}
