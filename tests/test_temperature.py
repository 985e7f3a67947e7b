"""The constant of the evaluator `temperature`: found exactly on logits of a known scale, and printed for a finished pipeline."""

import json

import pytest
import torch

from stages.evaluate import temperature


def sampled(scale):
    """Logits whose softmax, with the logits times `scale`, is what the targets were drawn from."""
    generator = torch.Generator().manual_seed(5)
    logits_NV = 2 * torch.randn(20_000, 12, generator=generator)
    return logits_NV, torch.multinomial(torch.softmax(scale * logits_NV, dim=1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_scale_of_the_logits_is_found_and_nothing_near_it_is_better(scale):
    logits_NV, target_N = sampled(scale)
    found = temperature.fit(logits_NV, target_N)
    assert found == pytest.approx(scale, rel=0.03)
    losses = [temperature.loss(logits_NV, target_N, near * found) for near in (0.999, 1.0, 1.001)]
    assert losses[1] < min(losses[0], losses[2])


def test_logits_that_have_nothing_to_do_with_the_targets_are_refused():
    logits_NV, target_N = sampled(1.0)
    with pytest.raises(ValueError, match=r"not between 0\.0156"):
        temperature.fit(-logits_NV, target_N)


def test_command_prints_the_line_of_params(project, capsys):
    temperature.run(["--tokens", "300"])
    said = capsys.readouterr().out
    line = json.loads(said.rpartition("temperature: ")[2])
    assert line["evaluator"] == "temperature" and 1 / 64 < line["options"]["temperature"] < 64 and "300 tokens of holdout" in said


@pytest.mark.parametrize("argv, sentence", [(["--run", "slidin"], "did you mean 'sliding'"), (["--tokens", "1"], "2 or more")])
def test_mistakes_end_as_one_sentence(project, capsys, argv, sentence):
    with pytest.raises(SystemExit):
        temperature.run(argv)
    assert sentence in capsys.readouterr().err
