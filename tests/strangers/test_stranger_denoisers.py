"""Samplers of other projects that use no more of a process than its numpy arrays and the network.

Each is written from the formulas of its paper, and judged by the numbers of the process itself.
"""

import numpy as np
import pytest
import torch as th
import torch.nn as nn
from support.upstream_program import SHAPE, build

from guided_diffusion.gaussian_diffusion import LossType, ModelMeanType, ModelVarType
from guided_diffusion.respace import SpacedDiffusion

FULL = "--timestep_respacing= --diffusion_steps 25 --learn_sigma True".split()


@pytest.fixture
def trained():
    """A network with learned variances, and its process of 25 steps."""
    _, model, diffusion = build(*FULL)
    return model.requires_grad_(False), diffusion


class SigmaDenoiser(nn.Module):
    """A network seen as a denoiser of x0 + sigma * noise, as k-diffusion's samplers want it."""

    def __init__(self, inner, diffusion, has_learned_sigmas=True):
        super().__init__()
        levels = th.tensor(diffusion.alphas_cumprod, dtype=th.float32)
        self.register_buffer("sigmas", ((1 - levels) / levels).sqrt())
        self.inner, self.has_learned_sigmas = inner, has_learned_sigmas

    def forward(self, x, sigma, **kwargs):
        nearest = (self.sigmas.log() - sigma.log()[:, None]).abs().argmin(dim=1)
        shaped = sigma[:, None, None, None]
        eps = self.inner(x / (shaped**2 + 1).sqrt(), nearest, **kwargs)
        eps = eps.chunk(2, dim=1)[0] if self.has_learned_sigmas else eps
        return x - shaped * eps


def test_a_denoiser_of_sigmas_finds_the_clean_image_of_the_process(trained):
    model, diffusion = trained
    denoiser = SigmaDenoiser(model, diffusion)
    x, t = th.randn(SHAPE), th.tensor([3, 17])
    scale = th.from_numpy(np.sqrt(diffusion.alphas_cumprod)).float()[t, None, None, None]
    found = denoiser(x / scale, denoiser.sigmas[t])
    expected = diffusion.p_mean_variance(model, x, t, clip_denoised=False)["pred_xstart"]
    th.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_eulers_method_over_sigmas_is_ddim(trained):
    model, diffusion = trained
    denoiser, noise = SigmaDenoiser(model, diffusion), th.randn(SHAPE)
    sigmas = th.cat([denoiser.sigmas.flip(0), th.zeros(1)])
    x = noise * (1 + sigmas[0] ** 2).sqrt()
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - denoiser(x, now.expand(len(x)))) / now
        x = x + slope * (then - now)
    expected = diffusion.ddim_sample_loop(model, SHAPE, noise=noise, clip_denoised=False)
    th.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)


def test_a_score_function_of_a_purifier_makes_the_mean_of_the_reverse_move(trained):
    model, diffusion = trained
    betas = th.from_numpy(diffusion.betas).float()
    x, t = th.randn(SHAPE), th.tensor([9, 22])
    eps, _ = th.split(model(x, t), 3, dim=1)
    beta = betas[t, None, None, None]
    rest = th.from_numpy(diffusion.sqrt_one_minus_alphas_cumprod).float()[t, None, None, None]
    mean = (x - beta * eps / rest) / (1 - beta).sqrt()
    out = diffusion.p_mean_variance(model, x, t, clip_denoised=False)
    th.testing.assert_close(mean, out["mean"], rtol=1e-3, atol=1e-4)
    low = th.from_numpy(diffusion.posterior_log_variance_clipped).float()[t, None, None, None]
    share = (model(x, t)[:, 3:] + 1) / 2
    log_variance = share * beta.log() + (1 - share) * low
    th.testing.assert_close(log_variance, out["log_variance"], rtol=1e-4, atol=1e-4)
    th.testing.assert_close(log_variance.exp(), out["variance"], rtol=1e-4, atol=1e-6)


def spaced(diffusion, sequence):
    """Return the process on these timesteps of another one."""
    return SpacedDiffusion(
        use_timesteps=set(sequence),
        betas=diffusion.betas,
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.LEARNED_RANGE,
        loss_type=LossType.MSE,
    )


def restore(model, betas, sequence, x, edit, eta=0.85):
    """Sample as the solvers of linear inverse problems do, which edit each clean image."""
    levels = th.cat([th.ones(1), (1 - th.from_numpy(betas).float()).cumprod(0)])  # from t = -1 on
    pairs = zip(reversed(sequence), reversed([-1, *sequence[:-1]]), strict=True)
    for now, then in pairs:
        level, after = levels[now + 1], levels[then + 1]
        eps = model(x, th.full((len(x),), now))[:, :3]
        clean = edit((x - eps * (1 - level).sqrt()) / level.sqrt())
        eps = (x - level.sqrt() * clean) / (1 - level).sqrt()
        drawn = th.randn_like(x)
        spread = eta * ((1 - after) / (1 - level) * (1 - level / after)).sqrt()
        x = after.sqrt() * clean + spread * drawn + (1 - after - spread**2).sqrt() * eps
    return x


