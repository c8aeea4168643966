"""One move of the deterministic (or DDIM's stochastic) process between any two noise levels.

A level is a cumulative alpha: 1 is clean, 0 is pure noise, and a state at level a is
sqrt(a) * x0 + sqrt(1 - a) * eps. A move goes from `level_cur` to `level_next`; it denoises where
level_next is the larger and encodes where it is the smaller, by one formula. Levels are Python
floats, or tensors of shape [] or [N] with one level per image. Coefficients are computed in
float64 and applied in float32 (in float64 to a float64 state).

Pure arithmetic: no network, no random numbers, no file and no host synchronisation in here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Level = float | torch.Tensor


def _as_float64(*levels: Level) -> list[torch.Tensor]:
    """Levels as float64 tensors on one device; plain numbers alone stay on the host."""
    for level in levels:
        if not isinstance(level, torch.Tensor) and not 0.0 <= level <= 1.0:
            raise ValueError(f"noise level: expected a number in [0, 1], found {level}")
    tensors = [level for level in levels if isinstance(level, torch.Tensor)]
    device = max(tensors, key=torch.Tensor.dim).device if tensors else None
    return [
        level.to(device, torch.float64)
        if isinstance(level, torch.Tensor)
        # Filled in place: copying a number from the host would wait for the device.
        else torch.full((), level, dtype=torch.float64, device=device)
        for level in levels
    ]


def _per_image(coefficient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if coefficient.ndim == 0:
        return coefficient.to(x.dtype)  # stays on the host: a kernel takes it as a plain number
    return coefficient.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def ddim_sigma(level_cur: Level, level_next: Level, eta: float) -> torch.Tensor:
    """Standard deviation of the fresh noise in one denoising move.

    Args:
        level_cur: level of the state, below 1; float or [N].
        level_next: level to reach, not below `level_cur`; float or [N].
        eta: 0 is deterministic DDIM, 1 is ancestral sampling (DDPM).

    Returns:
        Float64 tensor of the levels' common shape.

    Reference:
        DDIM, arXiv:2010.02502, eq. 16.
    """
    cur, nxt = _as_float64(level_cur, level_next)
    return eta * torch.sqrt((1.0 - nxt) / (1.0 - cur)) * torch.sqrt(1.0 - cur / nxt)


def ddim_step(
    x: torch.Tensor,
    level_cur: Level,
    level_next: Level,
    eps: torch.Tensor,
    sigma: Level = 0.0,
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """Move a batch of states from one level to another.

    With x0 = (x - sqrt(1 - a) eps) / sqrt(a) put into sqrt(b) x0 + sqrt(1 - b - sigma^2) eps, the
    move is linear in x and eps. A state at level 0 holds no trace of x0; there x is the noise
    itself, x0 is taken as 0 (the middle of [-1, 1]) and eps has no influence.

    Args:
        x: states [N, ...] at `level_cur`.
        level_cur: a, in [0, 1]; float, [] or [N].
        level_next: b, in [0, 1]; float, [] or [N].
        eps: the noise in x that the network predicts, shape of x.
        sigma: standard deviation of fresh noise, `ddim_sigma`; 0 for a deterministic move.
        noise: the fresh standard normal noise, shape of x; needed where sigma is not 0.

    Returns:
        States [N, ...] at `level_next`, float32 (float64 if x is).

    Raises:
        ValueError: if a level given as a number is outside [0, 1].

    Reference:
        DDIM, arXiv:2010.02502, eq. 12.
    """
    cur, nxt, sd = _as_float64(level_cur, level_next, sigma)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    direction = torch.sqrt(1.0 - nxt - sd**2)
    keep = torch.where(cur > 0.0, torch.sqrt(nxt / cur), direction)
    moved = _per_image(keep, x) * x + _per_image(direction - keep * torch.sqrt(1.0 - cur), x) * eps
    return moved if noise is None else moved + _per_image(sd, x) * noise


class DDIM:
    """First-order solver: the noise is taken as constant over a move."""

    def step(
        self,
        x: torch.Tensor,
        level_cur: Level,
        level_next: Level,
        eps: torch.Tensor,
        history: Sequence[tuple[Level, torch.Tensor]] = (),
    ) -> torch.Tensor:
        """Move states from `level_cur` to `level_next`; see `ddim_step`.

        Args:
            x: states [N, ...] at `level_cur`.
            level_cur: level of the states; float, [] or [N].
            level_next: level to reach; float, [] or [N].
            eps: predicted noise at (x, level_cur), shape of x.
            history: what multistep solvers extrapolate from: the (level, eps) pairs of the
                earlier moves of this walk, the latest last. A first-order solver has no use
                for it.

        Returns:
            States [N, ...] at `level_next`.
        """
        return ddim_step(x, level_cur, level_next, eps)
