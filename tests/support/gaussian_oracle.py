"""Images whose pixels are independent normals: their best denoiser and its bound, in closed form.

Everything follows from scalar variances. The reverse moves of such a process are normal
themselves, so that with the right variances the bound is as tight as the process is long.
"""

import math
from statistics import NormalDist

import numpy as np
import torch

from guided_diffusion.gaussian_diffusion import ModelVarType
from guided_diffusion.respace import SpacedDiffusion

HALF_BIN = 1 / 255


class GaussianOracle(torch.nn.Module):
    """The best network for pixels N(mean, std^2): predicts noise, and the variance where learned.

    Args:
        diffusion: the process, which asks it at original timesteps.
        mean: of the pixels.
        std: of the pixels.
    """

    def __init__(self, diffusion: SpacedDiffusion, mean: float, std: float) -> None:
        super().__init__()
        self.kept = torch.tensor(diffusion.timestep_map)
        self.levels = torch.tensor(diffusion.alphas_cumprod)
        self.mean, self.variance = mean, std**2
        right = np.log(best_variances(diffusion, std))
        small = diffusion.posterior_log_variance_clipped
        self.range = torch.tensor(2 * (right - small) / (np.log(diffusion.betas) - small) - 1)
        self.learned = diffusion.model_var_type == ModelVarType.LEARNED_RANGE

    def forward(self, x: torch.Tensor, t: torch.Tensor, **conditions: torch.Tensor) -> torch.Tensor:
        index = torch.searchsorted(self.kept, t)
        level, fraction = (table[index].reshape(-1, 1, 1, 1) for table in (self.levels, self.range))
        centred = x.double() - level.sqrt() * self.mean
        eps = (1 - level).sqrt() * centred / (level * self.variance + 1 - level)
        out = [eps, fraction.expand(eps.shape)] if self.learned else [eps]
        return torch.cat(out, dim=1).float()


def uncertainty(diffusion: SpacedDiffusion, std: float) -> np.ndarray:
    """The variance [T] of a clean pixel, given its state at t."""
    levels = diffusion.alphas_cumprod
    return std**2 * (1 - levels) / (levels * std**2 + 1 - levels)


def posterior(diffusion: SpacedDiffusion) -> tuple[np.ndarray, np.ndarray]:
    """Variance [T] of a pixel one move before t, given it clean and at t; its share of the clean.

    Two noisy readings of x_{t-1} are joined: from the clean pixel and from the state at t.
    """
    levels, betas = diffusion.alphas_cumprod, diffusion.betas
    before = np.append(1.0, levels[:-1])
    with np.errstate(divide="ignore"):
        variance = 1 / (1 / (1 - before) + (1 - betas) / betas)
    share = np.ones_like(levels)  # at t = 0 the state one move before is the clean pixel
    share[1:] = variance[1:] * np.sqrt(before[1:]) / (1 - before[1:])
    return variance, share


def best_variances(diffusion: SpacedDiffusion, std: float) -> np.ndarray:
    """The variance [T] of a pixel one move before t, given its state at t."""
    variance, share = posterior(diffusion)
    return variance + share**2 * uncertainty(diffusion, std)


def variances(diffusion: SpacedDiffusion, std: float) -> np.ndarray:
    """The variance [T] that the process gives its reverse moves."""
    if diffusion.model_var_type == ModelVarType.LEARNED_RANGE:
        return best_variances(diffusion, std)
    small, _ = posterior(diffusion)
    large = diffusion.model_var_type == ModelVarType.FIXED_LARGE
    return np.append(small[1], (diffusion.betas if large else small)[1:])


def bound(diffusion: SpacedDiffusion, mean: float, std: float) -> tuple[np.ndarray, float]:
    """The terms [T] of the bound and the prior's, in bits per dimension; t = 0 first."""
    model, rest = variances(diffusion, std), uncertainty(diffusion, std)
    true, share = posterior(diffusion)
    decoder = _decoder(math.sqrt(rest[0]), math.sqrt(model[0]))
    spread = (true + share**2 * rest)[1:] / model[1:]
    moves = 0.5 * (np.log(model[1:] / true[1:]) - 1 + spread)
    last = diffusion.alphas_cumprod[-1]
    prior = 0.5 * (last * (mean**2 + std**2) - last - math.log(1 - last))
    return np.append(decoder, moves) / math.log(2), prior / math.log(2)


def _decoder(error: float, std: float) -> float:
    """Mean of -log P(bin around x) under N(x + u, std^2), for u from N(0, error^2)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    cdf = NormalDist(0, std).cdf
    inside = [cdf(error * u + HALF_BIN) - cdf(error * u - HALF_BIN) for u in nodes]
    return float(-(weights @ np.log(np.maximum(inside, 1e-12))) / weights.sum())


def entropy(std: float) -> float:
    """Bits of a normal in bins of the width of 8-bit values: what no bound can be below."""
    return 0.5 * math.log2(2 * math.pi * math.e * std**2) - math.log2(2 * HALF_BIN)


def design(count: int) -> torch.Tensor:
    """`count` points that stand for a standard normal: mean 0, variance 1, at even quantiles."""
    quantiles = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    points = torch.tensor(quantiles, dtype=torch.float64)
    return (points / points.square().mean().sqrt()).float()
