"""Weights that were trained elsewhere: published names become our parameters to the bit, and each fault is one sentence."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.adopt import __main__ as command
from stages.adopt import convert, packing
from stages.lib.node import files, tensors
from stages.recipes import catalog, describe
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT
from stages.submission import __main__ as submission
from stages.train import adoption, published
from tests.conftest import NODES, ROOT, run_node, write_lock
from tests.published_names import BANKED
from tests.published_names import published as inverse
from tests.test_recipes import NEWEST_IS_QUICK, tree_of
from tests.test_stacks import random_model


def tiny(name: str) -> GPT:
    """The network of a recipe with small sizes and random weights, of which some are halves."""
    return random_model(describe.network(tree_of(name, "tiny")).config)


def logits(state: dict, config: ModelConfig) -> torch.Tensor:
    net = GPT(config).eval()
    net.load_state_dict(state)
    return net(torch.arange(48).reshape(2, 24) * 7 % config.vocabulary_size)


@pytest.mark.parametrize("name", NEWEST_IS_QUICK)
@torch.no_grad()
def test_published_weights_give_the_same_logits_to_the_bit(name):
    net = tiny(name)
    ours = {key: weight.detach() for key, weight in net.named_parameters()}
    for banked in (True, False) if name in BANKED else (False,):
        found = inverse(net, banked=banked)
        back = published.parameters(found, name, net.config)
        assert list(back) == list(ours) and all(torch.equal(back[key], ours[key]) for key in ours)
        assert torch.equal(logits(back, net.config), net(torch.arange(48).reshape(2, 24) * 7 % net.config.vocabulary_size))
        assert (
            published.parameters({f"module._orig_mod.{key}": tensor for key, tensor in found.items()}, name, net.config).keys()
            == ours.keys()
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", catalog.stacks())
def test_names_and_sizes_are_those_of_the_full_stack(name):
    """On the meta device, because values are not needed: the published tensors hold as many numbers as the published model has."""
    net = describe.network(tree_of(name))
    found = inverse(net, banked=name in BANKED)
    assert sum(tensor.numel() for tensor in found.values()) == catalog.read_header(name).parameters
    needed = published._needed([piece for piece in pieces(name, net)])
    assert {key: [size for size in shape if size != 1] for key, shape in needed.items()} == {
        key: [size for size in tensor.shape if size != 1] for key, tensor in found.items()
    }


def pieces(name: str, net: GPT):
    shapes = {key: tuple(weight.shape) for key, weight in net.named_parameters()}
    entry = published._table()["stacks"][name]
    for part in (*entry["parts"], entry["forms"][0]):
        yield from published._pieces(part, shapes, net.config)


def test_every_stack_that_has_a_recipe_has_its_names():
    assert set(catalog.stacks()) <= set(published.stacks())


def test_half_types_come_in_as_the_numbers_that_they_are():
    net = tiny("pr1855")
    for kind in (torch.float16, torch.bfloat16):
        found = {key: tensor.to(kind) for key, tensor in inverse(net, banked=True).items()}
        back = published.parameters(found, "pr1855", net.config)
        assert all(tensor.dtype == torch.float32 for tensor in back.values())
        assert torch.equal(back["blocks.3.mlp.up.weight"], found["mlp_up_bank"][3].float())


def without(name):
    return lambda found: found.pop(name)


def put(name, change):
    return lambda found: found.update({name: change(found.get(name))})


FAULTS = {
    "missing": (without("kv_bank"), "kv_bank [22, 32, 64] is missing, from which blocks.0.attention.key.weight is read"),
    "extra": (put("bigram.scale", lambda _: torch.ones(())), "bigram.scale [] is no part of the model"),
    "transposed": (put("mlp_up_bank", lambda bank: bank.mT), "mlp_up_bank is [11, 64, 256] and not [11, 256, 64]; it is transposed"),
    "shape": (put("tok_emb.weight", lambda table: table[:-1]), "tok_emb.weight is [511, 64] and not [512, 64]; set model and vocabulary"),
    "layers": (put("qo_bank", lambda bank: bank[:-2]), "qo_bank is [20, 64, 64] and not [22, 64, 64]"),
    "quantized": (put("skip_weights", lambda weight: weight.to(torch.int8)), "skip_weights has the type int8; take the weights before"),
    "diverged": (put("smear_lambda", lambda weight: weight / 0), "smear_lambda has values that are NaN or infinite"),
    "own head": (put("lm_head.weight", lambda _: torch.ones(512, 64)), "lm_head.weight is another table than tok_emb.weight"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_checkpoint_is_one_sentence(fault):
    net, (change, sentence) = tiny("pr1855"), FAULTS[fault]
    found = inverse(net, banked=True)
    change(found)
    with pytest.raises(ValueError) as raised:
        published.parameters(found, "pr1855", net.config)
    assert sentence in str(raised.value) and str(raised.value).count(";") == 1


def test_tied_head_that_was_saved_twice_is_read_and_one_of_its_own_needs_untied_tables():
    net = tiny("pr1855")
    found = inverse(net, banked=True)
    assert published.parameters(found | {"lm_head.weight": found["tok_emb.weight"].clone()}, "pr1855", net.config)
    untied = random_model(dataclasses.replace(net.config, tied_head=False))
    back = published.parameters(inverse(untied, banked=True), "pr1855", untied.config)
    assert torch.equal(back["unembedding.weight"], untied.unembedding.weight)


def test_checkpoint_of_another_stack_and_a_stack_that_does_not_exist_are_named():
    net = tiny("pr1493")
    with pytest.raises(ValueError, match=r"is missing.*; and \d+ more"):
        published.parameters(inverse(net, banked=False), "pr1855", tiny("pr1855").config)
    with pytest.raises(ValueError, match=r"no published stack 'pr185'.*did you mean 'pr1855'"):
        published.parameters({}, "pr185", net.config)


# --- a .pt file ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pt_file_is_read_in_the_jail_and_becomes_safetensors(tmp_path):
    found = {"a": torch.randn(3, 4), "b": torch.randn(5).bfloat16(), "c": torch.randn(2, 2).half(), "d": torch.tensor(2.0)}
    for content in (found, {"model": found, "step": 7}):
        torch.save(content, tmp_path / "a.pt")
        convert.to_safetensors(tmp_path / "a.pt", tmp_path / "a.safetensors")
        back = load_file(tmp_path / "a.safetensors")
        assert back.keys() == found.keys()
        assert all(torch.equal(back[key], found[key]) and back[key].dtype == found[key].dtype for key in found)


class Runs:
    """Unpickled without a guard, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["code", pytest.param("no tensors", marks=pytest.mark.slow), pytest.param("no pickle", marks=pytest.mark.slow)]
)
def test_pt_file_that_is_more_than_tensors_is_refused_and_leaves_nothing(tmp_path, case):
    path, ran = tmp_path / "a.pt", tmp_path / "ran"
    if case == "no pickle":
        path.write_bytes(b"no pickle at all")
    else:
        torch.save({"model": Runs(ran)} if case == "code" else {"step": 3}, path)
    with pytest.raises(ValueError, match=r"a\.pt was not read: it holds more than tensors, or it is damaged .*; save the weights alone"):
        convert.to_safetensors(path, tmp_path / "a.safetensors")
    assert not ran.exists() and sorted(tmp_path.iterdir()) == [path]


