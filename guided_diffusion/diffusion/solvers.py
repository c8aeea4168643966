"""Move states between any two noise levels: DDIM, and multistep solvers of higher order.

A level is a cumulative alpha: 1 is clean, 0 is pure noise, and a state at level a is
sqrt(a) * x0 + sqrt(1 - a) * eps. A move goes from `level_cur` to `level_next`; it denoises where
level_next is the larger and encodes where it is the smaller, by one formula. Levels are Python
floats, or tensors of shape [] or [N] with one level per image. Coefficients are computed in
float64 and applied in float32 (in float64 to a float64 state).

All of it is arithmetic: nothing here calls a network, draws random numbers, opens a file or waits
for a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..runtime.execution import exact

Level = float | Tensor
# A move already made: the level where the network was called, the states there, their noise.
Past = tuple[Level, Tensor, Tensor]


def _as_float64(*levels: Level) -> list[Tensor]:
    """Return levels as float64 tensors on one device, which is the host if all are numbers."""
    for level in levels:
        if not isinstance(level, Tensor) and not 0.0 <= level <= 1.0:
            raise ValueError(f"noise level: expected a number in [0, 1], found {level}")
    tensors = [level for level in levels if isinstance(level, Tensor)]
    device = exact(max(tensors, key=Tensor.dim).device) if tensors else None
    return [
        level.to(device, torch.float64)
        if isinstance(level, Tensor)
        # Filled in place: copying a number from the host would wait for the device.
        else torch.full((), level, dtype=torch.float64, device=device)
        for level in levels
    ]


def _per_image(coefficient: Tensor, x: Tensor) -> Tensor:
    if coefficient.ndim == 0:
        return coefficient.to(x.dtype)  # stays on the host: a kernel takes it as a plain number
    return coefficient.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def ddim_sigma(level_cur: Level, level_next: Level, eta: float) -> Tensor:
    """Compute the standard deviation of the fresh noise in one denoising move.

    Args:
        level_cur: level of the state, below 1; float or [N].
        level_next: level to reach, not below `level_cur`; float or [N].
        eta: 0 is deterministic DDIM, 1 is ancestral sampling (DDPM).

    Returns:
        Float64 tensor of the levels' common shape.

    Reference: DDIM, arXiv:2010.02502, eq. 16.
    """
    cur, nxt = _as_float64(level_cur, level_next)
    return eta * torch.sqrt((1.0 - nxt) / (1.0 - cur)) * torch.sqrt(1.0 - cur / nxt)


def ddim_step(
    x: Tensor,
    level_cur: Level,
    level_next: Level,
    eps: Tensor,
    sigma: Level = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
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

    Reference: DDIM, arXiv:2010.02502, eq. 12.
    """
    cur, nxt, sd = _as_float64(level_cur, level_next, sigma)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    direction = torch.sqrt(1.0 - nxt - sd**2)
    keep = torch.where(cur > 0.0, torch.sqrt(nxt / cur), direction)
    moved = _per_image(keep, x) * x + _per_image(direction - keep * torch.sqrt(1.0 - cur), x) * eps
    return moved if noise is None else moved + _per_image(sd, x) * noise


# A move that is more than this many times as long as the move before is made at first order.
_MAX_LENGTH_RATIO = 4.0


