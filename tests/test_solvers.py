"""One move between levels: against closed forms for Gaussian data, and its algebra."""

from __future__ import annotations

import math

import pytest
import torch

from guided_diffusion.solvers import DDIM, ddim_sigma, ddim_step

STD = 0.5  # of the Gaussian data of the analytic oracle
STATES = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOISE = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def marginal_variance(level: float) -> float:
    """Of states at `level`, for data N(0, STD^2)."""
    return level * STD**2 + 1.0 - level


def gaussian_eps(x: torch.Tensor, level: float) -> torch.Tensor:
    """The best prediction of the noise in x, for data N(0, STD^2)."""
    return math.sqrt(1.0 - level) / marginal_variance(level) * x


def walk(x: torch.Tensor, levels: list[float]) -> torch.Tensor:
    solver = DDIM()
    for cur, nxt in zip(levels, levels[1:], strict=False):
        x = solver.step(x, cur, nxt, gaussian_eps(x, cur), [])
    return x


def cosine_levels(moves: int) -> list[float]:
    return [math.cos(0.49 * math.pi * i / moves) ** 2 for i in range(moves + 1)]


def relative_error(x: torch.Tensor, level_first: float, level_last: float) -> float:
    """Of a walk's end, against the exact flow, which keeps x in units of its deviation."""
    ratio = math.sqrt(marginal_variance(level_last) / marginal_variance(level_first))
    return ((x - ratio * STATES).abs().max() / (ratio * STATES).abs().max()).item()


@pytest.mark.parametrize("decode", [False, True])
def test_first_order_convergence_to_the_exact_flow(decode: bool) -> None:
    errors = []
    for moves in (20, 40, 80, 160):
        levels = cosine_levels(moves)[:: -1 if decode else 1]
        errors.append(relative_error(walk(STATES, levels), levels[0], levels[-1]))
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert errors[-1] < 0.01
    assert orders[-1] == pytest.approx(1.0, abs=0.1)


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
