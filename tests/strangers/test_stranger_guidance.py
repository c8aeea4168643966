"""Guided samplers of other projects: by a classifier, by a CLIP-like loss, by a measurement."""

import argparse

import pytest
import torch as th
import torch.nn as nn
import torch.nn.functional as F
from support.upstream_program import SHAPE, awake, build

from guided_diffusion import dist_util
from guided_diffusion.gaussian_diffusion import (
    LossType,
    ModelMeanType,
    ModelVarType,
    _extract_into_tensor,
)
from guided_diffusion.respace import SpacedDiffusion
from guided_diffusion.script_util import (
    NUM_CLASSES,
    add_dict_to_argparser,
    args_to_dict,
    classifier_defaults,
    create_classifier,
    sr_create_model_and_diffusion,
    sr_model_and_diffusion_defaults,
)
from guided_diffusion.unet import EncoderUNetModel, SuperResModel

Y = {"y": th.tensor([3, 7])}


class MyDenoiser(nn.Module):
    """A user's wrapper: records the timesteps that it is asked for."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.seen = []

    def forward(self, x, timesteps, y=None):
        self.seen.append(timesteps.detach().clone())
        return self.inner(x, timesteps, y=y)


def test_progressive_sampling_through_my_own_module():
    args, model, diffusion = build()
    wrapped = MyDenoiser(model)
    outs = list(
        diffusion.p_sample_loop_progressive(
            wrapped, SHAPE, clip_denoised=args.clip_denoised, model_kwargs={}, progress=False
        )
    )
    assert len(outs) == diffusion.num_timesteps == 10 == len(wrapped.seen)
    assert all(out["sample"].shape == SHAPE for out in outs)
    assert all(out["pred_xstart"].abs().max() <= 1 for out in outs)
    first, last = wrapped.seen[0][0].item(), wrapped.seen[-1][0].item()
    assert (first, last) == (99, 0)  # the original process's timesteps, not the respaced ones


@pytest.mark.parametrize("kind", ["p_sample", "ddim_sample"])
def test_sample_loop_ends_where_the_progressive_one_does(kind):
    _, model, diffusion = build()
    noise = th.randn(SHAPE)
    th.manual_seed(1)
    whole = getattr(diffusion, f"{kind}_loop")(model, SHAPE, noise=noise)
    th.manual_seed(1)
    for out in getattr(diffusion, f"{kind}_loop_progressive")(model, SHAPE, noise=noise):
        final = out["sample"]
    assert th.equal(whole, final)


def test_a_hand_written_loop_over_p_sample_is_the_sample_loop():
    _, model, diffusion = build()
    noise = th.randn(SHAPE)
    th.manual_seed(1)
    whole = diffusion.p_sample_loop(model, SHAPE, noise=noise, clip_denoised=False)
    th.manual_seed(1)
    image = noise
    with th.no_grad():
        for index in reversed(range(diffusion.num_timesteps)):
            t = th.tensor([index] * 2, device=dist_util.dev())
            image = diffusion.p_sample(model, image, t, clip_denoised=False)["sample"]
    th.testing.assert_close(image, whole, rtol=0, atol=1e-6)


def test_sampling_from_a_plain_function_and_a_device():
    _, model, diffusion = build("--class_cond", "True")
    labels = th.randint(0, NUM_CLASSES, (2,), device=dist_util.dev())

    def model_fn(x, t, y=None):
        return model(x, t, y)

    sample = diffusion.ddim_sample_loop(
        model_fn, SHAPE, model_kwargs={"y": labels}, device=dist_util.dev(), eta=0.0
    )
    assert sample.shape == SHAPE and th.isfinite(sample).all()
    pixels = ((sample + 1) * 127.5).clamp(0, 255).to(th.uint8).permute(0, 2, 3, 1).contiguous()
    assert pixels.shape == (2, 16, 16, 3)


def test_denoised_fn_is_applied_to_the_prediction_before_it_is_clipped():
    _, model, diffusion = build()
    x, t = th.randn(SHAPE), th.tensor([5, 5])
    out = diffusion.p_mean_variance(model, x, t, denoised_fn=lambda x: th.full_like(x, 0.25))
    assert th.equal(out["pred_xstart"], th.full(SHAPE, 0.25))
    assert set(out) >= {"mean", "variance", "log_variance", "pred_xstart"}
    out = diffusion.p_sample(model, x, t, denoised_fn=lambda x: th.full_like(x, 3.0))
    assert th.equal(out["pred_xstart"], th.ones(SHAPE))
    for loop in (diffusion.p_sample_loop, diffusion.ddim_sample_loop):
        sample = loop(model, SHAPE, denoised_fn=lambda x: th.full_like(x, 0.25))
        th.testing.assert_close(sample, th.full(SHAPE, 0.25), rtol=0, atol=1e-4)


def small_classifier():
    """Return a classifier of 64 pixels that is built from a script's flags."""
    parser = argparse.ArgumentParser()
    add_dict_to_argparser(parser, classifier_defaults())
    args = parser.parse_args(
        "--image_size 64 --classifier_width 32 --classifier_depth 1 "
        "--classifier_attention_resolutions 8".split()
    )
    classifier = create_classifier(**args_to_dict(args, classifier_defaults().keys())).eval()
    nn.init.normal_(classifier.out[-1].c_proj.weight, std=0.1)
    return classifier