def test_the_program_that_unpickles_is_never_imported():
    assert (ROOT / "stages/adopt/unpickle.py").read_text().count("torch.load(") == 1
    for path in (ROOT / "stages").rglob("*.py"):
        assert "import unpickle" not in path.read_text() and "adopt.unpickle" not in path.read_text(), path


# --- in the place of a training -----------------------------------------------------------------------------------------


FEATURES = {"residual_mix": {}, "unet_skips": {"gated": False, "sets": 1}}


@pytest.fixture
def adopted(project, tree):
    """The tiny project, whose parameters adopt a checkpoint of the naive stack; the network of the checkpoint, and `tree`."""
    config = tensors.load(project / "artifacts/train/model.safetensors")[1]["model"] | {"features": FEATURES}
    net = random_model(ModelConfig.from_dict(config))
    Path("data").mkdir()
    save_file(inverse(net, banked=False), "data/final.safetensors")
    leaves = {"path": "data/final.safetensors", "stack": "naive", "sha256": files.sha256("data/final.safetensors")}
    tree({"model.features": FEATURES, "ema.average": "final", "ema.candidates": []} | {f"train.adopt.{k}": v for k, v in leaves.items()})
    return net, tree


@pytest.mark.slow
def test_adopted_weights_take_the_place_of_a_training(adopted):
    net, tree = adopted
    run_node("train")
    found, facts = tensors.load(Path("artifacts/train/model.safetensors"))
    assert facts["model"] == net.config.to_dict() and all(torch.equal(found[key], weight) for key, weight in net.named_parameters())
    metrics = files.read_json(Path("artifacts/train/metrics.json"))
    assert metrics["trained_elsewhere"]["stack"] == "naive" and metrics["steps"] == 0 and metrics["holdout_bits_per_byte"] > 0
    assert files.read_json(Path("artifacts/train/opened.json")) == {"incomplete": adoption.UNKNOWN}
    Path("data/all").mkdir()
    Path("data/final.safetensors").rename("data/all/final.safetensors")
    other = random_model(net.config, seed=2)
    save_file(inverse(other, banked=False), "data/all/ema_0.9.safetensors")
    tree({"train.adopt.path": "data/all", "train.adopt.sha256": adoption.sha256(Path("data/all")), "ema.average": "ema_0.9"})
    run_node("train")
    run_node("ema")
    found = tensors.load(Path("artifacts/ema/model.safetensors"))[0]
    assert all(torch.equal(found[key], weight) for key, weight in other.named_parameters())


