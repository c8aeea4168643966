"""Layers and helpers against closed forms and reference numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reference_weights import REFERENCE, draw, load_drawn_weights

from guided_diffusion import nn as gd_nn


def test_silu_is_x_times_sigmoid():
    x = draw(0, 100)
    torch.testing.assert_close(gd_nn.SiLU()(x), x / (1 + torch.exp(-x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_group_norm_computes_in_float32_and_returns_the_input_dtype(dtype):
    # Values near 1000: squares overflow float16, and bfloat16 cannot hold mean and deviation.
    x = (1000 + 8 * draw(1, 2, 64, 4, 4)).to(dtype)
    norm = load_drawn_weights(gd_nn.normalization(64))
    groups = x.double().reshape(2, 32, -1)
    deviation = (groups.var(dim=2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = ((groups - groups.mean(dim=2, keepdim=True)) / deviation).reshape(x.shape)
    expected = expected * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]

    out = norm(x)

    assert out.dtype == dtype
    assert norm.num_groups == 32
    tolerance = 1e-3 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


def test_group_norm_under_bf16_autocast_equals_float32_norm_of_the_same_values():
    x = (30 + draw(2, 2, 32, 8, 8)).bfloat16()
    norm = load_drawn_weights(gd_nn.normalization(32))
    expected = norm(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(x)
        out32 = norm(x.float())
    assert out.dtype == torch.bfloat16
    assert out32.dtype == torch.float32
    assert torch.equal(out, expected.bfloat16())
    assert torch.equal(out32, expected)


def test_group_norm_hands_float32_to_the_kernel_of_other_devices(monkeypatch):
    # The CPU's kernel also takes mixed dtypes, CUDA's does not; "meta" stands for the latter.
    seen = []
    kernel = torch.group_norm

    def record(x, groups, weight, bias, eps):
        seen.extend([x.dtype, weight.dtype, bias.dtype])
        return kernel(x, groups, weight, bias, eps)

    monkeypatch.setattr(torch, "group_norm", record)
    gd_nn.normalization(32).to("meta")(torch.empty(1, 32, 2, 2, dtype=torch.half, device="meta"))
    assert seen == [torch.float32] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_group_norm_of_halves_has_the_bits_of_the_float32_one(dtype):
    x = draw(8, 2, 64, 5, 7).to(dtype)
    norm = load_drawn_weights(gd_nn.normalization(64))
    assert torch.equal(norm(x), norm(x.float()).to(dtype))


def test_group_norm_works_with_half_parameters_and_without_any():
    x = draw(3, 2, 32, 4, 4)
    plain = gd_nn.GroupNorm32(32, 32, affine=False)(x)
    torch.testing.assert_close(gd_nn.normalization(32).half()(x), plain)


def test_group_norm_keeps_channels_last():
    x = draw(4, 2, 64, 5, 7)
    norm = load_drawn_weights(gd_nn.normalization(64))
    out = norm(x.contiguous(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, norm(x))


def norm_and_gradients(norm, x, dy):
    """Result of a norm, and gradients of its input, weight and bias for that of its result."""
    x = x.detach().requires_grad_(True)
    y = norm(x)
    return y, torch.autograd.grad(y, (x, *norm.parameters()), dy.to(y))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 64, 1, 3), (5, 96, 5, 7), (3, 64, 32, 33), (2, 32, 72, 64)])
def test_group_norm_of_channels_last_halves_is_the_float32_one_rounded(shape, dtype):
    x, dy = (2 * seed + draw(seed, *shape) for seed in (1, 0))
    x, dy = (v.to(dtype).contiguous(memory_format=torch.channels_last) for v in (x, dy))
    norm = load_drawn_weights(gd_nn.normalization(shape[1]))
    y, gradients = norm_and_gradients(norm, x, dy)
    wide, expected = norm_and_gradients(norm, x.double().contiguous(), dy.double())

    assert y.dtype == dtype and gradients[0].dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    assert gradients[1].dtype == gradients[2].dtype == torch.float32
    eps = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), wide.double(), atol=eps, rtol=eps)
    for found, exact in zip(gradients, expected, strict=True):
        scale = exact.double().abs().max().item()
        bound = scale * (eps if found is gradients[0] else 1e-4)
        torch.testing.assert_close(found.double(), exact.double(), atol=bound, rtol=eps)


def test_group_norm_of_channels_last_halves_has_a_second_derivative():
    x = draw(3, 2, 32, 4, 4).bfloat16()
    norm = load_drawn_weights(gd_nn.normalization(32))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.contiguous(memory_format=layout).requires_grad_(True)
        (first,) = torch.autograd.grad(norm(leaf).pow(3).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        found.append(second.float())
    torch.testing.assert_close(*found, atol=0.05 * found[0].abs().max().item(), rtol=0.05)


def test_an_image_is_normalised_alike_in_any_batch():
    x = draw(5, 7, 64, 16, 16).bfloat16().contiguous(memory_format=torch.channels_last)
    norm = load_drawn_weights(gd_nn.normalization(64))
    assert torch.equal(norm(x)[3:4], norm(x[3:4].contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_and_pools_by_dimension(dims):
    x = draw(5, 1, 4, *[6] * dims)
    assert gd_nn.conv_nd(dims, 4, 8, 3, padding=1)(x).shape == (1, 8, *[6] * dims)
    pooled = gd_nn.avg_pool_nd(dims, kernel_size=2, stride=2)(x)
    assert pooled.shape == (1, 4, *[3] * dims)
    corner = x[(slice(None), slice(None), *[slice(0, 2)] * dims)]
    first = pooled[(slice(None), slice(None), *[0] * dims)]
    torch.testing.assert_close(first, corner.flatten(2).mean(dim=2))


@pytest.mark.parametrize("build", [gd_nn.conv_nd, gd_nn.avg_pool_nd])
def test_unknown_dimension_is_named(build):
    with pytest.raises(ValueError, match="dims: expected 1, 2 or 3, got 4"):
        build(4, 3, 3, 3)


def test_linear_is_affine():
    layer = load_drawn_weights(gd_nn.linear(3, 2))
    x = draw(6, 5, 3)
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)


@settings(max_examples=20)
@given(rate=st.floats(0, 1), seed=st.integers(0, 1000))
def test_update_ema_is_a_convex_combination(rate, seed):
    targets = [torch.nn.Parameter(draw(seed, 3, 2)), torch.nn.Parameter(draw(seed + 1, 4))]
    sources = [torch.nn.Parameter(draw(seed + 2, 3, 2)), torch.nn.Parameter(draw(seed + 3, 4))]
    pairs = zip(targets, sources, strict=True)
    expected = [rate * t.detach() + (1 - rate) * s.detach() for t, s in pairs]
    kept = [s.detach().clone() for s in sources]

    gd_nn.update_ema(iter(targets), iter(sources), rate=rate)

    for target, source, value, old in zip(targets, sources, expected, kept, strict=True):
        torch.testing.assert_close(target.detach(), value, atol=1e-6, rtol=1e-6)
        assert torch.equal(source, old)


def test_update_ema_default_rate_mixed_dtypes_and_no_parameters():
    target, source = [torch.ones(3)], [torch.zeros(3, dtype=torch.float16)]
    gd_nn.update_ema(target, source)
    torch.testing.assert_close(target[0], torch.full((3,), 0.99))
    gd_nn.update_ema([], [])


@pytest.mark.parametrize("rate", [0.0, 0.9, 0.9999, 1.0])
def test_update_ema_of_a_step_that_the_device_took_or_not_is_exact(rate):
    start, sources = [draw(1, 3, 50), draw(2, 7)], [draw(3, 3, 50), draw(4, 7)]

    def averaged(taken):
        targets = [value.clone() for value in start]
        gd_nn.update_ema(targets, sources, rate, taken=taken)
        return targets

    for taken, expected in ((True, averaged(True)), (False, start)):
        for found in (averaged(taken), averaged(torch.tensor(taken))):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_update_ema_refuses_lists_of_different_lengths():
    with pytest.raises(ValueError, match=r"target parameters \(2\), got 1"):
        gd_nn.update_ema([torch.ones(1), torch.ones(1)], [torch.ones(1)])


def test_zero_and_scale_module_return_the_changed_module():
    layer = load_drawn_weights(torch.nn.Linear(3, 2))
    before = layer.weight.detach().clone()
    assert gd_nn.scale_module(layer, 0.5) is layer
    torch.testing.assert_close(layer.weight.detach(), 0.5 * before)
    assert gd_nn.zero_module(layer) is layer
    assert not any(p.any() for p in layer.parameters())
    assert all(p.requires_grad for p in layer.parameters())


def test_mean_flat_averages_all_but_the_batch():
    x = torch.arange(12.0).reshape(2, 3, 1, 2)
    torch.testing.assert_close(gd_nn.mean_flat(x), torch.tensor([2.5, 8.5]))


@pytest.mark.parametrize("dim", [32, 33])
def test_timestep_embedding_reference(dim):
    with np.load(REFERENCE / "timestep_embedding.npz", allow_pickle=False) as reference:
        expected = torch.from_numpy(reference[f"timestep_embedding/{dim}"])
    out = gd_nn.timestep_embedding(torch.tensor([0, 1, 17.5, 999]), dim)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_timestep_embedding_period_and_integer_steps():
    out = gd_nn.timestep_embedding(torch.tensor([7]), 4, max_period=100)
    expected = [[math.cos(7), math.cos(0.7), math.sin(7), math.sin(0.7)]]
    torch.testing.assert_close(out, torch.tensor(expected))


class DroppingCounter(torch.nn.Module):
    """Counts its evaluations and draws random numbers in each."""

    def __init__(self):
        super().__init__()
        self.layer = load_drawn_weights(torch.nn.Linear(8, 8))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.nn.functional.dropout(self.layer(x).sin(), 0.5)


@pytest.mark.parametrize("spelling", ["checkpoint", "CheckpointFunction"])
def test_checkpoint_recomputes_and_gives_the_same_gradients(spelling):
    results = {}
    for flag in (False, True):
        torch.manual_seed(0)
        module, x = DroppingCounter(), draw(7, 4, 8).requires_grad_()
        if flag and spelling == "CheckpointFunction":
            out = gd_nn.CheckpointFunction.apply(module, 1, x, *module.parameters())
        else:
            out = gd_nn.checkpoint(module, (x,), module.parameters(), flag)
        out.square().sum().backward()
        results[flag] = (out.detach(), x.grad, module.layer.weight.grad, module.layer.bias.grad)
        assert module.calls == (2 if flag else 1)
    assert all(torch.equal(a, b) for a, b in zip(results[False], results[True], strict=True))


def test_conversion_touches_convolutions_only_and_keeps_the_parameter_objects():
    layers = torch.nn.Sequential(
        *[torch.nn.Conv1d(32, 32, 1), torch.nn.Conv2d(32, 32, 1, bias=False)],
        *[torch.nn.Conv3d(32, 32, 1), gd_nn.normalization(32), torch.nn.Linear(32, 32)],
    )
    before = list(layers.parameters())
    layers.apply(gd_nn.convert_module_to_f16)
    assert [layer.weight.dtype == torch.float16 for layer in layers] == [True] * 3 + [False] * 2
    assert layers[0].bias.dtype == torch.float16
    assert all(a is b for a, b in zip(before, layers.parameters(), strict=True))
    layers.apply(gd_nn.convert_module_to_f32)
    assert {p.dtype for p in layers.parameters()} == {torch.float32}
