"""Convolutions of doubled images: the merged form computes what the two steps do."""

import pytest
import torch
from torch import nn

from guided_diffusion.networks import upsampling
from guided_diffusion.networks.upsampling import convolve_doubled, double
from guided_diffusion.nn import ResBlock, Upsample


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("sides", [(16, 16), (18, 17)])
def test_merged_form_equals_doubling_first(sides):
    conv, x = nn.Conv2d(5, 4, 3, padding=1).double(), draw(2, 5, *sides)
    merged, plain = convolve_doubled(conv, x), conv(double(x))
    assert merged.shape == (2, 4, *(2 * side for side in sides))
    torch.testing.assert_close(merged, plain, rtol=0, atol=1e-13)


def test_gradients_equal_those_of_doubling_first():
    conv, x = nn.Conv2d(5, 4, 3, padding=1).double(), draw(2, 5, 16, 16).requires_grad_()
    weights = draw(2, 4, 32, 32)
    found, expected = (
        torch.autograd.grad((y * weights).sum(), (x, conv.weight, conv.bias))
        for y in (convolve_doubled(conv, x), conv(double(x)))
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "module",
    [Upsample(32, True, out_channels=64), ResBlock(32, 8, 0.0, out_channels=64, up=True)],
    ids=["layer", "block"],
)
def test_networks_use_the_merged_form_for_large_images(module, monkeypatch):
    arguments = (draw(1, 32, 16, 16), draw(1, 8))[: 1 + isinstance(module, ResBlock)]
    merge, merged = upsampling._merge, []
    monkeypatch.setattr(upsampling, "_merge", lambda *a: merged.append(a) or merge(*a))
    found = module.double()(*arguments)
    assert len(merged) == 2  # rows and columns of one convolution
    monkeypatch.setattr(upsampling, "_LARGE", 16 * 16 + 1)
    torch.testing.assert_close(found, module(*arguments), rtol=0, atol=1e-12)
    assert len(merged) == 2


def test_merged_form_follows_autocast():
    conv, x = nn.Conv2d(5, 4, 3, padding=1), draw(2, 5, 16, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        merged = convolve_doubled(conv, x)
    assert merged.dtype == torch.bfloat16
    torch.testing.assert_close(merged.float(), conv(double(x)), rtol=0.02, atol=0.02)
