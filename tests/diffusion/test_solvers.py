"""One move between levels: against closed forms for Gaussian data, and its algebra."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch

from guided_diffusion.diffusion.solvers import (
    PREDICTED,
    SOLVERS,
    Multistep,
    ddim_sigma,
    ddim_step,
)

FINE = 2560  # moves that stand for the exact flow
STD = 0.5  # of the Gaussian data of the analytic oracle
STATES = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOISE = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def marginal_variance(level: float) -> float:
    """Of states at `level`, for data N(0, STD^2)."""
    return level * STD**2 + 1.0 - level


def gaussian_eps(x: torch.Tensor, level: float) -> torch.Tensor:
    """The best prediction of the noise in x, for data N(0, STD^2)."""
    return math.sqrt(1.0 - level) / marginal_variance(level) * x


def walk(
    x: torch.Tensor, levels: list[float], order=1, eps_of=gaussian_eps, past=(), predicts="data"
):
    solver, past = Multistep(order, predicts), list(past)
    for cur, nxt in zip(levels, levels[1:], strict=False):
        eps = eps_of(x, cur)
        moved = solver.step(x, cur, nxt, eps, past)
        past = solver.remember(past, (cur, x, eps))
        x = moved
    return x


def mixture_eps(x: torch.Tensor, level: float) -> torch.Tensor:
    """The best prediction of the noise in x, for data that are -0.7 or 0.7 with a spread."""
    a, variance = math.sqrt(level), level * 0.2**2 + 1 - level
    mean = 0.7 * a * torch.tanh(0.7 * a * x / variance)
    return math.sqrt(1 - level) * (x - mean) / variance


def log_snr_levels(moves: int, noisiest: float = -4.0, cleanest: float = 2.0) -> list[float]:
    """Levels even in the log-SNR; the moves of a multistep solver are then of equal length."""
    steps = [noisiest + (cleanest - noisiest) * i / moves for i in range(moves + 1)]
    return [1 / (1 + math.exp(-2 * step)) for step in steps]


def log_orders(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


@functools.cache
def fine_states(decode: bool) -> list[torch.Tensor]:
    """States of the mixture's flow at `FINE` + 1 levels."""
    solver, past, states = Multistep(3), [], [STATES]
    levels = log_snr_levels(FINE)[:: 1 if decode else -1]
    for cur, nxt in zip(levels, levels[1:], strict=False):
        eps = mixture_eps(states[-1], cur)
        states.append(solver.step(states[-1], cur, nxt, eps, past))
        past = solver.remember(past, (cur, states[-2], eps))
    return states


FAMILIES = [
    pytest.param(order, way == "decode", predicts, id=f"{order}-{way}-{predicts}")
    for order, way, predicts in itertools.product(
        (1, 2, 3), ("encode", "decode"), ("data", "noise")
    )
]


@pytest.mark.parametrize(("order", "decode", "predicts"), FAMILIES)
def test_order_of_convergence_on_a_mixture(order: int, decode: bool, predicts: str) -> None:
    """With a past on the flow: the first moves of a walk without one are of lower order."""
    errors, flow = [], fine_states(decode)
    for moves in (160, 320):
        levels = log_snr_levels(moves)[:: 1 if decode else -1]
        states = flow[:: FINE // moves]
        past = [
            (level, x, mixture_eps(x, level)) for level, x in zip(levels[:2], states, strict=False)
        ]
        end = walk(states[2], levels[2:], order, mixture_eps, past, predicts)
        errors.append((end - flow[-1]).abs().max())
    assert log_orders(errors)[-1] == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("order", "decode", "predicts"), FAMILIES)
def test_order_of_convergence_to_the_exact_flow(order: int, decode: bool, predicts: str) -> None:
    errors = []
    for moves in (160, 320):
        levels = log_snr_levels(moves)[:: 1 if decode else -1]
        unit = [STATES * math.sqrt(marginal_variance(level)) for level in levels[:3]]
        past = [
            (level, x, gaussian_eps(x, level)) for level, x in zip(levels[:2], unit, strict=False)
        ]
        end = walk(unit[2], levels[2:], order, past=past, predicts=predicts)
        errors.append((end / math.sqrt(marginal_variance(levels[-1])) - STATES).abs().max())
    assert log_orders(errors)[-1] == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("predicts", ["data", "noise"])
