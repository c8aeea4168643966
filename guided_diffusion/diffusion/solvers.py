"""One move of the deterministic (or DDIM's stochastic) process between any two noise levels.

A level is a cumulative alpha: 1 is clean, 0 is pure noise, and a state at level a is
sqrt(a) * x0 + sqrt(1 - a) * eps. A move goes from `level_cur` to `level_next`; it denoises where
level_next is the larger and encodes where it is the smaller, by one formula. Levels are Python
floats, or tensors of shape [] or [N] with one level per image. Coefficients are computed in
float64 and applied in float32 (in float64 to a float64 state).

Pure arithmetic: no network, no random numbers, no file and no host synchronisation in here.
"""

from __future__ import annotations

import math
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


_LONGEST = 4.0  # times the move before; a longer one goes without a past

Past = tuple[Level, torch.Tensor, torch.Tensor]


class Multistep:
    """Exponential integrator in the log-SNR; of order 1 it is DDIM, of order 2 DPM-Solver++(2M).

    With lambda = log(alpha / sigma) half the log-SNR, the flow of the predicted clean image x0 is
    d(x / sigma) / d(lambda) = exp(lambda) x0. Over a move x0 is taken as the polynomial through
    its values at this level and at the levels of the moves before, and the integral is exact.
    Direction is no case: lambda falls in an encoding and rises in a decoding.

    The polynomial can be that of the predicted noise instead, whose flow is the same with alpha
    and sigma exchanged: d(x / alpha) / d(-lambda) = exp(-lambda) eps.

    At a clean end lambda is infinite; a move from or to there is one of first order, as is the
    first of an image without a past, and one so much longer than the move before that it would
    magnify what is wrong in a difference of predictions.

    Args:
        order: 1 to 3.
        predicts: "data" or "noise", what is taken as a polynomial.

    Reference:
        DPM-Solver++, arXiv:2211.01095, section 4.2 (there order 3 halves the last term); for the
        noise, DPM-Solver, arXiv:2206.00927, proposition 3.1.
    """

    def __init__(self, order: int = 1, predicts: str = "data") -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"solver order: expected 1, 2 or 3, found {order}")
        if predicts not in PREDICTED:
            raise ValueError(f"predicts: expected one of {sorted(PREDICTED)}, found {predicts!r}")
        self.order, self.predicts = order, predicts

    def step(
        self,
        x: torch.Tensor,
        level_cur: Level,
        level_next: Level,
        eps: torch.Tensor,
        history: Sequence[Past] = (),
    ) -> torch.Tensor:
        """Move states from one level to another.

        Args:
            x: states [N, ...] at `level_cur`.
            level_cur: level of the states; float, [] or [N].
            level_next: level to reach; float, [] or [N].
            eps: predicted noise at (x, level_cur), shape of x.
            history: (level_cur, x, eps) of the moves before, the latest last; those of fewer
                images are of the first images of this batch.

        Returns:
            States [N, ...] at `level_next`.
        """
        moved = ddim_step(x, level_cur, level_next, eps)
        past = [_extended(entry, len(x)) for entry in history[: -self.order : -1]]
        cur, nxt, *before = _as_float64(level_cur, level_next, *(level for level, _, _ in past))
        predicted, share = PREDICTED[self.predicts]
        weights = _difference_weights(*map(share, (cur, nxt, *before)))
        later = predicted(x, cur, eps)
        for (_, *move), level, weight in zip(past, before, weights, strict=True):
            earlier = predicted(move[0], level, move[1])
            moved = moved + _per_image(weight, x) * (later - earlier)
            later = earlier
        return moved

    def remember(self, history: Sequence[Past], move: Past) -> list[Past]:
        """Return the history with one move more, no longer than the next step needs."""
        return [*history, move][-(self.order - 1) :] if self.order > 1 else []


def _extended(move: Past, images: int) -> Past:
    """A past move with rows for all images; NaN as the level of those that it did not move."""
    level, *states = move
    missing = images - len(states[0])
    if missing == 0:
        return move
    level = torch.as_tensor(level, dtype=torch.float64).expand(images - missing)
    padded = [torch.cat([s, s.new_zeros(missing, *s.shape[1:])]) for s in states]
    return torch.cat([level, level.new_full((missing,), math.nan)]), *padded


def _clean(x: torch.Tensor, level: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """The predicted clean image; x itself where the level is 1 or not known."""
    level = level.nan_to_num(1.0)
    return _per_image(level.rsqrt(), x) * x - _per_image(torch.sqrt(1 / level - 1), x) * eps


def _noise(x: torch.Tensor, level: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    return eps


# What is predicted, from a state, its level and its noise; and its own share of the variance there.
PREDICTED = {
    "data": (_clean, lambda level: level),
    "noise": (_noise, lambda level: 1.0 - level),
}


def _log_snr(level: torch.Tensor) -> torch.Tensor:
    return 0.5 * (torch.log(level) - torch.log1p(-level))


def _difference_weights(
    cur: torch.Tensor, nxt: torch.Tensor, *before: torch.Tensor
) -> list[torch.Tensor]:
    """Weights of x0_cur - x0_1, x0_1 - x0_2 that a move adds to DDIM; 0 where a level is missing.

    The polynomial is Newton's; its terms are integrated against exp(lambda).
    """
    if not before:
        return []
    here, there, *past = (_log_snr(level) for level in (cur, nxt, *before))
    h, gap = there - here, here - past[0]
    first = h + torch.expm1(-h)  # the integral of u, over exp(h): u counts from the present level
    weights = [torch.sqrt(nxt) * first / gap]
    if len(past) == 2:
        gap_before = past[0] - past[1]
        second = h**2 - 2 * first + gap * first  # that of u (u + gap)
        bend = torch.sqrt(nxt) * second / (gap + gap_before)
        known = torch.isfinite(bend / gap_before)
        weights = [
            weights[0] + torch.where(known, bend / gap, 0.0),
            torch.where(known, -bend / gap_before, 0.0),
        ]
    usable = h.abs() <= _LONGEST * gap.abs()  # False where a level is missing
    return [torch.where(usable & torch.isfinite(weight), weight, 0.0) for weight in weights]


SOLVERS = {"ddim": lambda order, predicts: Multistep(1, predicts), "dpmpp": Multistep}