def test_null_space_restoration_is_ddim_with_edited_clean_images(trained):
    model, diffusion = trained
    sequence = list(range(0, diffusion.num_timesteps, 5))
    observed, noise = th.rand(SHAPE) * 2 - 1, th.randn(SHAPE)
    mask = (th.rand(1, 1, 16, 16) > 0.5).float()

    def keep_observed(clean):
        return mask * observed + (1 - mask) * clean

    th.manual_seed(5)
    mine = restore(model, diffusion.betas, sequence, noise, keep_observed)
    th.manual_seed(5)
    theirs = spaced(diffusion, sequence).ddim_sample_loop(
        model, SHAPE, noise=noise, clip_denoised=False, denoised_fn=keep_observed, eta=0.85
    )
    th.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    th.testing.assert_close(mine * mask, observed * mask, rtol=0, atol=1e-4)


def test_first_order_solver_in_log_signal_to_noise_is_ddim():
    _, model, diffusion = build(*FULL, "--class_cond", "True")
    log_alpha = 0.5 * np.log(1 - diffusion.betas).cumsum()
    sigma = np.sqrt(1 - np.exp(2 * log_alpha))
    log_ratio = log_alpha - np.log(sigma)
    kwargs, noise = {"y": th.tensor([4, 9])}, th.randn(SHAPE)
    steps, x = [24, 18, 12, 6, 0], noise
    with th.no_grad():
        for now, then in zip(steps[:-1], steps[1:], strict=True):
            eps = model(x, th.full((2,), now), **kwargs)[:, :3]
            width = log_ratio[then] - log_ratio[now]
            ratio = np.exp(log_alpha[then] - log_alpha[now])
            x = float(ratio) * x - float(sigma[then] * np.expm1(width)) * eps
    moves = spaced(diffusion, steps).ddim_sample_loop_progressive(
        model, SHAPE, noise=noise, clip_denoised=False, model_kwargs=kwargs
    )
    states = [out["sample"] for out in moves]
    assert len(states) == len(steps)  # the last one goes from t = 0 to the clean image
    th.testing.assert_close(x, states[-2], rtol=1e-3, atol=1e-3)


def plug_and_play(diffusion, model, noise, observed, noise_level):
    """Restore by turns: denoise, pull towards the observation, and add noise for the next step."""
    signal, spread = diffusion.sqrt_alphas_cumprod, diffusion.sqrt_one_minus_alphas_cumprod
    ratio, x = spread / signal, noise
    for index in reversed(range(diffusion.num_timesteps)):
        assert np.abs(ratio - ratio[index]).argmin() == index
        t = th.full((len(x),), index)
        clean = diffusion.p_sample(model, x, t, clip_denoised=False)["pred_xstart"]
        if noise_level:
            weight = float(noise_level**2 / ratio[index] ** 2)
            clean = (observed + weight * clean) / (1 + weight)
        eps = (x - float(signal[index]) * clean) / float(spread[index])
        x = clean
        if index:
            x = float(signal[index - 1]) * clean + float(spread[index - 1]) * eps
    return x


def test_plug_and_play_restoration(trained):
    model, diffusion = trained
    noise, observed = th.randn(SHAPE), th.rand(SHAPE) * 2 - 1
    free = plug_and_play(diffusion, model, noise, observed, noise_level=0)
    expected = diffusion.ddim_sample_loop(model, SHAPE, noise=noise, clip_denoised=False)
    th.testing.assert_close(free, expected, rtol=1e-3, atol=1e-3)
    pulled = plug_and_play(diffusion, model, noise, observed, noise_level=0.01)
    assert (pulled - observed).abs().max() < 0.02 < (free - observed).abs().max()


def test_every_array_of_a_process_is_float64_numpy_and_what_its_name_says():
    _, _, diffusion = build("--noise_schedule", "cosine")
    betas = diffusion.betas
    level = np.cumprod(1 - betas)
    before, after = np.append(1, level[:-1]), np.append(level[1:], 0)
    variance = betas * (1 - before) / (1 - level)
    expected = {
        "alphas_cumprod": level,
        "alphas_cumprod_prev": before,
        "alphas_cumprod_next": after,
        "sqrt_alphas_cumprod": np.sqrt(level),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - level),
        "log_one_minus_alphas_cumprod": np.log(1 - level),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / level),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / level - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.append(variance[1], variance[1:])),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - level),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - level),
    }
    for name, values in expected.items():
        found = getattr(diffusion, name)
        assert isinstance(found, np.ndarray) and found.dtype == np.float64, name
        np.testing.assert_allclose(found, values, rtol=1e-9, atol=1e-12, err_msg=name)
    assert len(betas) == diffusion.num_timesteps == 10 and diffusion.original_num_steps == 100
    assert diffusion.timestep_map == sorted(diffusion.use_timesteps)


def test_a_respaced_process_asks_at_the_timesteps_of_its_map():
    _, model, diffusion = build("--rescale_timesteps", "True", "--diffusion_steps", "50")
    asked = []

    def model_fn(x, t, **kwargs):
        asked.append(t)
        return model(x, t)

    x, t = th.randn(SHAPE), th.tensor([2, 7])
    with th.no_grad():
        out = diffusion.p_mean_variance(model_fn, x, t, clip_denoised=False, model_kwargs={"z": 0})
        original = th.tensor(diffusion.timestep_map)[t]
        scaled = original.float() * (1000.0 / diffusion.original_num_steps)
        eps = model(x, scaled)
    th.testing.assert_close(asked[0].float(), scaled)
    clean = diffusion._predict_xstart_from_eps(x_t=x, t=t, eps=eps)
    th.testing.assert_close(out["pred_xstart"], clean)
    wrapped = diffusion._wrap_model(model)
    with th.no_grad():
        th.testing.assert_close(wrapped(x, t), eps)