def test_classifier_guidance_as_in_the_paper():
    _, model, diffusion = build("--learn_sigma", "True", "--class_cond", "True")
    classifier = small_classifier()
    assert isinstance(classifier, EncoderUNetModel)

    def cond_fn(x, t, y=None):
        with th.enable_grad():
            x_in = x.detach().requires_grad_(True)
            log_probs = F.log_softmax(classifier(F.interpolate(x_in, size=64), t), dim=-1)
            selected = log_probs[range(len(x)), y.view(-1)]
            return th.autograd.grad(selected.sum(), x_in)[0]

    x, t = th.randn(SHAPE), th.tensor([6, 6])
    with th.no_grad():
        out = diffusion.p_mean_variance(model, x, t, model_kwargs=Y)
        moved = diffusion.condition_score(cond_fn, out, x, t, model_kwargs=Y)
        mean = diffusion.condition_mean(cond_fn, out, x, t, model_kwargs=Y)
    assert not th.equal(moved["pred_xstart"], out["pred_xstart"])
    assert not th.equal(mean, out["mean"])
    for loop in (diffusion.p_sample_loop, diffusion.ddim_sample_loop):
        th.manual_seed(3)
        guided = loop(model, SHAPE, noise=x, model_kwargs=Y, cond_fn=cond_fn)
        th.manual_seed(3)
        plain = loop(model, SHAPE, noise=x, model_kwargs=Y)
        assert th.isfinite(guided).all() and not th.equal(guided, plain)


def test_the_formulas_of_guidance():
    _, model, diffusion = build("--learn_sigma", "True", "--class_cond", "True")
    x, t, asked = th.randn(SHAPE), th.tensor([6, 2]), []

    def cond_fn(x, t, y=None):
        asked.append((t, y))
        return 0.1 * x

    with th.no_grad():
        out = diffusion.p_mean_variance(model, x, t, clip_denoised=False, model_kwargs=Y)
        mean = diffusion.condition_mean(cond_fn, out, x, t, model_kwargs=Y)
        moved = diffusion.condition_score(cond_fn, out, x, t, model_kwargs=Y)
    th.testing.assert_close(mean, out["mean"] + out["variance"] * 0.1 * x)
    rest = _extract_into_tensor(1 - diffusion.alphas_cumprod, t, SHAPE)
    level = _extract_into_tensor(diffusion.alphas_cumprod, t, SHAPE)
    expected = out["pred_xstart"] + rest / level.sqrt() * 0.1 * x
    th.testing.assert_close(moved["pred_xstart"], expected, rtol=1e-3, atol=1e-3)
    expected = diffusion.q_posterior_mean_variance(moved["pred_xstart"], x, t)[0]
    th.testing.assert_close(moved["mean"], expected)
    for timesteps, labels in asked:
        assert timesteps.tolist() == [diffusion.timestep_map[i] for i in t]
        assert th.equal(labels, Y["y"])


def likeness(image, wanted):
    """Return how far the coarse features of images are from those that are wanted."""
    features = F.normalize(F.adaptive_avg_pool2d(image, 4).flatten(1), dim=1)
    return (features - F.normalize(wanted, dim=1)).norm(dim=1).div(2).arcsin().pow(2).mul(2)


