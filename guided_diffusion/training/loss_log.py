"""Losses in the log of a training, by quarter of the timesteps."""

import torch as th

from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..runtime import logger


def log_loss_dict(
    diffusion: GaussianDiffusion, ts: th.Tensor, losses: dict[str, th.Tensor]
) -> None:
    """Log the mean of each loss, and its mean over each quarter of the timesteps as NAME_q0..q3.

    A quarter without timesteps in a row of the log has no entry there. The values are read when the
    row is written, so that no step waits for its device.

    Args:
        diffusion: process that the timesteps belong to.
        ts: timesteps, int64 [N].
        losses: {name: losses [N]}.
    """
    found = {key: values.detach().clone() for key, values in losses.items()}

    def note() -> None:
        quarters = (4 * ts.cpu().numpy() // diffusion.num_timesteps).tolist()
        for key, values in found.items():
            values = values.float().cpu().numpy()
            logger.logkv_mean(key, float(values.mean()))
            for quarter, value in zip(quarters, values.tolist(), strict=True):
                logger.logkv_mean(f"{key}_q{quarter}", value)

    logger.defer(note)
