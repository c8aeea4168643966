"""Processes built by hand, used by hand, and subclassed, whose every override takes effect."""

import itertools

import numpy as np
import pytest
import torch as th
from support.upstream_program import SHAPE, build

from guided_diffusion.gaussian_diffusion import (
    GaussianDiffusion,
    LossType,
    ModelMeanType,
    ModelVarType,
    _extract_into_tensor,
    betas_for_alpha_bar,
    get_named_beta_schedule,
)
from guided_diffusion.respace import SpacedDiffusion, space_timesteps
from guided_diffusion.script_util import create_gaussian_diffusion

IMAGES = (1, 3, 16, 16)
HAND_MADE = dict(
    betas=get_named_beta_schedule("linear", 50),
    model_mean_type=ModelMeanType.EPSILON,
    model_var_type=ModelVarType.FIXED_LARGE,
    loss_type=LossType.MSE,
)


def quiet(x, t, **kwargs):
    """A network that needs no weights."""
    return 0.1 * x


def both(kind):
    """Return a class of processes by hand, as it is and on every tenth of its timesteps."""
    spaced = type("Spaced", (SpacedDiffusion, kind), {})
    return kind(**HAND_MADE), spaced(use_timesteps=space_timesteps(50, [5]), **HAND_MADE)


def test_q_sample_is_the_formula_everyone_knows():
    _, _, diffusion = build()
    start, noise, t = th.randn(3, 3, 16, 16), th.randn(3, 3, 16, 16), th.tensor([0, 4, 9])
    ours = diffusion.q_sample(start, t, noise=noise)
    mine = (
        _extract_into_tensor(diffusion.sqrt_alphas_cumprod, t, start.shape) * start
        + _extract_into_tensor(diffusion.sqrt_one_minus_alphas_cumprod, t, start.shape) * noise
    )
    th.testing.assert_close(ours, mine)
    back = diffusion._predict_xstart_from_eps(x_t=ours, t=t, eps=noise)
    th.testing.assert_close(back, start, rtol=1e-3, atol=1e-3)
    eps = diffusion._predict_eps_from_xstart(ours, t, start)
    th.testing.assert_close(eps, noise, rtol=1e-2, atol=1e-2)
    mean, variance, log_variance = diffusion.q_mean_variance(start, t)
    th.testing.assert_close(variance.log(), log_variance)
    assert mean.shape == start.shape
    assert len(diffusion.q_posterior_mean_variance(x_start=start, x_t=ours, t=t)) == 3
    assert diffusion.q_sample(start, t).shape == start.shape


def test_bits_per_dimension():
    _, model, diffusion = build("--learn_sigma", "True")
    out = diffusion.calc_bpd_loop(model, th.zeros(SHAPE), clip_denoised=True)
    assert set(out) >= {"total_bpd", "prior_bpd", "vb", "xstart_mse", "mse"}
    assert out["vb"].shape == (2, 10) and out["total_bpd"].shape == (2,)


def test_ddim_inversion_by_hand_comes_back():
    _, model, diffusion = build("--timestep_respacing", "ddim50")
    start = th.rand(1, 3, 16, 16) * 2 - 1
    state = start

    def smooth(x, t):
        return 0.2 * model(x, t)

    with th.no_grad():
        for index in range(diffusion.num_timesteps - 1):
            t = th.tensor([index])
            out = diffusion.ddim_reverse_sample(smooth, state, t, clip_denoised=False)
            assert set(out) >= {"sample", "pred_xstart"}
            state = out["sample"]
        for index in reversed(range(diffusion.num_timesteps)):
            t = th.tensor([index])
            state = diffusion.ddim_sample(smooth, state, t, clip_denoised=False, eta=0.0)["sample"]
    assert (state - start).abs().mean() < 0.1 * start.abs().mean()