REFUSED = (
    ({"sha256": None}, "train.adopt.sha256 is None, but that of data/final.safetensors is"),
    ({"stack": None}, "train.adopt.stack is null; it takes the stack whose names the checkpoint has: naive, pr549"),
    ({"path": "data/none.safetensors"}, "train.adopt.path data/none.safetensors is missing; check the spelling"),
    ({"path": "params.yaml"}, "params.yaml is no .safetensors file; convert a .pt file with: python -m stages.adopt params.yaml"),
    ({"path": "artifacts/train/averages"}, "artifacts/train/averages has no final.safetensors; give the weights"),
    ({"path": "data/damaged.safetensors"}, "data/damaged.safetensors is damaged or no safetensors file"),
)


@pytest.mark.slow
def test_adoption_that_cannot_be_is_one_sentence_and_leaves_the_outputs_alone(adopted, capsys):
    def outputs():
        return [files.sha256(f"artifacts/train/{name}") for name in ("model.safetensors", "opened.json", "loss.csv")]

    before = outputs()
    Path("data/damaged.safetensors").write_bytes(b"of some other kind")
    for leaves, sentence in REFUSED:
        values = {"path": "data/final.safetensors", "stack": "naive", "sha256": files.sha256("data/final.safetensors")}
        values |= {"sha256": files.sha256(leaves["path"])} if "damaged" in leaves.get("path", "") else {}
        values |= leaves
        adopted[1]({f"train.adopt.{key}": value for key, value in values.items()})
        with pytest.raises(SystemExit):
            run_node("train")
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1 and outputs() == before, leaves


@pytest.mark.slow
def test_all_that_follows_works_as_if_it_had_been_trained_here_and_nothing_is_legal(adopted):
    made = [node for node in NODES if NODES.index(node) >= NODES.index(("train",)) and node[-1] not in ("slot", "causal_slot")]
    adopted[1]({"evaluate.runs": {"sliding": {"evaluator": "sliding", "options": {"window": 64, "stride": 32, "batch": 32}}}})
    for node, *variant in made:
        if node == "evaluate":
            write_lock(Path())
        run_node(node, *variant)
    certificate = files.read_json(Path("artifacts/audit/sliding/certificate.json"))
    assert certificate["verdict"] == "not ruled" and not certificate["legal"]
    lineage = certificate["checks"]["lineage"]
    assert lineage["verdict"] == "not_applicable" and adoption.UNKNOWN in lineage["evidence"]["reason"]
    assert "trained elsewhere" in Path("artifacts/audit/sliding/certificate.md").read_text()


@pytest.mark.slow
def test_submission_of_adopted_weights_is_refused(adopted):
    with pytest.raises(ValueError, match=r"^train.adopt takes weights that were trained elsewhere.*; set train\.adopt\.path to null$"):
        submission._run("default", "full", 42)


# --- the commands of the page -------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs/adopt.md").read_text()
COMMANDS = [line.removeprefix("python -m stages.adopt ") for line in re.findall(r"^python -m stages\.adopt .*$", PAGE, re.MULTILINE)]