@pytest.mark.parametrize("name", ["p_sample_loop_progressive", "ddim_sample_loop_progressive"])
def test_guidance_by_a_loss_on_the_predicted_clean_image(name):
    _, model, diffusion = build("--learn_sigma", "True", "--class_cond", "True")
    model.requires_grad_(False)
    wanted, noise, strength = th.randn(2, 48), th.randn(SHAPE), 0.0
    current = None

    def cond_fn(x, t, y=None):
        with th.enable_grad():
            x = x.detach().requires_grad_()
            here = th.full((len(x),), current, dtype=th.long, device=x.device)
            out = diffusion.p_mean_variance(
                model, x, here, clip_denoised=False, model_kwargs={"y": y}
            )
            share = float(diffusion.sqrt_one_minus_alphas_cumprod[current])
            blend = out["pred_xstart"] * share + x * (1 - share)
            loss = likeness(blend, wanted).sum() * strength
            return -th.autograd.grad(loss, x)[0]

    def final_loss():
        nonlocal current
        current = diffusion.num_timesteps - 1
        th.manual_seed(4)
        outs = getattr(diffusion, name)(
            model, SHAPE, noise=noise, clip_denoised=False, model_kwargs=Y, cond_fn=cond_fn
        )
        for out in outs:
            current -= 1
            image = out["sample"]
        assert current == -1
        return likeness(image, wanted).sum()

    plain, strength = final_loss(), 300.0
    assert final_loss() < 0.7 * plain


def test_a_measurement_guides_through_the_network():
    _, model, diffusion = build("--learn_sigma", "True")
    model.requires_grad_(False)
    measured, t = th.randn(2, 3, 4, 4), th.tensor([5, 5])

    def distance(x):
        clean = diffusion.p_sample(model, x, t, clip_denoised=False)["pred_xstart"]
        return (measured - F.avg_pool2d(clean, 4)).norm()

    x = th.randn(SHAPE).requires_grad_()
    slope = th.autograd.grad(distance(x), x)[0]
    way = th.randn(SHAPE)
    with th.no_grad():
        rise = (distance(x + 1e-2 * way) - distance(x - 1e-2 * way)) / 2e-2
    th.testing.assert_close(rise, (slope * way).sum(), rtol=2e-2, atol=1e-3)


class Insistent(SpacedDiffusion):
    """A method's process that trusts the gradient twice as much."""

    calls = 0

    def condition_mean(self, cond_fn, p_mean_var, x, t, model_kwargs=None):
        self.calls += 1
        plain = super().condition_mean(cond_fn, p_mean_var, x, t, model_kwargs=model_kwargs)
        return 2 * plain - p_mean_var["mean"]

    def condition_score(self, cond_fn, p_mean_var, x, t, model_kwargs=None):
        self.calls += 1

        def doubled(*args, **kwargs):
            return 2 * cond_fn(*args, **kwargs)

        return super().condition_score(doubled, p_mean_var, x, t, model_kwargs=model_kwargs)


@pytest.mark.parametrize("name", ["p_sample_loop", "ddim_sample_loop"])
def test_a_subclass_that_guides_in_its_own_way(name):
    _, model, diffusion = build("--learn_sigma", "True")
    mine = Insistent(
        use_timesteps=diffusion.use_timesteps,
        betas=build("--timestep_respacing", "")[2].betas,
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.LEARNED_RANGE,
        loss_type=LossType.MSE,
    )
    noise = th.randn(SHAPE)
    th.manual_seed(6)
    found = getattr(mine, name)(model, SHAPE, noise=noise, cond_fn=lambda x, t: -0.1 * x)
    th.manual_seed(6)
    expected = getattr(diffusion, name)(model, SHAPE, noise=noise, cond_fn=lambda x, t: -0.2 * x)
    assert mine.calls == mine.num_timesteps == 10
    th.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_super_resolution_is_guided_by_its_small_picture():
    flags = dict(
        sr_model_and_diffusion_defaults(),
        large_size=64,
        small_size=16,
        num_channels=32,
        num_res_blocks=1,
        attention_resolutions="8",
        diffusion_steps=50,
        timestep_respacing="2",
    )
    model, diffusion = sr_create_model_and_diffusion(**flags)
    assert isinstance(awake(model), SuperResModel)
    low, noise = th.rand(1, 3, 16, 16) * 2 - 1, th.randn(1, 3, 64, 64)
    samples = [
        diffusion.ddim_sample_loop(model, noise.shape, noise=noise, model_kwargs={"low_res": small})
        for small in (low, -low)
    ]
    assert samples[0].shape == noise.shape and not th.equal(*samples)
