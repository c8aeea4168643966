"""Bits per dimension: against closed forms for normal pixels, and independent of the batch."""

import math

import numpy as np
import pytest
import torch
from support.cli import draw_images
from support.gaussian_oracle import (
    GaussianOracle,
    best_variances,
    bound,
    design,
    entropy,
    uncertainty,
)
from support.toy_domains import ReferenceSource, domain

from guided_diffusion import gaussian_diffusion as gd
from guided_diffusion.data.image_formats import open_images
from guided_diffusion.respace import SpacedDiffusion
from guided_diffusion.sampling import likelihood
from guided_diffusion.script_util import create_gaussian_diffusion

MEAN, STD = 0.1, 0.25  # the ends of the range are 3.6 deviations away
VARIANCES = {"large": {}, "small": {"sigma_small": True}, "learned": {"learn_sigma": True}}
every_variance = pytest.mark.parametrize("kind", VARIANCES)


def measure(diffusion, count=64):
    """The terms [T], t = 0 first, and the prior's, over pixels that stand for N(MEAN, STD^2).

    Each of `count` values meets each of `count` values of the noise, both of exact variance, so
    that terms which are quadratic in the two come out without any error of sampling.
    """
    points = design(count)
    images = (MEAN + STD * points[:, None]).expand(1, 1, count, count)
    diffusion.noise_like = lambda x: points.expand(1, 1, count, count)
    oracle = GaussianOracle(diffusion, MEAN, STD)
    found = diffusion.calc_bpd_loop(oracle, images, clip_denoised=False)
    terms = found["vb"][0].flip(0).double().numpy()
    assert found["total_bpd"].item() == pytest.approx(terms.sum() + found["prior_bpd"].item())
    return terms, found["prior_bpd"].item()


@every_variance
@pytest.mark.parametrize(
    "process",
    [
        {"steps": 100},
        {"steps": 400, "noise_schedule": "cosine"},
        {"steps": 1000, "timestep_respacing": "50"},
        {"steps": 1000, "timestep_respacing": "ddim25", "noise_schedule": "cosine"},
    ],
)
def test_every_term_of_the_bound_is_the_closed_form(process, kind):
    diffusion = create_gaussian_diffusion(**process, **VARIANCES[kind])
    terms, prior = measure(diffusion)
    expected, expected_prior = bound(diffusion, MEAN, STD)
    np.testing.assert_allclose(terms[1:], expected[1:], rtol=1e-3, atol=2e-6)
    # An approximate normal distribution, and 64 points for a term that is not quadratic.
    assert terms[0] == pytest.approx(expected[0], abs=5e-3)
    assert prior == pytest.approx(expected_prior, rel=1e-2, abs=1e-8)


@pytest.mark.parametrize("steps", [100, 400, 1000])
def test_with_the_right_variances_the_bound_is_the_entropy(steps):
    terms, prior = measure(create_gaussian_diffusion(steps=steps, learn_sigma=True))
    assert terms.sum() + prior == pytest.approx(entropy(STD), abs=3e-3)


def test_with_fixed_variances_the_bound_falls_towards_the_entropy_with_more_steps():
    gaps = []
    for steps in (100, 400, 1000):
        terms, prior = measure(create_gaussian_diffusion(steps=steps, sigma_small=True))
        gaps.append(terms.sum() + prior - entropy(STD))
    assert gaps == pytest.approx([1.568, 0.935, 0.750], abs=5e-3)


@pytest.mark.parametrize("variance", [gd.ModelVarType.FIXED_SMALL, gd.ModelVarType.FIXED_LARGE])
def test_moves_between_the_same_ends_lose_in_proportion_to_their_length(variance):
    losses = []
    for steps in (25, 100, 400):
        diffusion = between_fixed_ends(steps, variance)
        losses.append(measure(diffusion, count=2)[0][1:].sum() - best_moves(diffusion))
    assert losses[2] < 0.05
    assert losses[0] / losses[1] == pytest.approx(4, rel=0.25)
    assert losses[1] / losses[2] == pytest.approx(4, rel=0.05)


