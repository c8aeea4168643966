"""The log of a training loop: its files, and the losses by quarter of the timesteps."""

import functools
import os
from pathlib import Path

import torch as th

from . import dist_util, logger
from .gaussian_diffusion import GaussianDiffusion


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


def open_loop_log(out_dir: Path, *, together: bool = True) -> None:
    """Log to the terminal and to log.txt, progress.csv and progress.jsonl of a run folder.

    Args:
        out_dir: the run folder.
        together: the ranks write each row together, the mean of theirs; otherwise ranks above 0
            write their own rows to log-rankNNN.txt and so on.
    """
    formats = os.getenv("OPENAI_LOG_FORMAT", "stdout,log,csv,jsonl").split(",")
    if dist_util.rank() > 0:
        formats = [] if together else [name for name in formats if name != "stdout"]
    comm = dist_util.Ranks() if together and dist_util.world_size() > 1 else None
    logger.configure(str(out_dir), formats, comm)