class Inpainting(GaussianDiffusion):
    """A method's paper that changes one step of the sampler and leaves the loop alone."""

    known = None

    def p_sample(self, model, x, t, **kwargs):
        out = super().p_sample(model, x, t, **kwargs)
        out["sample"][:, :, :8] = self.known
        return out


class InpaintingSpaced(SpacedDiffusion, Inpainting):
    pass


@pytest.mark.parametrize("kind", [Inpainting, SpacedDiffusion])
def test_a_process_built_by_hand(kind):
    arguments = dict(HAND_MADE, rescale_timesteps=True)
    if kind is SpacedDiffusion:
        arguments["use_timesteps"] = space_timesteps(50, [5])
    diffusion = kind(**arguments)
    diffusion.known = 0.5
    sample = diffusion.p_sample_loop(quiet, IMAGES, device=th.device("cpu"), progress=False)
    assert th.isfinite(sample).all()
    assert (sample[:, :, :8] == 0.5).all() or kind is SpacedDiffusion
    assert diffusion.betas.dtype == np.float64 and diffusion.alphas_cumprod.ndim == 1


def test_subclassing_the_process_below_the_respacing():
    base = create_gaussian_diffusion(steps=50)
    diffusion = InpaintingSpaced(
        use_timesteps=space_timesteps(50, "5"),
        betas=base.betas,
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.FIXED_SMALL,
        loss_type=LossType.MSE,
    )
    diffusion.known = -0.5
    sample = diffusion.p_sample_loop(quiet, IMAGES, device="cpu")
    assert (sample[:, :, :8] == -0.5).all()


class OldManner(GaussianDiffusion):
    """Written for improved-diffusion, whose samplers have no cond_fn."""

    calls = 0

    def p_sample(self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None):
        self.calls += 1
        out = self.p_mean_variance(
            model,
            x,
            t,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            model_kwargs=model_kwargs,
        )
        return {"sample": out["mean"], "pred_xstart": out["pred_xstart"]}

    def ddim_sample(
        self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None, eta=0.0
    ):
        self.calls += 1
        return super().ddim_sample(
            model,
            x,
            t,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            model_kwargs=model_kwargs,
            eta=eta,
        )

    def p_sample_loop_progressive(
        self,
        model,
        shape,
        noise=None,
        clip_denoised=True,
        denoised_fn=None,
        model_kwargs=None,
        device=None,
        progress=False,
    ):
        self.calls += 100
        yield from super().p_sample_loop_progressive(
            model,
            shape,
            noise=noise,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            model_kwargs=model_kwargs,
            device=device,
            progress=progress,
        )


def test_overrides_with_the_arguments_of_improved_diffusion():
    for diffusion in both(OldManner):
        noise, steps = th.randn(IMAGES), diffusion.num_timesteps
        samples = [
            diffusion.p_sample_loop(quiet, IMAGES, noise=noise, model_kwargs={"y": 1})
            for _ in range(2)
        ]
        assert diffusion.calls == 2 * (100 + steps) and th.equal(*samples)  # no noise is drawn
        diffusion.ddim_sample_loop(quiet, IMAGES, noise=noise)
        assert diffusion.calls == 200 + 3 * steps


class Thresholded(GaussianDiffusion):
    """Limits the clean image in its own way, for every sampler, loss and bound at once."""

    def p_mean_variance(self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None):
        out = super().p_mean_variance(
            model, x, t, clip_denoised=False, denoised_fn=denoised_fn, model_kwargs=model_kwargs
        )
        out["pred_xstart"] = out["pred_xstart"].clamp(-0.25, 0.25)
        out["mean"], _, _ = self.q_posterior_mean_variance(out["pred_xstart"], x, t)
        return out


def test_overriding_p_mean_variance_reaches_every_sampler():
    for diffusion in both(Thresholded):
        x, t = 9 * th.randn(SHAPE), th.tensor([4, 2])
        for move in (diffusion.p_sample, diffusion.ddim_sample, diffusion.ddim_reverse_sample):
            assert move(quiet, x, t)["pred_xstart"].abs().max() == 0.25
        for loop in (diffusion.p_sample_loop, diffusion.ddim_sample_loop):
            assert loop(quiet, SHAPE).abs().max() < 0.3
        assert diffusion.calc_bpd_loop(quiet, th.ones(SHAPE))["xstart_mse"].min() >= 0.75**2


