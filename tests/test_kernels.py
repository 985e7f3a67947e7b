"""Kernels equal the plain form beside them, on a GPU or in Triton's interpreter where that is installed."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from stages.train.kernels import softcap_cross_entropy
from tests.conftest import ROOT

CASES = [(5, 7), (4, 1500), (3, 1024), (1, 1)]
INTERPRETED = """
from tests.test_kernels import compare
for dtype in ("float32", "bfloat16"):
    for rows, vocabulary in {cases}:
        compare(rows, vocabulary, dtype, "cpu")
print("equal")
"""


def compare(rows: int, vocabulary: int, dtype: str, device: str) -> None:
    """Loss and gradient of the fused form against those of the plain one."""
    generator = torch.Generator().manual_seed(rows)
    logits = (20 * torch.randn(rows, vocabulary, generator=generator)).to(device, getattr(torch, dtype))
    targets = torch.randint(vocabulary, (rows,), generator=generator).to(device)
    found = []
    for form in (softcap_cross_entropy.plain, softcap_cross_entropy.fused):
        own = logits.clone().requires_grad_(True)
        loss = form(own, targets, 15.0)
        (3 * loss).backward()
        found.append((loss.item(), own.grad.float()))
    assert abs(found[0][0] - found[1][0]) < 1e-4, found
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2 if dtype == "bfloat16" else 1e-5, atol=1e-6)


def test_plain_form_is_the_formula():
    logits, targets = 20 * torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(6)
    capped = 15 * torch.tanh(logits / 15)
    expected = -(capped.exp() / capped.exp().sum(-1, keepdim=True)).log()[torch.arange(6), targets].mean()
    assert softcap_cross_entropy.plain(logits, targets, 15.0).item() == pytest.approx(expected.item(), rel=1e-6)
    assert softcap_cross_entropy.plain(logits, targets, 1e6).item() == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs the package triton, which comes with torch for GPUs")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU's own test is the stronger one")
def test_fused_form_equals_the_plain_one_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED.format(cases=CASES)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows, vocabulary", [*CASES, (4096, 8192)])
def test_fused_form_equals_the_plain_one_on_a_gpu(rows, vocabulary, dtype):
    compare(rows, vocabulary, dtype, "cuda")
