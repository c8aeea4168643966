"""Likelihood terms against closed forms, independent implementations and reference numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from guided_diffusion.losses import (
    approx_standard_normal_cdf,
    discretized_gaussian_log_likelihood,
    normal_kl,
)

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "public_diffusion.npz")
X, NOISE = (torch.from_numpy(REFERENCE[f"input/{name}"]) for name in ("x", "noise"))


def test_normal_kl_reference() -> None:
    expected = torch.from_numpy(REFERENCE["normal_kl"])
    torch.testing.assert_close(normal_kl(NOISE, 0 * X - 1, X, 0.3 * NOISE), expected)


def test_normal_kl_agrees_with_torch_distributions() -> None:
    p = torch.distributions.Normal(NOISE, torch.exp(0.5 * X))
    q = torch.distributions.Normal(X, torch.exp(0.5 * NOISE))
    expected = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(normal_kl(NOISE, X, X, NOISE), expected, rtol=1e-4, atol=1e-5)


def test_normal_kl_takes_numbers_beside_a_tensor() -> None:
    expected = 0.5 * (X**2)
    torch.testing.assert_close(normal_kl(X, 0.0, 0.0, 0.0), expected)
    torch.testing.assert_close(normal_kl(0.0, 0.0, X, 0.0), expected)
    with pytest.raises(ValueError, match="expected at least one tensor, found float"):
        normal_kl(1.0, 0.0, 0.0, 0.0)


def test_cdf_is_close_to_erf() -> None:
    x = torch.linspace(-5, 5, 1001)
    exact = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    assert (approx_standard_normal_cdf(x) - exact).abs().max() < 2e-4


def test_discretized_likelihood_reference() -> None:
    found = discretized_gaussian_log_likelihood(X, means=0.8 * X, log_scales=0 * X - 2)
    expected = torch.from_numpy(REFERENCE["discretized_gaussian_log_likelihood"])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mean", [-1.3, -0.2, 0.999, 2.0])
@pytest.mark.parametrize("log_scale", [-4.0, -1.0, 1.0])
def test_the_256_bins_sum_to_one(mean: float, log_scale: float) -> None:
    bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
    found = discretized_gaussian_log_likelihood(
        bins, means=torch.full_like(bins, mean), log_scales=torch.full_like(bins, log_scale)
    )
    assert found.exp().sum().item() == pytest.approx(1.0, abs=1e-8)


def test_likelihood_of_the_impossible_is_finite() -> None:
    one = torch.ones(1)
    found = discretized_gaussian_log_likelihood(one, means=-one, log_scales=-9 * one)
    assert found.item() == pytest.approx(math.log(1e-12))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected .*\(2, 3, 8, 8\), found \(3,\)"):
        discretized_gaussian_log_likelihood(X, means=torch.zeros(3), log_scales=X)