class PassingOn(GaussianDiffusion):
    """Names no argument that upstream's own calls give by name."""

    def p_mean_variance(self, model, x, t, **kwargs):
        assert kwargs.keys() >= {"clip_denoised", "model_kwargs"}
        return super().p_mean_variance(model, x, t, **kwargs)

    def q_posterior_mean_variance(self, **kwargs):
        return super().q_posterior_mean_variance(**kwargs)

    def _vb_terms_bpd(self, model, **kwargs):
        return super()._vb_terms_bpd(model, **kwargs)

    def _predict_xstart_from_xprev(self, **kwargs):
        return super()._predict_xstart_from_xprev(**kwargs)


def test_arguments_come_by_name_as_from_upstream():
    for diffusion in both(PassingOn):
        x, t = th.randn(SHAPE), th.tensor([4, 2])
        for move in (diffusion.p_sample, diffusion.ddim_sample, diffusion.ddim_reverse_sample):
            assert move(quiet, x, t)["sample"].shape == SHAPE
        assert diffusion.ddim_sample(quiet, x, t, cond_fn=quiet)["sample"].shape == SHAPE
        assert diffusion.calc_bpd_loop(quiet, x)["vb"].shape[0] == SHAPE[0]
    for loss_type, mean_type in itertools.product(LossType, ModelMeanType):
        own = {"loss_type": loss_type, "model_mean_type": mean_type}
        diffusion = PassingOn(**HAND_MADE | own)
        assert diffusion.training_losses(quiet, x, t)["loss"].shape == t.shape
        diffusion.model_var_type = ModelVarType.LEARNED_RANGE
        wide = diffusion.training_losses(lambda x, t: th.cat([x, x], 1), x, t)
        assert wide["loss"].shape == t.shape


