"""Likelihood of images under a model: a bound on their bits per dimension, and its terms.

A dimension is the 8-bit value of one pixel and channel. A bound is the sum of one term per timestep
and of the prior's, each estimated with one draw of noise per image.
"""

import math
from collections.abc import Sequence

import numpy as np

from ..data.image_source import ImageSource
from ..models.domains import Domain
from ..runtime import execution
from ..runtime.random_streams import ImageNoise, Stream

TERMS = ("vb", "xstart_mse", "mse")  # of each timestep


def fields(num_timesteps: int) -> list[tuple]:
    """Return name, type and shape of each result of `measure` for one image."""
    totals = [(name, np.float32) for name in ("total_bpd", "prior_bpd")]
    return totals + [(name, np.float32, (num_timesteps,)) for name in TERMS]


def measure(
    domain: Domain,
    images: ImageSource,
    indices: Sequence[int],
    seed: int,
    clip_denoised: bool = True,
    precision: str = "fp32",
) -> dict[str, np.ndarray]:
    """Measure some images, each with noise that depends on the seed and its own index alone.

    Args:
        domain: the model.
        images: images in the size and channels of the model.
        indices: places of the n images to measure.
        seed: base seed of the noise.
        clip_denoised: whether predicted clean images are limited to [-1, 1].
        precision: arithmetic of the network, "fp32", "bf16" or "auto".

    Returns:
        `total_bpd` and `prior_bpd` [n], and `TERMS` [n, T] from the noisiest timestep to the
        cleanest, as `GaussianDiffusion.calc_bpd_loop` has them.

    Raises:
        UserError: if numbers are not finite.
    """
    batch, conditions = images.batch(indices)
    noise = ImageNoise(seed, indices, Stream.LIKELIHOOD_NOISE)
    with execution.autocast(domain.device, precision):
        known = {name: value.to(domain.device) for name, value in conditions.items()}
        found = domain.diffusion.drawing(noise).calc_bpd_loop(
            domain.model, batch.to(domain.device), clip_denoised, known
        )
    domain.refuse_infinite(*found.values())
    return {name: value.float().cpu().numpy() for name, value in found.items()}


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of values [N] and its standard error, which is NaN for N = 1."""
    values = values.astype(np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)
