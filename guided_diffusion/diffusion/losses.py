"""Likelihood terms of Gaussian models, for each element and in nats.

Images are in [-1, 1] and come from 8-bit values: neighbouring values are 2 / 255 apart. Sums over
pixels and the conversion to bits are left to the caller.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HALF_BIN = 1.0 / 255.0
_MIN_PROBABILITY = 1e-12
# Values beyond these belong to the first and the last of the 256 bins.
_FIRST_BIN, _LAST_BIN = -0.999, 0.999


def normal_kl(
    mean1: Tensor | float, logvar1: Tensor | float, mean2: Tensor | float, logvar2: Tensor | float
) -> Tensor:
    """Compute the KL divergence of N(mean1, exp(logvar1)) from N(mean2, exp(logvar2)) in nats.

    The arguments may have any shapes that broadcast together; the result has the broadcast shape.

    Raises:
        ValueError: if none of the four is a tensor.
    """
    given = (mean1, logvar1, mean2, logvar2)
    like = next((a for a in given if isinstance(a, Tensor)), None)
    if like is None:
        found = ", ".join(type(a).__name__ for a in given)
        raise ValueError(f"normal_kl: expected at least one tensor, found {found}")
    log1, log2 = (torch.as_tensor(a).to(like) for a in (logvar1, logvar2))
    # The order of the sum decides the result in float32 where the two normals nearly agree.
    spread = -1.0 + log2 - log1 + torch.exp(log1 - log2)
    return 0.5 * (spread + (mean1 - mean2) ** 2 * torch.exp(-log2))


def approx_standard_normal_cdf(x: Tensor) -> Tensor:
    """Compute the probability that a standard normal stays below x, to within 2e-4 by a tanh."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def discretized_gaussian_log_likelihood(x: Tensor, *, means: Tensor, log_scales: Tensor) -> Tensor:
    """Compute the log-probability that a Gaussian gives to the 8-bit bin of each pixel.

    The first and the last bin take the whole tail on their side, so the 256 bins sum to one.

    Args:
        x: images in [-1, 1], any shape.
        means: means of the Gaussians, same shape.
        log_scales: natural logarithms of the standard deviations, same shape.

    Returns:
        Log-probabilities in nats, same shape; never below log(1e-12).

    Raises:
        ValueError: if the three shapes differ.

    Reference: DDPM, arXiv:2006.11239, eq. 13.
    """
    if not x.shape == means.shape == log_scales.shape:
        raise ValueError(
            f"expected means and log_scales of the shape of x, {tuple(x.shape)}, "
            f"found {tuple(means.shape)} and {tuple(log_scales.shape)}"
        )
    centred, inv_std = x - means, torch.exp(-log_scales)
    below_upper = approx_standard_normal_cdf((centred + _HALF_BIN) * inv_std)
    below_lower = approx_standard_normal_cdf((centred - _HALF_BIN) * inv_std)
    above_lower = 1.0 - below_lower
    inside = below_upper - below_lower
    probability = torch.where(
        x < _FIRST_BIN, below_upper, torch.where(x > _LAST_BIN, above_lower, inside)
    )
    return probability.clamp(min=_MIN_PROBABILITY).log()
