"""params.yaml: every mistake is one sentence that names the path and the way out."""

import dataclasses
from typing import ClassVar, Literal

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from stages.lib.node import params
from stages.recipes import __main__ as recipes
from stages.recipes import catalog
from tests.conftest import ROOT, run_node


@dataclasses.dataclass(frozen=True)
class Schema:
    SECTION: ClassVar[str] = "train"
    steps: int
    rate: float
    mode: Literal["a", "b"]
    seconds: float | None
    decays: tuple[float, ...]
    options: dict


GOOD = {"steps": 3, "rate": 1, "mode": "a", "seconds": None, "decays": [0.5, 1], "options": {}}


def test_section_becomes_a_frozen_object_with_the_types_of_its_fields():
    built = params.section({"train": GOOD}, Schema)
    assert built == Schema(3, 1.0, "a", None, (0.5, 1.0), {}) and isinstance(built.rate, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.steps = 4
    assert params.section({"train": GOOD | {"rate": "1e-3"}}, Schema).rate == 0.001  # as DVC writes it, and YAML 1.1 takes for text


@pytest.mark.parametrize("change, sentence", [
    ({"stepz": 1}, r"train\.stepz is not a known parameter \(did you mean 'steps'\?\)"),
    ({"steps": "3"}, r"train\.steps is '3'; it takes int"), ({"steps": 3.5}, r"train\.steps is 3\.5"), ({"steps": True}, "takes int"),
    ({"rate": "fast"}, r"train\.rate is 'fast'; it takes float"), ({"mode": "c"}, r"train\.mode is 'c'; it takes a \| b"),
    ({"seconds": "long"}, r"train\.seconds"), ({"decays": 0.5}, "takes a list"), ({"decays": ["x"]}, r"train\.decays\[0\]"),
    ({"options": []}, "takes a mapping"), ({"steps": None}, "takes int"),
])
def test_wrong_value_names_its_path_and_what_it_takes(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        params.section({"train": GOOD | change}, Schema)


def test_missing_key_names_its_path():
    with pytest.raises(ValueError, match=r"train\.steps is missing"):
        params.section({"train": {k: v for k, v in GOOD.items() if k != "steps"}}, Schema)


@pytest.mark.parametrize("text, sentence", [
    ("trian: {}", "unknown section 'trian' \\(did you mean 'train'"), ("train: [", "not valid YAML"), ("- a", "mapping of sections"),
    ("train: {a: 1\nb", "line 2"),
])
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
    assert "there are naive, pr1019" in capsys.readouterr().err


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
    wanted = {"xsa": {"last_layers": 2}, "residual_mix": {}, "value_residual": {"form": "add"},
              "value_embedding": {"layers": [0, 1], "width": 8, "scale": 0.1}, "unet_skips": {"gated": True, "sets": 1}}
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


@pytest.mark.parametrize("leaves, node, sentence", [
    ({"package.cap_bytes": 1000}, ("package",), "over package.cap_bytes 1000"),
    ({"package.evaluator": "slott"}, ("package",), "is not among package.evaluators"),
    ({"package.evaluators": ["sliding", "nope"]}, ("package",), "no file nope.py"),
    ({"ema.average": "ema_0.5"}, ("ema",), "the training has final, ema_0.95"),
    ({"quantize.groups.mlp.bits": 9}, ("quantize",), "2 to 8 bits"),
    ({"quantize.gptq.block": 0}, ("quantize",), "quantize.gptq.block"),
    ({"calibrate.sequences": 0}, ("calibrate",), "at least 1 calibration sequence"),
    ({"model.num_heads": 3}, ("train",), "divisible by num_heads"),
    ({"train.batch_tokens": 1000}, ("train",), "multiple of sequence_length"),
    ({"train.steps": 0}, ("train",), "train.steps is 0; it takes 1 or more"),
    ({"train.holdout_every": 0}, ("train",), "train.holdout_every"),
    ({"train.processes": 3}, ("train",), "do not divide over 3 processes"),
    ({"train.averages.ema": [0.9999999, 0.99999999]}, ("train",), "share a name"),
    ({"train.averages.power": [0.0]}, ("train",), "train.averages.power has 0.0"),
    ({"train.averages.lawa_every": 5, "train.averages.lawa_last": 0}, ("train",), "lawa_last must be 1 or more"),
    ({"train.clock": [[10, 1.0]]}, ("train",), "train.seconds is null"),
    ({"train.seconds": 5.0, "train.clock": [[10, 1.0], [9, 2.0]]}, ("train",), "train.clock has [9.0, 2.0] after [10.0, 1.0]"),
    ({"train.seconds": 5.0, "train.reserve_seconds": 5.0}, ("train",), "leaves nothing of train.seconds"),
    ({"train.warmdown": 20.0}, ("train",), "share of the budget, 0 to 1"),
    ({"train.muon.coefficients": "polar"}, ("train",), "takes classical | polar_express"),
    ({"train.adamw": {"beta1": 0.9, "beta2": 0.95, "epsilom": 1e-8}}, ("train",), "train.adamw.epsilom is not a known parameter (did you"),
    ({"train.muon.projections": ["value_embedding"]}, ("train",), "no such feature with a linear layer"),
    ({"train.adamw.beta2": 1.0}, ("train",), "must be below 1"),
    ({"train.split.layers": 3}, ("train",), "the model has 2 layers"),
    ({"train.qat.form": "soft_round", "train.qat.scope": "projections"}, ("train",), "the model has no such layer"),
    ({"train.qat.bits": 1}, ("train",), "train.qat.bits is 1; it takes 2 to 8"),
    ({"ema.average": "posthoc_ema_1.5"}, ("ema",), "posthoc_ema_<decay below 1>"),
    ({"ema.average": "best", "ema.candidates": []}, ("ema",), "ema.candidates is empty"),
    ({"model.num_heads": 0}, ("train",), "model.num_heads is 0"),
    ({"model.embedding_std": -1.0}, ("train",), "model.embedding_std"),
    ({"quantize.groups.mlp.clip": 1e9}, ("quantize",), "does not fit in float16"),
    ({"quantize.gptq.damping": float("inf")}, ("quantize",), "quantize.gptq.damping"),
    ({"prequant_ttt.epochs": 0}, ("prequant_ttt",), "epochs of 1 or more"),
    ({"calibrate.sequence_length": 0}, ("calibrate",), "calibrate"),
    ({"vocabulary.size": 0}, ("vocabulary",), "size of 261 to 65536"),
    ({"vocabulary.size": 70000}, ("vocabulary",), "size of 261 to 65536"),
    ({"package.options": {"window": "x", "stride": 1, "batch": 1}}, ("package",), "whole numbers"),
    ({"package.options": {}}, ("package",), "package.options do not fit sliding"),
    ({"train.averages.ema": [1.5]}, ("train",), "train.averages.ema has 1.5"),
    ({"train.device": "cuda"}, ("train",), "torch sees no GPU"),
    ({"tokenize.shard_tokens": 0}, ("tokenize", "val"), "tokenize.shard_tokens"),
    ({"vocabulary.size": 60000}, ("vocabulary",), "set it to at most"),
    ({"compress.runs.zlib_9.options": {"lvl": 3}}, ("compress", "zlib_9"), "compress.runs.zlib_9.options"),
    ({"compress.runs.zlib_9.codec": "zip"}, ("compress", "zlib_9"), "did you mean"),
    ({"evaluate.runs.sliding.options": {"windo": 3}}, ("evaluate", "sliding"), "do not fit sliding"),
    ({"evaluate.runs.sliding.options.stride": 900}, ("evaluate", "sliding"), "stride"),
    ({"evaluate.runs.sliding.evaluator": "etlb"}, ("evaluate", "sliding"), "add it to package.evaluators"),
    ({"audit.flips": 0}, ("audit", "sliding"), "audit.flips"),
    ({"prepare.max_bytes": 0}, ("prepare",), "max_bytes"),
    ({"plain_score.window": 0}, ("plain_score", "train"), "stride"),
], ids=lambda part: next(iter(part)) if isinstance(part, dict) else None)
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