class Watched:
    """A network that keeps what it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, t):
        self.seen.append(x)
        return x


class OffsetNoise(GaussianDiffusion):
    """Adds an offset to what images are noised with, as some trainings do."""

    def q_sample(self, x_start, t, noise=None):
        return super().q_sample(x_start, t, noise=noise) + 100


class Weighted(GaussianDiffusion):
    """A loss of one's own beside upstream's."""

    def training_losses(self, model, x_start, t, model_kwargs=None, noise=None):
        terms = super().training_losses(model, x_start, t, model_kwargs=model_kwargs, noise=noise)
        terms["loss"] = 2 * terms["loss"]
        return terms


def test_overriding_q_sample_and_training_losses():
    start, noise, t = th.randn(SHAPE), th.randn(SHAPE), th.tensor([3, 1])
    for diffusion in both(OffsetNoise):
        watched = Watched()
        diffusion.training_losses(watched, start, t, noise=noise)
        diffusion.calc_bpd_loop(watched, start)
        assert all(x.mean() > 90 for x in watched.seen)
        assert len(watched.seen) == 1 + diffusion.num_timesteps
    for diffusion, plain in zip(both(Weighted), both(GaussianDiffusion), strict=True):
        found, expected = (
            process.training_losses(quiet, start, t, model_kwargs={"y": 0}, noise=noise)
            for process in (diffusion, plain)
        )
        assert th.equal(found["loss"], 2 * expected["mse"]) and th.equal(
            *[terms["mse"] for terms in (found, expected)]
        )


class Counting(SpacedDiffusion):
    """Marks each of its moves, in both directions."""

    def ddim_sample(self, model, x, t, **kwargs):
        out = super().ddim_sample(model, x, t, **kwargs)
        return {**out, "sample": 0 * out["sample"] + t[0]}

    def ddim_reverse_sample(self, model, x, t, **kwargs):
        out = super().ddim_reverse_sample(model, x, t, **kwargs)
        return {**out, "sample": x + 1}


def test_overriding_the_moves_of_ddim():
    diffusion = Counting(use_timesteps=range(0, 50, 10), **HAND_MADE)
    assert diffusion.ddim_sample_loop(quiet, IMAGES).eq(0).all()
    outs = diffusion.ddim_sample_loop_progressive(quiet, IMAGES)
    assert [out["sample"].mean().item() for out in outs] == [4, 3, 2, 1, 0]
    assert diffusion.ddim_reverse_sample_loop(quiet, th.zeros(IMAGES)).eq(5).all()


class Rescaled(GaussianDiffusion):
    """Tells the network a timestep in [0, 1]."""

    def _scale_timesteps(self, t):
        return t.float() / self.num_timesteps


def test_overriding_the_scale_of_timesteps():
    seen = []
    diffusion = Rescaled(**HAND_MADE)
    diffusion.ddim_sample_loop(lambda x, t: seen.append(t) or quiet(x, t), IMAGES)
    diffusion.training_losses(lambda x, t: seen.append(t) or x, th.zeros(IMAGES), th.tensor([25]))
    assert [t.item() for t in seen] == pytest.approx([i / 50 for i in [*range(50)][::-1]] + [0.5])


@pytest.mark.parametrize("loss_type", LossType)
@pytest.mark.parametrize("mean_type", ModelMeanType)
def test_every_type_of_mean_and_loss(mean_type, loss_type):
    arguments = dict(HAND_MADE, model_mean_type=mean_type, loss_type=loss_type)
    arguments["betas"] = betas_for_alpha_bar(20, lambda s: np.cos(s * np.pi / 2) ** 2)
    diffusion = GaussianDiffusion(**arguments)
    start, noise, t = th.rand(SHAPE) * 2 - 1, th.randn(SHAPE), th.tensor([7, 12])
    state = diffusion.q_sample(start, t, noise=noise)
    ideal = {
        ModelMeanType.EPSILON: noise,
        ModelMeanType.START_X: start,
        ModelMeanType.PREVIOUS_X: diffusion.q_posterior_mean_variance(start, state, t)[0],
    }[mean_type]
    out = diffusion.p_mean_variance(lambda *_: ideal, state, t, clip_denoised=False)
    th.testing.assert_close(out["pred_xstart"], start, rtol=1e-2, atol=1e-2)
    best, worse = (
        diffusion.training_losses(lambda *_, r=r: r, start, t, noise=noise)["loss"]
        for r in (ideal, ideal + 1)
    )
    assert (best < worse).all() and loss_type.is_vb() == (loss_type.name.endswith("KL"))


class NewManner(GaussianDiffusion):
    """Insists on what guided-diffusion's loops always hand over."""

    def p_sample(self, model, x, t, *, clip_denoised, denoised_fn, cond_fn, model_kwargs):
        return super().p_sample(model, x, t, clip_denoised, denoised_fn, cond_fn, model_kwargs)

    def ddim_sample(self, model, x, t, **kwargs):
        assert kwargs.pop("cond_fn") is None
        return super().ddim_sample(model, x, t, **kwargs)

    def p_sample_loop_progressive(self, model, shape, *, cond_fn, **kwargs):
        return super().p_sample_loop_progressive(model, shape, cond_fn=cond_fn, **kwargs)


def test_overrides_that_require_the_arguments_of_guided_diffusion():
    for diffusion in both(NewManner):
        for loop in (diffusion.p_sample_loop, diffusion.ddim_sample_loop):
            assert loop(quiet, IMAGES).shape == IMAGES


def test_guidance_that_a_sampler_does_not_know_is_not_dropped():
    with pytest.raises(TypeError, match="cond_fn"):
        OldManner(**HAND_MADE).p_sample_loop(quiet, IMAGES, cond_fn=lambda x, t: x)