def test_a_move_much_longer_than_the_one_before_goes_without_a_past(predicts: str) -> None:
    def moved(times: float) -> torch.Tensor:
        before, here, there = (1 / (1 + math.exp(-2 * u)) for u in (-0.1, 0.0, 0.1 * times))
        past = [(before, STATES, NOISE)]
        found = Multistep(2, predicts).step(STATES, here, there, 2 * NOISE, past)
        return found - ddim_step(STATES, here, there, 2 * NOISE)

    assert moved(3.9).abs().max() > 0.01
    assert torch.equal(moved(4.1), torch.zeros_like(STATES))


def test_second_order_equals_diffusers() -> None:
    from diffusers import DPMSolverMultistepScheduler

    other = DPMSolverMultistepScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        solver_order=2,
        solver_type="heun",
        final_sigmas_type="zero",
        lower_order_final=False,
    )
    other.set_timesteps(12)
    levels = [float(1 / (1 + sigma.double() ** 2)) for sigma in other.sigmas]
    x = STATES.clone()
    for t, level in zip(other.timesteps, levels, strict=False):
        x = other.step(gaussian_eps(x, level), t, x).prev_sample
    torch.testing.assert_close(walk(STATES, levels, 2), x, atol=1e-5, rtol=1e-5)


def test_images_that_join_later_walk_as_they_would_alone() -> None:
    levels = log_snr_levels(6)
    solver, past, x = Multistep(3), [], STATES[:2]
    for index, (cur, nxt) in enumerate(zip(levels, levels[1:], strict=False)):
        if index == 2:
            x = torch.cat([x, STATES[2:]])
        eps = gaussian_eps(x, cur)
        moved = solver.step(x, torch.full((len(x),), cur, dtype=torch.float64), nxt, eps, past)
        past = solver.remember(past, (torch.full((len(x),), cur, dtype=torch.float64), x, eps))
        x = moved
    torch.testing.assert_close(x[:2], walk(STATES[:2], levels, 3))
    torch.testing.assert_close(x[2:], walk(STATES[2:], levels[2:], 3))


@pytest.mark.parametrize("order", [2, 3])
def test_moves_from_and_to_the_clean_end_are_of_first_order(order: int) -> None:
    past = [(0.9, STATES, NOISE), (0.95, STATES, NOISE)]
    solver = Multistep(order)
    moved = solver.step(STATES, 0.99, 1.0, NOISE, past)
    torch.testing.assert_close(moved, ddim_step(STATES, 0.99, 1.0, NOISE))
    after = solver.step(STATES, 0.99, 0.9, NOISE, [(1.0, STATES, NOISE)])
    torch.testing.assert_close(after, ddim_step(STATES, 0.99, 0.9, NOISE))


def test_other_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of .*'data', 'noise'.*, found 'score'"):
        Multistep(2, "score")


@pytest.mark.parametrize("order", [0, 4])
def test_other_orders_are_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1, 2 or 3, found {order}"):
        Multistep(order)


def test_a_move_matches_the_formula_of_the_paper() -> None:
    a, b = 0.3, 0.8
    x0 = (STATES - math.sqrt(1 - a) * NOISE) / math.sqrt(a)
    expected = math.sqrt(b) * x0 + math.sqrt(1 - b) * NOISE
    torch.testing.assert_close(ddim_step(STATES, a, b, NOISE), expected)


def test_stochastic_move_matches_the_formula_of_the_paper() -> None:
    a, b, eta, fresh = 0.3, 0.8, 0.7, STATES.flip(0)
    sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
    assert ddim_sigma(a, b, eta).item() == pytest.approx(sigma)
    x0 = (STATES - math.sqrt(1 - a) * NOISE) / math.sqrt(a)
    expected = math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * NOISE + sigma * fresh
    torch.testing.assert_close(ddim_step(STATES, a, b, NOISE, sigma, fresh), expected)


