"""Noise schedules and timestep grids, for timesteps t = 0 (cleanest) .. T - 1.

A schedule holds beta_t, the variance of the noise that move t adds.

The level of a state is its cumulative alpha, alpha_bar_t = prod_{s <= t} (1 - beta_s): 1 is clean,
0 is pure noise. Schedules are float64 numpy arrays of shape [T].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import ArgumentError

# The first and last beta that the linear schedule has at _LINEAR_STEPS steps (DDPM, section 4).
_LINEAR_STEPS, _LINEAR_FIRST, _LINEAR_LAST = 1000, 1e-4, 0.02
# The offset that keeps the cosine schedule's first betas from vanishing (arXiv:2102.09672, eq. 17).
_COSINE_OFFSET = 0.008


def _cosine_alpha_bar(u: float) -> float:
    return math.cos((u + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2


def betas_for_alpha_bar(
    num_diffusion_timesteps: int, alpha_bar: Callable[[float], float], max_beta: float = 0.999
) -> np.ndarray:
    """Compute the betas whose cumulative alphas follow a given function of time.

    Args:
        num_diffusion_timesteps: T.
        alpha_bar: the level at time u in [0, 1], where 0 is the clean end.
        max_beta: upper limit of a beta; below 1, so that the last move is not singular.

    Returns:
        Float64 array of shape [T]: 1 - alpha_bar((t + 1) / T) / alpha_bar(t / T), limited.

    Reference: arXiv:2102.09672, section 3.2.
    """
    edges = np.arange(num_diffusion_timesteps + 1) / num_diffusion_timesteps
    levels = np.array([alpha_bar(float(u)) for u in edges], dtype=np.float64)
    return np.minimum(1.0 - levels[1:] / levels[:-1], max_beta)


def _linear(steps: int) -> np.ndarray:
    """Compute betas whose ends scale with 1000 / T, so that every T reaches the same last level."""
    scale = _LINEAR_STEPS / steps
    return np.linspace(scale * _LINEAR_FIRST, scale * _LINEAR_LAST, steps, dtype=np.float64)


# Name of a schedule -> its betas [T] for T steps.
# Linear: DDPM, arXiv:2006.11239, section 4. Cosine: arXiv:2102.09672, eq. 17.
SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {
    "linear": _linear,
    "cosine": lambda steps: betas_for_alpha_bar(steps, _cosine_alpha_bar),
}


def get_named_beta_schedule(schedule_name: str, num_diffusion_timesteps: int) -> np.ndarray:
    """Compute the betas [T] of a schedule by its name, one of `SCHEDULES`.

    Raises:
        ValueError: for another name, or T below 1.
    """
    if num_diffusion_timesteps < 1:
        raise ValueError(f"expected at least 1 diffusion step, found {num_diffusion_timesteps}")
    if schedule_name not in SCHEDULES:
        known = " or ".join(map(repr, SCHEDULES))
        raise ValueError(f"noise schedule: expected {known}, found {schedule_name!r}")
    return SCHEDULES[schedule_name](num_diffusion_timesteps)


# Name of a grid -> the rising measure [T] along which the grid is evenly spaced. It is computed
# from the timesteps t [T], and from the negative log-SNR [T], normalised to [0, 1].
GRIDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "time": lambda t, _: t,
    "quadratic": lambda t, _: np.sqrt(t),
    "logsnr": lambda _, noise: noise,
    "mixed": lambda t, noise: t / max(t[-1], 1) + noise,
}


def timestep_grid(kind: str, steps: int, alphas_cumprod: np.ndarray) -> np.ndarray:
    """Choose timesteps for a walk of few moves, from 0 to T - 1.

    Where an even grid asks for one timestep twice, a neighbour is taken.

    Args:
        kind: name of the measure in which the grid is even, a key of `GRIDS`.
        steps: number of timesteps, 1 .. T; one alone is T - 1.
        alphas_cumprod: levels [T], falling.

    Returns:
        Int64 array [steps], strictly rising.

    Raises:
        ValueError: for another kind, or steps outside 1 .. T.
    """
    total = len(alphas_cumprod)
    if not 1 <= steps <= total:
        raise ValueError(f"expected 1 to {total} steps, found {steps}")
    noise = np.log1p(-alphas_cumprod) - np.log(alphas_cumprod)
    noise = (noise - noise[0]) / max(noise[-1] - noise[0], 1e-12)
    if kind not in GRIDS:
        raise ValueError(f"expected one of {sorted(GRIDS)}, found {kind!r}")
    t = np.arange(total)
    measure = GRIDS[kind](t, noise)
    wanted = np.linspace(measure[0], measure[-1], steps) if steps > 1 else measure[-1:]
    return strictly_rising(np.interp(wanted, measure, t).round().astype(np.int64), total)


def strictly_rising(indices: np.ndarray, total: int) -> np.ndarray:
    """Move rising indices [n] in 0 .. total - 1, where n <= total, apart until no two are equal.

    Indices that differ already, and a last index at its limit, stay where they are.
    """
    places = np.arange(len(indices))
    free = np.minimum(indices - places, total - len(indices)).clip(min=0)
    return np.maximum.accumulate(free) + places


def betas_of_flags(
    noise_schedule: str, steps: int, name: str = "steps", pure_noise: bool = True
) -> np.ndarray:
    """Compute the betas [T] of a schedule that a user asks for.

    Args:
        noise_schedule: name of the schedule, a key of `SCHEDULES`.
        steps: number of steps, T.
        name: name of the argument `steps`, for messages.
        pure_noise: whether the last level may be pure noise (beta = 1), as in the linear schedule
            of 20 steps. Upstream accepts it, but nothing can be predicted there.

    Raises:
        ArgumentError: if there is no such schedule, or it needs more steps.
    """
    if steps < 1:
        raise ArgumentError(name, f"expected at least 1, got {steps}")
    try:
        betas = get_named_beta_schedule(noise_schedule, steps)
    except ValueError as error:
        raise ArgumentError("noise_schedule", str(error)) from None
    if betas.max() > 1 or (betas.max() == 1 and not pure_noise):
        least = 20 if pure_noise else 21
        raise ArgumentError(
            name, f"expected at least {least} for the {noise_schedule} schedule, got {steps}"
        )
    return betas
