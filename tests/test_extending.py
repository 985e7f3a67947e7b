"""The feature of docs/extending.md does what the page says, as one file and one word in model.features."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import yaml

from stages.recipes import describe
from stages.runtime.network import features, gpt
from tests.conftest import ROOT, set_leaf
from tests.test_features import PLAIN
from tests.test_stacks import assert_no_look_ahead, documents, random_model

SECTION = (ROOT / "docs/extending.md").read_text().split("## A feature, as an example")[1]


@pytest.fixture
def branch_gain(tmp_path, monkeypatch) -> dict:
    """The file as the page has it, in a folder where features are looked for; the value of model.features as the page has it."""
    name = re.search(r"`stages/[\w/]+/features/(\w+)\.py`", SECTION)[1]
    (tmp_path / f"{name}.py").write_text(re.search(r"```python\n(.*?)```", SECTION, re.S)[1])
    monkeypatch.setattr(features, "__path__", [*features.__path__, str(tmp_path)])
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", SECTION, re.S)[1])["features"]


def test_feature_of_the_page_is_its_formula(branch_gain):
    """With one layer: half of what the layer adds, before the last norm."""
    plain, (x, _) = random_model(replace(PLAIN, num_layers=1)), documents()
    net = gpt.GPT(replace(PLAIN, num_layers=1, features=branch_gain)).eval()
    net.load_state_dict(plain.state_dict() | {"branch_gain.gain": torch.tensor([0.5])})
    seen, layer = [], plain._layer
    plain._layer = lambda physical, stream, *rest: seen.append((stream, layer(physical, stream, *rest))) or seen[-1][1]
    plain(x)
    ((before, after),) = seen
    assert torch.allclose(net.hidden(x), gpt.rms(before + 0.5 * (after - before)), atol=1e-6)
    with torch.no_grad():
        net.branch_gain.gain.fill_(1.0)
    assert torch.allclose(net(x), plain(x), atol=1e-5)


def test_feature_of_the_page_keeps_the_contract(branch_gain):
    net, (x, cu_seqlens) = random_model(replace(PLAIN, features=branch_gain)), documents()
    assert_no_look_ahead(net, x, cu_seqlens, every=3)
    F.cross_entropy(net(x)[0], x[0].roll(-1)).backward()
    assert net.branch_gain.gain.grad.all()
    fresh = gpt.GPT(replace(PLAIN, features=branch_gain))
    gpt.initialise(fresh, generator=torch.Generator().manual_seed(0))
    assert fresh.branch_gain.gain.tolist() == [0.5] * 4
    with pytest.raises(ValueError, match="takes more than 0"):
        gpt.GPT(replace(PLAIN, features={"branch_gain": {"start": -1.0}}))


def test_feature_of_the_page_is_described_where_it_acts(branch_gain):
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    set_leaf(tree, "model.features", branch_gain)
    found = describe.describe(tree)
    assert [place.features for place in found.places] == [{"branch_gain"}] * 2
    assert {group.name: group.parameters for group in found.groups}["branch_gain"] == 2