@pytest.fixture
def given(finished, tmp_path, monkeypatch):
    """A folder with final_model.pt of #1855 in small, DIR with token shards, and params.yaml. What makes it small as arguments."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("DIR").mkdir()
    for split in ("train", "val"):
        for path in (finished / f"artifacts/tokenize/{split}").glob("*.bin"):
            shutil.copy(path, "DIR")
    shutil.copy(finished / "artifacts/vocabulary/tokenizer.model", "DIR/fineweb_384_bpe.model")
    config = dataclasses.replace(tiny("pr1855").config, vocabulary_size=384)
    torch.save(inverse(random_model(config), banked=True), "final_model.pt")
    documents = json.loads((finished / "artifacts/prepare/val/meta.json").read_text())["documents"]
    small = {"vocabulary.size": 384, "prepare.val_documents": documents, "prepare.holdout_documents": 5, "audit.replayed": 60}
    return ["--scale", "tiny", *(f"--set={path}={value}" for path, value in small.items())]


def stage_here(folder, parameters, node, *arguments):
    """In this process, which saves the start of each."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        run_node(node, *arguments, "--params", parameters)
    finally:
        os.chdir(before)


@pytest.mark.slow
def test_command_of_the_page_makes_a_certified_artifact_and_the_table(given, monkeypatch, capsys):
    monkeypatch.setattr(packing, "stage", stage_here)
    (words,) = [line.split() for line in COMMANDS if "--tokens" in line]
    assert command.main([*words, *given]) == 0
    folder = Path("artifacts/adopt/final_model")
    table = (folder / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = {
        row.split("|")[1].strip().split(" (")[0]: [cell.strip() for cell in row.split("|")[2:-1]]
        for row in table.splitlines()
        if row[:1] == "|"
    }
    published, ours = rows["as published"], rows["ours"]
    assert float(published[2]) - 0.1 < float(ours[2]) <= float(published[2]), "equal error"
    certificate = files.read_json(folder / "artifacts/audit/sliding/certificate.json")
    assert certificate["verdict"] != "legal" and not certificate["legal"]
    assert [name for name, check in certificate["checks"].items() if check["verdict"] == "fail"] == []
    monkeypatch.setattr(packing, "stage", lambda *told: pytest.fail(f"{told} was run again"))
    assert command.main([*words, *given]) == 0, "the same command has nothing left to do"


@pytest.mark.slow
def test_command_that_cannot_work_says_so_before_anything_is_prepared(given, capsys):
    for words, sentence in (
        (["final_model.pt"], "name the stack that it was trained with: --stack pr1855"),
        (["final_model.pt", "--stack", "pr1855"], "name the folder of token shards"),
        (["final_model.pt", "--stack", "pr1855", "--tokens", "nowhere"], "--tokens nowhere is no folder"),
        (["nothing.pt", "--stack", "pr1855", "--tokens", "DIR"], "nothing.pt is missing; check the spelling"),
        (["params.yaml", "--stack", "pr1855", "--tokens", "DIR"], "params.yaml is neither a .pt nor a .safetensors file"),
        (["final_model.pt", "--stack", "pr1855", "--tokens", "DIR", "--set", "calibrate"], "--set 'calibrate' has no ="),
        (
            ["final_model.pt", "--stack", "pr1855", "--tokens", "DIR", *given, "--set=model.mlp_width=128"],
            "mlp_up_bank is [11, 256, 64] and not [11, 128, 64]",
        ),
    ):
        with pytest.raises(SystemExit):
            command.main(words)
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, words
    assert not list(Path().glob("artifacts/adopt/*/artifacts")) and not Path("scratch").exists()


@pytest.mark.slow
def test_command_that_converts_is_the_one_of_the_page(given):
    (words,) = [line.split() for line in COMMANDS if "--convert" in line]
    assert command.main(words) == 0
    assert load_file(words[-1]).keys() == torch_names("final_model.pt")


def torch_names(path: str) -> set[str]:
    convert.to_safetensors(Path(path), Path("again.safetensors"))
    return load_file("again.safetensors").keys()


@pytest.mark.slow
def test_lines_of_the_page_give_the_packed_model_and_its_tokenizer(finished):
    """In a process and a folder of its own, where nothing of this repository can be imported."""
    (lines,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    program = lines + (
        "import torch\n"
        "ids = torch.tensor([[1, *tokenizer.encode('import os')]])\n"
        "print(isinstance(model, torch.nn.Module), tuple(model(ids).shape), tokenizer.vocabulary_size, 'stages' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=finished / "artifacts/package", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"True \(1, \d+, 384\) 384 False\n", done.stdout), done.stdout
