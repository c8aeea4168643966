"""Losses in the log of a training, by quarter of the timesteps."""

import functools

import torch as th

from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..runtime import logger


def log_loss_dict(
    diffusion: GaussianDiffusion, ts: th.Tensor, losses: dict[str, th.Tensor]
) -> None:
    """Average each loss, and its mean in each quarter of the timesteps (`loss_q0`..`loss_q3`).

    The values are read when the row is written, so that no step waits for its device.
    """
    found = {key: values.detach().clone() for key, values in losses.items()}
    logger.defer(functools.partial(_log_losses, diffusion.num_timesteps, ts, found))


def _log_losses(num_timesteps: int, ts: th.Tensor, losses: dict[str, th.Tensor]) -> None:
    quartiles = (4 * ts.cpu().numpy() // num_timesteps).tolist()
    for key, values in losses.items():
        values = values.float().cpu().numpy()
        logger.logkv_mean(key, float(values.mean()))
        for quartile, value in zip(quartiles, values.tolist(), strict=True):
            logger.logkv_mean(f"{key}_q{quartile}", value)
