"""Networks of transformers: gone through layer by layer as the network itself runs, packed, and brought back by the loader."""

import gc
import importlib.util
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.adopt.networks import __main__ as command
from stages.adopt.networks import packing, restore, walk
from stages.adopt.networks.checkpoint import Checkpoint
from stages.lib.blob.grouping import Run
from stages.lib.node import params
from stages.lib.quant.settings import QuantizeSettings
from tests.conftest import ROOT
from tests.test_readme import commands

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra transformers"),
    pytest.mark.filterwarnings("ignore"),
]
VOCABULARY, LENGTH = 60, 24


def network(kind: str):
    """A small random network; of Llama the head is its own, and queries share keys."""
    import transformers

    torch.manual_seed(3)
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            initializer_range=0.3,
        )
    else:
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        )
    return transformers.AutoModelForCausalLM.from_config(config)


def text(length: int = 3000) -> np.ndarray:
    """Tokens that follow each other with some regularity."""
    generator = np.random.default_rng(5)
    follows, ids = generator.integers(0, VOCABULARY, (VOCABULARY, 2)), [0]
    while len(ids) < length:
        ids.append(int(follows[ids[-1], generator.integers(2)]) if generator.random() < 0.9 else int(generator.integers(VOCABULARY)))
    return np.array(ids)