def between_fixed_ends(steps, variance):
    """A process from one signal-to-noise ratio to another in equal moves of its logarithm."""
    levels = 1 / (1 + np.exp(-np.linspace(math.log(1e3), math.log(1e-4), steps)))
    return SpacedDiffusion(
        use_timesteps=range(steps),
        betas=1 - levels / np.append(1, levels[:-1]),
        model_mean_type=gd.ModelMeanType.EPSILON,
        model_var_type=variance,
        loss_type=gd.LossType.MSE,
    )


def best_moves(diffusion):
    """Bits of all moves but the last, if each had the variance that it should."""
    ratio = best_variances(diffusion, STD)[1:] / diffusion.posterior_variance[1:]
    return float(np.log2(ratio).sum() / 2)


def test_a_denoiser_that_is_off_costs_bits():
    diffusion = create_gaussian_diffusion(steps=100, learn_sigma=True)
    right, _ = measure(diffusion)
    worse = create_gaussian_diffusion(steps=100, learn_sigma=True)
    oracle = GaussianOracle(worse, MEAN, STD)
    oracle.mean += 0.1
    points = design(2)
    worse.noise_like = lambda x: points.expand(1, 1, 2, 2)
    images = (MEAN + STD * points[:, None]).expand(1, 1, 2, 2)
    found = worse.calc_bpd_loop(oracle, images, clip_denoised=False)["vb"].sum().item()
    # The whole of it is the divergence of two normals, 0.1 apart.
    assert found - right.sum() == pytest.approx(0.5 * (0.1 / STD) ** 2 / math.log(2), abs=5e-3)


def test_what_an_image_needs_does_not_depend_on_its_batch(tmp_path):
    images = open_images(draw_images(tmp_path, 5), 16)
    toy = domain(ReferenceSource(), 16, "10")
    together = likelihood.measure(toy, images, range(5), seed=3)
    dtype = likelihood.fields(10)
    assert [name for name, *_ in dtype] == list(np.zeros(1, dtype).dtype.names)
    assert together.keys() == {name for name, *_ in dtype}
    assert together["vb"].shape == (5, 10) and together["total_bpd"].shape == (5,)
    for index in range(5):
        alone = likelihood.measure(toy, images, [index], seed=3)
        for name, values in alone.items():
            np.testing.assert_allclose(values[0], together[name][index], rtol=1e-5, atol=1e-7)
    other = likelihood.measure(toy, images, range(5), seed=4)
    assert not np.allclose(other["mse"], together["mse"], rtol=1e-3)


def test_mean_and_error():
    values = np.array([1, 2, 3, 6], dtype=np.float32)
    mean, error = likelihood.mean_and_error(values)
    assert (mean, error) == (3.0, pytest.approx(math.sqrt(14 / 3 / 4)))
    mean, error = likelihood.mean_and_error(values[:1])
    assert mean == 1.0 and math.isnan(error)


def test_the_oracle_is_the_mean_of_clean_pixels_given_a_noisy_one():
    diffusion = create_gaussian_diffusion(steps=100)
    generator = torch.Generator().manual_seed(0)
    clean = MEAN + STD * torch.randn(1, 1, 300, 300, generator=generator)
    t = torch.tensor([30])
    noisy = diffusion.q_sample(clean, t, torch.randn(clean.shape, generator=generator))
    eps = GaussianOracle(diffusion, MEAN, STD)(noisy, t)
    error = clean - diffusion._predict_xstart_from_eps(noisy, t, eps)
    assert abs(error.mean()) < 3e-3 and abs((error * noisy).mean()) < 3e-3  # nothing left to learn
    assert error.var() == pytest.approx(uncertainty(diffusion, STD)[30], rel=0.02)