def test_a_move_back_with_the_same_noise_is_the_exact_inverse() -> None:
    there = ddim_step(STATES, 0.9, 0.2, NOISE)
    torch.testing.assert_close(ddim_step(there, 0.2, 0.9, NOISE), STATES)


def test_moves_with_the_same_noise_compose() -> None:
    halfway = ddim_step(STATES, 0.9, 0.5, NOISE)
    expected = ddim_step(STATES, 0.9, 0.2, NOISE)
    torch.testing.assert_close(ddim_step(halfway, 0.5, 0.2, NOISE), expected)


def test_clean_end() -> None:
    noisy = ddim_step(STATES, 1.0, 0.4, NOISE)
    torch.testing.assert_close(noisy, math.sqrt(0.4) * STATES + math.sqrt(0.6) * NOISE)
    torch.testing.assert_close(ddim_step(noisy, 0.4, 1.0, NOISE), STATES)


def test_pure_noise_end() -> None:
    torch.testing.assert_close(ddim_step(STATES, 0.6, 0.0, NOISE), NOISE)
    # From there x is the noise, and the clean image is unknown, hence 0.
    torch.testing.assert_close(ddim_step(STATES, 0.0, 0.75, NOISE), 0.5 * STATES)


@pytest.mark.parametrize("level", [0.0, 0.37, 1.0])
def test_staying_at_a_level_changes_nothing(level: float) -> None:
    torch.testing.assert_close(ddim_step(STATES, level, level, NOISE), STATES)


def test_levels_per_image_equal_one_image_at_a_time() -> None:
    cur = torch.tensor([1.0, 0.5, 0.0, 0.2], dtype=torch.float64)
    nxt = torch.tensor([0.3, 0.0, 0.9, 1.0], dtype=torch.float64)
    together = ddim_step(STATES, cur, nxt, NOISE)
    for i in range(4):
        alone = ddim_step(STATES[i : i + 1], cur[i].item(), nxt[i], NOISE[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    from_one_level = ddim_step(STATES, 0.5, nxt, NOISE)
    torch.testing.assert_close(from_one_level[1], together[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_state_is_float32(dtype: torch.dtype) -> None:
    x, eps = STATES.to(dtype), NOISE.to(dtype)
    levels = torch.full((4,), 0.5, dtype=torch.float64)
    assert ddim_step(x, 0.5, 0.9, eps).dtype == torch.float32
    assert ddim_step(x, levels, 0.9, eps).dtype == torch.float32


def test_coefficients_keep_float64_precision_near_the_ends() -> None:
    """1 - 1e-9 is 1 in float32: the move would vanish."""
    x, eps = STATES.float(), NOISE.float()
    moved = ddim_step(0 * x, 1.0, 1.0 - 1e-9, eps)
    torch.testing.assert_close(moved, math.sqrt(1e-9) * eps, rtol=1e-5, atol=0)


@pytest.mark.parametrize("level", [-0.1, 1.5, math.nan])
def test_levels_outside_are_refused(level: float) -> None:
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\], found"):
        ddim_step(STATES, 0.5, level, NOISE)


@pytest.mark.parametrize("predicts", PREDICTED)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_follows_the_flow(name: str, predicts: str) -> None:
    solver, levels = SOLVERS[name](2, predicts), log_snr_levels(320)
    x, past = STATES * math.sqrt(marginal_variance(levels[0])), []
    for cur, nxt in itertools.pairwise(levels):
        eps = gaussian_eps(x, cur)
        moved = solver.step(x, cur, nxt, eps, past)
        past = solver.remember(past, (cur, x, eps))
        assert len(past) == solver.order - 1 and moved.shape == x.shape
        x = moved
    expected = STATES * math.sqrt(marginal_variance(levels[-1]))
    torch.testing.assert_close(x, expected, rtol=0.02, atol=0.02)


def test_ddim_is_of_first_order_whatever_is_asked() -> None:
    solver = SOLVERS["ddim"](3, "noise")
    assert solver.order == 1
    moved = solver.step(STATES, 0.3, 0.8, NOISE, [(0.2, STATES, NOISE)])
    assert torch.equal(moved, ddim_step(STATES, 0.3, 0.8, NOISE))