def trained(net, steps: int = 60):
    ids = torch.from_numpy(text())
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for step in range(steps):
        rows = torch.stack([ids[at : at + LENGTH] for at in range(step, step + 8 * 100, 100)])
        net(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return net


@pytest.fixture(params=["llama", "gpt2"])
def saved(request, tmp_path):
    """Name, network and folder: bfloat16 in several files, and float32 in one, as GPT-2 was published: without its first name."""
    net, folder = network(request.param), tmp_path / request.param
    if request.param == "llama":
        net.to(torch.bfloat16).save_pretrained(folder, max_shard_size="10KB")
        assert (folder / "model.safetensors.index.json").is_file()
    else:
        net.save_pretrained(folder)
        state = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(state | {"h.0.attn.bias": torch.ones(1)}, folder / "model.safetensors")
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return request.param, loaded.eval(), folder


def nats(net, rows: torch.Tensor) -> torch.Tensor:
    logits = net(input_ids=rows).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def test_layer_by_layer_is_the_network_and_its_hessians_are_those_of_its_inputs(saved):
    name, net, folder = saved
    steps, rows = walk.Walk(Checkpoint(folder)), torch.from_numpy(text()[: 3 * LENGTH]).reshape(3, LENGTH)
    batches, sums = [rows[:2], rows[2:]], {}
    for part, module, _ in walk.matrices(net):
        module.register_forward_pre_hook(lambda _, given, part=part: sums.setdefault(part, []).append(given[0].detach().flatten(0, -2)))
    hidden, expected = [steps.begin(batch) for batch in batches], nats(net, rows)
    for place in range(2):
        layer, _ = steps.layer(place)
        found, hidden = walk.hessians(steps, layer, hidden)
        for part, hessian in found.items():
            inputs = torch.cat(sums[f"{steps.prefix}.{place}.{part}"])
            torch.testing.assert_close(hessian, inputs.mT @ inputs, rtol=1e-4, atol=1e-3)
        assert len(found) == {"llama": 7, "gpt2": 4}[name]
    got = torch.cat([steps.nats(part, batch) for part, batch in zip(hidden, batches, strict=True)])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert all(weight.is_meta for weight in steps.meta_layers.parameters())


PAGE = (ROOT / "docs/networks.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a trained network and its text; params.yaml with the pipeline's defaults."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    trained(network("llama")).to(torch.bfloat16).save_pretrained("data/network")
    np.save("data/calibration.npy", text()[:1500])
    np.save("data/evaluation.npy", text()[1500:])
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    return tmp_path


def test_command_of_the_page_packs_a_network_that_the_loader_brings_back(here, monkeypatch, capsys):
    import transformers

    (line,) = [line for line in commands(PAGE) if "model.zip" in line]
    words = shlex.split(line)[3:]
    alive = []
    read = walk.Walk.layer

    def one_at_a_time(self, number):
        gc.collect()
        assert not [1 for layer in alive if layer() is not None], "the layer before is still in memory"
        layer, state = read(self, number)
        alive.append(weakref.ref(layer))
        return layer, state

    monkeypatch.setattr(walk.Walk, "layer", one_at_a_time)
    assert command.main([*words, "--length", str(LENGTH), "--rows", "16", "--bits", "3"]) == 0 and len(alive) == 2
    rows = dict(re.findall(r"^\| ([\w -]+?)(?:, 3 bits)? \| (.*) \|$", Path("model.md").read_text(), re.MULTILINE))
    found = {label: [float(cell.replace(",", "")) for cell in cells.split("|")] for label, cells in rows.items() if label != "way"}
    assert list(found) == list(command.LABELS.values())
    size, bits, perplexity = zip(*found.values(), strict=True)
    assert size[0] == 2 * sum(tensor.numel() for tensor in load_file("data/network/model.safetensors").values()) and bits[0] == 16
    assert all(4 < count < 8 for count in bits[1:]), "the tables have 8 bits, and are half of this network"
    assert abs(size[3] / size[2] - 1) < 0.05, "as many coded bits as GPTQ"
    assert perplexity[0] < perplexity[1] and perplexity[3] < perplexity[1], "both lose, and ours less than round to nearest"

    config = transformers.AutoConfig.from_pretrained("data/network")
    net = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    net.load_state_dict(restore.state_dict("model.zip"))
    evaluation = torch.from_numpy(text()[1500:])[: 16 * LENGTH].reshape(16, LENGTH)
    with torch.no_grad():
        assert math.exp(nats(net, evaluation).double().mean().item()) == pytest.approx(perplexity[3], rel=1e-4)
    assert "| round to nearest, 3 bits |" in capsys.readouterr().out


def test_transposed_and_tied_weights_come_back_in_their_own_form(saved):
    """To the rounding of 8 bits: rows of Conv1D are columns, a tied head comes once."""
    name, _, folder = saved
    tree = params.read(ROOT / "params.yaml")
    settings, run = params.section(tree, QuantizeSettings), Run.from_params(tree["compress"]["runs"]["covariance"], "covariance")
    steps = walk.Walk(Checkpoint(folder))
    layer, state = steps.layer(1)
    made = packing.packed(layer, state, {}, packing.settings_of(settings, "nearest", 8, 1.0), run, prefix=f"{steps.prefix}.1.")
    assert list(made.state) and made.state.keys() == state.keys()
    for part, tensor in made.state.items():
        torch.testing.assert_close(tensor, state[part], rtol=0.01, atol=float(state[part].abs().max()) / 100)
    assert ("lm_head.weight" in steps.names) == (name == "llama")
    out = folder / "part.zip"
    with zipfile.ZipFile(out, "w") as archive:
        command._write(archive, "layer", made.blobs)
    back = restore.state_dict(out)
    assert all(torch.equal(back[f"{steps.prefix}.1.{part}"], tensor) for part, tensor in made.state.items()) and len(back) == len(state)


def test_loader_is_short_and_needs_no_transformers():
    path = ROOT / "stages/adopt/networks/restore.py"
    assert len(path.read_text().splitlines()) <= 60
    code = "import sys; import stages.adopt.networks.restore; assert 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def refused(capsys, sentence: str, folder: Path, *more: str) -> None:
    given = ["--calibration", "ids.npy", "--evaluation", "ids.npy", "--length", str(LENGTH), "--params", str(ROOT / "params.yaml")]
    with pytest.raises(SystemExit) as ended:
        command.main([str(folder), *given, "--out", "made.zip", *more])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and re.search(sentence, said), said
    assert said.startswith("adopt.networks: ") or said.count("\n") <= 2, said
    assert not list(Path().glob("*made*")), "nothing half-written"


class Touch:
    """What a pickle can do when it is read."""

    def __reduce__(self):
        return (Path.touch, (Path("was-here"),))


def test_bad_input_of_each_kind_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network("gpt2").save_pretrained("whole")
    np.save("ids.npy", text(200))
    state = load_file("whole/model.safetensors")
    key = "transformer.h.1.mlp.c_fc.weight"

    def changed(**tensors) -> Path:
        shutil.copytree("whole", "changed", dirs_exist_ok=True)
        new = {name: tensor for name, tensor in (state | tensors).items() if tensor is not None}
        save_file(new, "changed/model.safetensors")
        return Path("changed")

    refused(capsys, "has no config.json", tmp_path)
    refused(capsys, f"lacks the tensor .*{key}", changed(**{key: None}))
    refused(capsys, "has the tensor .*more.* that its config.json knows nothing of", changed(more=torch.ones(2)))
    refused(capsys, r"c_fc.weight in .* has the size \(128, 32\)", changed(**{key: state[key].T.contiguous()}))
    refused(capsys, "c_fc.weight in .* is I8; a checkpoint takes F32", changed(**{key: state[key].to(torch.int8)}))
    refused(capsys, "c_fc.weight in .* is not finite", changed(**{key: state[key] * torch.inf}))
    Path("changed/model.safetensors").write_bytes(b"\x80\x04.")
    refused(capsys, "missing or no safetensors file", Path("changed"))
    Path("changed/model.safetensors").unlink()
    torch.save({"a": Touch()}, "changed/pytorch_model.bin")
    refused(capsys, "only pytorch_model.bin, a pickle, which is not read", Path("changed"))
    assert not Path("was-here").exists()
    Path("changed/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../whole/model.safetensors"}}))
    refused(capsys, "names files outside of its folder", Path("changed"))
    for content, sentence in (("{", "makes no causal language model"), ('{"model_type": "none"}', "makes no causal language model")):
        Path("changed/config.json").write_text(content)
        refused(capsys, sentence, Path("changed"))
    Path("changed/config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}))
    Path("changed/own.py").write_text("import pathlib; pathlib.Path('was-here').touch()")
    refused(capsys, "makes no causal language model", Path("changed"))
    assert not Path("was-here").exists()
    whole = Path("whole")
    refused(capsys, "fewer than a row of 512", whole, "--length", "512")
    refused(capsys, "--bits takes 2 to 8, not 9", whole, "--bits", "9")
    refused(capsys, "none.npy is missing", whole, "--calibration", "none.npy")
    np.save("other.npy", text(200) + 1)
    refused(capsys, "has the token 60, the network knows 60", whole, "--evaluation", "other.npy")
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    refused(capsys, "objects.npy is no array of numbers", whole, "--evaluation", "objects.npy")
    np.save("floats.npy", np.ones(100))
    refused(capsys, "it takes one axis of whole numbers", whole, "--evaluation", "floats.npy")
    Path("text.txt").write_text("some text")
    refused(capsys, "has no tokenizer.json", whole, "--evaluation", "text.txt")
    Path("made.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="missing or damaged"):
        restore.state_dict("made.zip")
