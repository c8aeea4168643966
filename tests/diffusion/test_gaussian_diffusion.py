"""The process, its predictions, losses and likelihood: reference numbers and closed forms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "public_diffusion.npz")
X, NOISE, T = (torch.from_numpy(REFERENCE[f"input/{name}"]) for name in ("x", "noise", "t"))
MOMENTS = ("mean", "variance", "log_variance")
RANGE = {"model_var_type": ModelVarType.LEARNED_RANGE}
CASES: dict[str, dict[str, Any]] = {
    "learned_linear": RANGE,
    "fixed_large_cosine": {"schedule": "cosine"},
    "fixed_small": {"model_var_type": ModelVarType.FIXED_SMALL},
    "rescaled_mse": {**RANGE, "loss_type": LossType.RESCALED_MSE, "rescale_timesteps": True},
    "kl": {**RANGE, "loss_type": LossType.RESCALED_KL},
    "xstart": {"model_mean_type": ModelMeanType.START_X},
    "respaced": {**RANGE, "steps": 1000, "spacing": "40", "rescale_timesteps": True},
    "respaced_ddim": {**RANGE, "steps": 1000, "spacing": "ddim50"},
}
every_case = pytest.mark.parametrize("case", CASES)


def arguments(
    steps: int = 100, schedule: str = "linear", spacing: str = "", **changes: Any
) -> dict[str, Any]:
    return {
        "betas": get_named_beta_schedule(schedule, steps),
        "model_mean_type": ModelMeanType.EPSILON,
        "model_var_type": ModelVarType.FIXED_LARGE,
        "loss_type": LossType.MSE,
        **changes,
    }


def process(**options: Any) -> GaussianDiffusion:
    if "spacing" not in options:
        return GaussianDiffusion(**arguments(**options))
    kept = space_timesteps(options["steps"], options["spacing"])
    return SpacedDiffusion(kept, **arguments(**options))


def network(case: str) -> Callable[..., torch.Tensor]:
    """The function of x and t behind the reference numbers."""
    learned = CASES[case].get("model_var_type") == ModelVarType.LEARNED_RANGE

    def f(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        tt = (t.float() / 1000).reshape(-1, 1, 1, 1)
        eps = 0.9 * x * torch.cos(tt) + 0.05 * torch.sin(3 * x)
        return torch.cat([eps, 0.5 * torch.tanh(x + tt)], dim=1) if learned else eps

    return f


def guidance(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return -0.3 * x


def check(key: str, found: torch.Tensor | np.ndarray, atol: float = 0.0) -> None:
    """Within 1e-5 of the largest reference value, plus `atol`."""
    expected = REFERENCE[key]
    assert found.shape == expected.shape, key
    difference = np.abs(np.asarray(found, dtype=np.float64) - expected).max()
    assert difference <= 1e-5 * np.abs(expected).max() + atol, f"{key}: off by {difference:.3g}"


@pytest.mark.parametrize("key", [key for key in REFERENCE.files if key.startswith("betas/")])
def test_reference_betas(key: str) -> None:
    _, name, steps = key.split("/")
    np.testing.assert_allclose(get_named_beta_schedule(name, int(steps)), REFERENCE[key], 1e-12)


@every_case
def test_reference_moments(case: str) -> None:
    diffusion, f = process(**CASES[case]), network(case)
    check(f"{case}/q_sample", diffusion.q_sample(X, T, NOISE))
    moments = diffusion.q_posterior_mean_variance(X, NOISE, T)
    for name, found in zip(MOMENTS, moments, strict=True):
        check(f"{case}/q_posterior/{name}", found)
    for clip in (True, False):
        out = diffusion.p_mean_variance(f, NOISE, T, clip_denoised=clip)
        assert set(out) == {*MOMENTS, "pred_xstart"}
        for name, found in out.items():
            check(f"{case}/p_mean_variance/clip_{clip}/{name}", found)


@every_case
def test_reference_losses(case: str) -> None:
    diffusion, f = process(**CASES[case]), network(case)
    losses = diffusion.training_losses(f, X, T, noise=NOISE)
    prefix = f"{case}/training_losses/"
    assert {prefix + name for name in losses} == {k for k in REFERENCE.files if prefix in k}
    for name, found in losses.items():
        check(prefix + name, found)


@every_case
def test_reference_bits_per_dimension(case: str) -> None:
    diffusion, f = process(**CASES[case]), network(case)
    # The prior term is what is left of numbers near 1 in float32: one of their ulps is 6e-8.
    check(f"{case}/prior_bpd", diffusion._prior_bpd(X), atol=1e-7)
    torch.manual_seed(7)
    for name, found in diffusion.calc_bpd_loop(f, X[:1]).items():
        atol = 1e-7 if name == "prior_bpd" else 0.0
        check(f"{case}/calc_bpd_loop/seed7/{name}", found, atol)


@every_case
def test_reference_moves(case: str) -> None:
    diffusion, f = process(**CASES[case]), network(case)
    guided = {"cond_fn": guidance, "model_kwargs": {}}
    moves: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "ddim_sample/eta0": lambda: diffusion.ddim_sample(f, NOISE, T, eta=0.0),
        "ddim_sample/eta0.7/seed5": lambda: diffusion.ddim_sample(f, NOISE, T, eta=0.7),
        "ddim_sample/cond_fn": lambda: diffusion.ddim_sample(f, NOISE, T, **guided),
        "p_sample/seed5": lambda: diffusion.p_sample(f, NOISE, T),
        "p_sample/cond_fn/seed5": lambda: diffusion.p_sample(f, NOISE, T, **guided),
        "ddim_reverse_sample": lambda: diffusion.ddim_reverse_sample(f, X, T),
    }
    for name, move in moves.items():
        torch.manual_seed(5)
        check(f"{case}/{name}", move()["sample"])


@every_case
def test_reference_loops(case: str) -> None:
    diffusion, f = process(**CASES[case]), network(case)
    found = diffusion.ddim_sample_loop(f, X.shape, noise=NOISE, clip_denoised=False)
    check(f"{case}/ddim_sample_loop", found)
    torch.manual_seed(6)
    check(f"{case}/p_sample_loop/seed6", diffusion.p_sample_loop(f, X.shape, noise=NOISE))


def test_tables() -> None:
    diffusion = process()
    levels = np.cumprod(1 - diffusion.betas)
    np.testing.assert_array_equal(diffusion.alphas_cumprod, levels)
    np.testing.assert_array_equal(diffusion.alphas_cumprod_prev, [1.0, *levels[:-1]])
    np.testing.assert_array_equal(diffusion.alphas_cumprod_next, [*levels[1:], 0.0])
    np.testing.assert_allclose(
        diffusion.sqrt_alphas_cumprod**2 + diffusion.sqrt_one_minus_alphas_cumprod**2, 1.0
    )
    assert diffusion.betas.dtype == diffusion.posterior_variance.dtype == np.float64
    assert diffusion.posterior_variance[0] == 0.0
    assert np.isfinite(diffusion.posterior_log_variance_clipped).all()


def test_tables_are_copied_to_a_device_once() -> None:
    diffusion, device = process(), torch.device("cpu")
    first = diffusion._table("alphas_cumprod", device)
    assert diffusion._table("alphas_cumprod", device) is first
    assert first.dtype == torch.float64
    again = copy.deepcopy(diffusion)
    torch.testing.assert_close(again.q_sample(X, T, NOISE), diffusion.q_sample(X, T, NOISE))


def test_extraction_takes_arrays_and_tensors() -> None:
    table = np.linspace(0, 1, 100)
    for arr in (table, torch.from_numpy(table)):
        found = _extract_into_tensor(arr, T, X.shape)
        assert found.shape == X.shape and found.dtype == torch.float32
        np.testing.assert_allclose(found[:, 0, 0, 0], table[T], rtol=1e-6)


def test_betas_follow_alpha_bar_up_to_the_limit() -> None:
    betas = betas_for_alpha_bar(10, lambda u: (1 - u) ** 2, max_beta=0.9)
    np.testing.assert_allclose(np.cumprod(1 - betas)[:-1], (1 - np.arange(1, 10) / 10) ** 2)
    assert betas[-1] == 0.9


def test_posterior_is_bayes_rule() -> None:
    """A product of Gaussians in x_{t-1}: precisions add, means weigh by precision."""
    diffusion, t = process(), 37
    mean, variance, log_variance = diffusion.q_posterior_mean_variance(
        X, NOISE, torch.full((2,), t)
    )
    alpha, prev = 1 - diffusion.betas[t], diffusion.alphas_cumprod_prev[t]
    from_prior, from_state = 1 / (1 - prev), alpha / diffusion.betas[t]
    expected = from_prior * math.sqrt(prev) * X + from_state / math.sqrt(alpha) * NOISE
    torch.testing.assert_close(mean, expected / (from_prior + from_state))
    torch.testing.assert_close(variance, torch.full_like(X, 1 / (from_prior + from_state)))
    torch.testing.assert_close(log_variance, variance.log())


def test_noise_and_image_are_recovered_from_a_state() -> None:
    diffusion = process()
    x_t = diffusion.q_sample(X, T, NOISE)
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(diffusion._predict_eps_from_xstart(x_t, T, X), NOISE, **close)
    torch.testing.assert_close(diffusion._predict_xstart_from_eps(x_t, T, NOISE), X, **close)
    previous = diffusion.q_posterior_mean_variance(X, x_t, T)[0]
    torch.testing.assert_close(diffusion._predict_xstart_from_xprev(x_t, T, previous), X, **close)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("mean_type", ModelMeanType)
def test_mean_types_agree(mean_type: ModelMeanType, clip: bool) -> None:
    """A network that knows the image says the same in each parametrisation."""
    diffusion = process(model_mean_type=mean_type)
    x_t = diffusion.q_sample(2 * X, T, NOISE)
    posterior = diffusion.q_posterior_mean_variance(2 * X, x_t, T)[0]
    says = {
        ModelMeanType.EPSILON: NOISE,
        ModelMeanType.START_X: 2 * X,
        ModelMeanType.PREVIOUS_X: posterior,
    }[mean_type]
    close = {"rtol": 1e-3, "atol": 1e-4}
    out = diffusion.p_mean_variance(lambda x, t: says, x_t, T, clip_denoised=clip)
    image = (2 * X).clamp(-1, 1) if clip else 2 * X
    torch.testing.assert_close(out["pred_xstart"], image, **close)
    eps = diffusion.predict_eps(lambda x, t: says, x_t, T, clip_denoised=clip)
    expected = diffusion._predict_eps_from_xstart(x_t, T, image)
    torch.testing.assert_close(eps, expected, **close)


@every_case
def test_predicted_eps_is_what_ddim_uses(case: str) -> None:
    diffusion, f = process(**CASES[case]), network(case)
    for clip in (False, True):
        out = diffusion.p_mean_variance(f, NOISE, T, clip_denoised=clip)
        expected = diffusion._predict_eps_from_xstart(NOISE, T, out["pred_xstart"])
        found = diffusion.predict_eps(f, NOISE, T, clip_denoised=clip)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_learned_log_variance_is_taken_as_it_is() -> None:
    diffusion = process(model_var_type=ModelVarType.LEARNED)
    out = diffusion.p_mean_variance(lambda x, t: torch.cat([x, 0.1 * X], 1), NOISE, T)
    torch.testing.assert_close(out["log_variance"], 0.1 * X)
    torch.testing.assert_close(out["variance"], torch.exp(0.1 * X))


@pytest.mark.parametrize(
    ("says", "twin"), [(-1.0, ModelVarType.FIXED_SMALL), (1.0, ModelVarType.FIXED_LARGE)]
)
def test_learned_range_spans_the_fixed_variances(says: float, twin: ModelVarType) -> None:
    learned, fixed, t = process(**RANGE), process(model_var_type=twin), torch.tensor([5, 60])
    both = torch.cat([NOISE, torch.full_like(NOISE, says)], 1)
    found = learned.p_mean_variance(lambda x, t: both, NOISE, t)["log_variance"]
    expected = fixed.p_mean_variance(lambda x, t: NOISE, NOISE, t)["log_variance"]
    torch.testing.assert_close(found, expected)


def test_variational_term_does_not_train_the_mean() -> None:
    diffusion = process(**RANGE)
    mean, variance = (torch.full_like(X, 0.1, requires_grad=True) for _ in range(2))
    losses = diffusion.training_losses(
        lambda x, t: torch.cat([mean, variance], 1), X, T, noise=NOISE
    )
    by_vb = torch.autograd.grad(losses["vb"].sum(), [mean, variance])
    assert by_vb[0].abs().sum() == 0 and by_vb[1].abs().sum() > 0
    torch.testing.assert_close(losses["loss"], losses["mse"] + losses["vb"])


def test_rescaled_bound_is_the_bound_times_steps() -> None:
    term, whole = (
        process(**RANGE, loss_type=kind).training_losses(network("kl"), X, T, noise=NOISE)["loss"]
        for kind in (LossType.KL, LossType.RESCALED_KL)
    )
    torch.testing.assert_close(whole, 100 * term)
    assert LossType.KL.is_vb() and not LossType.RESCALED_MSE.is_vb()


@pytest.mark.parametrize("mean_type", ModelMeanType)
def test_squared_error_vanishes_for_the_right_answer(mean_type: ModelMeanType) -> None:
    diffusion = process(model_mean_type=mean_type)

    def oracle(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        answers = {ModelMeanType.EPSILON: NOISE, ModelMeanType.START_X: X}
        return answers.get(mean_type, diffusion.q_posterior_mean_variance(X, x, t)[0])

    assert diffusion.training_losses(oracle, X, T, noise=NOISE)["loss"].max() < 1e-10


def test_bound_of_a_network_that_knows_the_image() -> None:
    """Only the prior and the width of the last Gaussian are left to pay for."""
    image = ((X.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    diffusion = process(
        steps=50, model_mean_type=ModelMeanType.START_X, model_var_type=ModelVarType.FIXED_SMALL
    )
    good = diffusion.calc_bpd_loop(lambda x, t: image, image)
    bad = diffusion.calc_bpd_loop(lambda x, t: 0.9 * image, image)
    assert good["vb"].shape == (2, 50)
    assert good["vb"][:, :-1].abs().max() < 1e-6 and good["xstart_mse"].max() == 0
    assert (good["vb"][:, -1] > 0).all() and (good["vb"][:, -1] < 8).all()
    assert (bad["total_bpd"] > good["total_bpd"] + 0.1).all()
    torch.testing.assert_close(good["total_bpd"], good["vb"].sum(1) + good["prior_bpd"])


def test_guided_score_and_mean() -> None:
    diffusion, f = process(), network("fixed_small")
    out = diffusion.p_mean_variance(f, NOISE, T)
    before = {name: value.clone() for name, value in out.items()}
    gradient = 0.2 * X
    scored = diffusion.condition_score(lambda x, t: gradient, out, NOISE, T)
    eps, new_eps = (
        diffusion._predict_eps_from_xstart(NOISE, T, o["pred_xstart"]) for o in (out, scored)
    )
    root = _extract_into_tensor(diffusion.sqrt_one_minus_alphas_cumprod, T, X.shape)
    torch.testing.assert_close(new_eps, eps - root * gradient, rtol=1e-4, atol=1e-4)
    mean = diffusion.condition_mean(lambda x, t: gradient, out, NOISE, T)
    torch.testing.assert_close(mean, out["mean"] + out["variance"] * gradient)
    assert all(torch.equal(out[name], before[name]) for name in out)


def test_edit_of_the_clean_image_comes_before_the_limit() -> None:
    diffusion, f = process(), network("fixed_small")
    out = diffusion.p_mean_variance(f, NOISE, T, denoised_fn=lambda x: 0 * x + 3)
    assert (out["pred_xstart"] == 1).all()
    out = diffusion.p_mean_variance(f, NOISE, T, clip_denoised=False, denoised_fn=lambda x: 0 * x)
    assert (out["pred_xstart"] == 0).all()


def test_one_step_process_is_defined() -> None:
    diffusion = process(betas=[0.5])
    assert np.isfinite(diffusion.posterior_log_variance_clipped).all()
    assert diffusion.p_sample_loop(lambda x, t: 0 * x, X.shape).shape == X.shape


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([], r"expected a non-empty array of shape \[T\], found \(0,\)"),
        ([[0.1]], r"found \(1, 1\)"),
        ([0.1, 0.0], r"expected values in \(0, 1\], found 0 .. 0.1"),
        ([0.1, 1.1], "found 0.1 .. 1.1"),
        ([0.1, math.nan], "found nan"),
    ],
)
def test_betas_outside_are_refused(betas: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        process(betas=betas)


def test_wrong_shapes_are_refused() -> None:
    fixed, learned = process(), process(**RANGE)
    with pytest.raises(ValueError, match=r"expected shape \(2, 6, 8, 8\), found \(2, 3, 8, 8\)"):
        learned.p_mean_variance(lambda x, t: x, X, T)
    with pytest.raises(ValueError, match="FIXED_LARGE variance: expected shape"):
        fixed.p_mean_variance(lambda x, t: torch.cat([x, x], 1), X, T)
    with pytest.raises(ValueError, match=r"t: expected shape \(2,\), found \(1,\)"):
        fixed.p_mean_variance(lambda x, t: x, X, T[:1])
    with pytest.raises(ValueError, match="noise: expected shape"):
        fixed.q_sample(X, T, NOISE[:1])


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 'linear' or 'cosine', found 'sigmoid'"):
        get_named_beta_schedule("sigmoid", 10)
    with pytest.raises(ValueError, match="expected at least 1 diffusion step, found 0"):
        get_named_beta_schedule("linear", 0)