class Multistep:
    """Exponential integrator in the log-SNR: DDIM at order 1, DPM-Solver++(2M) at order 2.

    Let lambda = log(alpha / sigma), half the log-SNR. The flow of the predicted clean image x0 is
    d(x / sigma) / d(lambda) = exp(lambda) x0. Over a move, x0 is taken as the polynomial through
    its values at this level and at the levels of the moves before; the integral is then exact.
    One formula serves both directions: lambda falls in an encoding and rises in a decoding.

    The predicted noise can be taken as the polynomial instead. Its flow is the same with alpha and
    sigma exchanged: d(x / alpha) / d(-lambda) = exp(-lambda) eps.

    Three kinds of moves are made at first order: a move from or to the clean end, where lambda is
    infinite; the first move of an image; and a move that is so much longer than the move before
    that it would magnify the error in a difference of predictions.

    Args:
        order: order of accuracy, 1 to 3.
        predicts: prediction that is taken as a polynomial, a key of `PREDICTED`.

    Raises:
        ValueError: if there is no such order or prediction.

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
        x: Tensor,
        level_cur: Level,
        level_next: Level,
        eps: Tensor,
        history: Sequence[Past] = (),
    ) -> Tensor:
        """Move states from one level to another, see `ddim_step`.

        Args:
            history: (level_cur, x, eps) of the moves before, the latest last. A move of fewer
                images moved the first images of this batch.
        """
        moved = ddim_step(x, level_cur, level_next, eps)
        past = [_padded(entry, len(x)) for entry in history[: -self.order : -1]]
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
        """Return the history with one more move, cut to the moves that the next step needs."""
        return [*history, move][-(self.order - 1) :] if self.order > 1 else []


class DDIM(Multistep):
    """The multistep solver of first order; its argument `order` has no effect.

    Its encodings can mirror its decodings, see `translation.moves`.

    Reference: DDIM, arXiv:2010.02502, eq. 12.
    """

    def __init__(self, order: int = 1, predicts: str = "data") -> None:
        super().__init__(1, predicts)


def _padded(move: Past, images: int) -> Past:
    """Pad a past move to rows for all images; the level of an added row is NaN."""
    level, x, eps = move
    missing = images - len(x)
    if missing == 0:
        return move
    levels = torch.as_tensor(level, dtype=torch.float64).expand(len(x))
    levels = torch.cat([levels, levels.new_full((missing,), math.nan)])
    rows = x.new_zeros(missing, *x.shape[1:])
    return levels, torch.cat([x, rows]), torch.cat([eps, rows])


def _clean(x: Tensor, level: Tensor, eps: Tensor) -> Tensor:
    """Return the predicted clean image, or x itself where the level is 1 or NaN."""
    level = level.nan_to_num(1.0)
    return _per_image(level.rsqrt(), x) * x - _per_image(torch.sqrt(1 / level - 1), x) * eps


# Name of a prediction -> its formula from (x, level, eps), and its share of the variance of x.
PREDICTED: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "data": (_clean, lambda level: level),
    "noise": (lambda x, level, eps: eps, lambda level: 1.0 - level),
}


def _difference_weights(cur: Tensor, nxt: Tensor, *before: Tensor) -> list[Tensor]:
    """Compute the weights of x0_cur - x0_1 and x0_1 - x0_2, which a move adds to the DDIM move.

    x0_1 and x0_2 are the predictions of the latest move before and of the move before it. The
    polynomial is Newton's; its terms are integrated against exp(lambda). A weight is 0 where a
    level is missing.
    """
    if not before:
        return []
    half_log_snrs = (0.5 * (torch.log(a) - torch.log1p(-a)) for a in (cur, nxt, *before))
    lambda_cur, lambda_nxt, *past = half_log_snrs
    h, gap = lambda_nxt - lambda_cur, lambda_cur - past[0]
    first = h + torch.expm1(-h)  # the integral of u = lambda - lambda_cur, over exp(h)
    weights = [torch.sqrt(nxt) * first / gap]
    if len(past) == 2:
        gap_before = past[0] - past[1]
        second = h**2 - 2 * first + gap * first  # the integral of u (u + gap), over exp(h)
        quadratic = torch.sqrt(nxt) * second / (gap + gap_before)
        known = torch.isfinite(quadratic / gap_before)
        weights = [
            weights[0] + torch.where(known, quadratic / gap, 0.0),
            torch.where(known, -quadratic / gap_before, 0.0),
        ]
    usable = h.abs() <= _MAX_LENGTH_RATIO * gap.abs()  # False where a level is missing
    return [torch.where(usable & torch.isfinite(weight), weight, 0.0) for weight in weights]


# Name of a solver -> class or function that makes it from an order and a key of `PREDICTED`.
SOLVERS: dict[str, Callable[[int, str], Multistep]] = {"ddim": DDIM, "dpmpp": Multistep}
