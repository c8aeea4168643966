"""Draw points from a trained two-dimensional model; save them as .npz (arr_0) and as a plot.

Point i depends on --seed and i alone, whatever the batch size and the number of processes. Flags
of network and process are read from the args.json beside the model; flags given here win.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..config.network_settings import PointNetworkSettings
from ..data import plots
from ..diffusion.settings import ProcessSettings
from ..runtime import dist_util, logger
from ..runtime.command import STARTS_ANEW, command
from ..runtime.execution import settle_precision
from ..runtime.settings import ExecutionSettings, RunSettings
from ..sampling import new_images
from ..sampling.results_folder import results_folder
from ..sampling.settings import SampleSettings
from ..translation import point_translation
from ..translation.settings import PointSampleSettings


@command(interrupted=STARTS_ANEW)
def main(
    asked: PointSampleSettings,
    network: PointNetworkSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Draw the points."""
    # Load the model: a checkpoint or run, or the run of the task in a folder of runs.
    plots.figure_class()
    path = point_translation.run_of_task(asked.task, asked.model_path)
    if asked.model_path and not path.is_dir():
        path = Path(asked.model_path)
    domain = point_translation.load(path, asked.task, network, process, execution.compile)
    own, name = (asked, run, execution), f"samples_2d_{asked.task}"
    folder = results_folder(main, name, "samples_*.npz", own, {"model": domain})
    result = folder.path / f"samples_{asked.num_samples}x{domain.network.in_channels}"

    # Claim the run folder, which may hold the points already.
    folder.claim(precision=settle_precision(execution.precision, dist_util.dev()))
    logger.configure(str(folder.path))
    if dist_util.once(result.with_suffix(".npz").exists):
        return logger.log(f"{result}.npz is there already")

    # Points reach beyond [-1, 1], to which images would be clipped.
    sample, shape = SampleSettings(clip_denoised=False), (domain.network.in_channels,)
    options = {"seed": run.seed, "precision": execution.precision}

    def draw(indices: Sequence[int]) -> list[torch.Tensor]:
        return [new_images.draw(domain, shape, indices, sample, **options)]

    # Draw the points, and save them under upstream's name and as a plot.
    (points,) = point_translation.over_ranks(asked.num_samples, asked.batch_size, draw)
    point_translation.save(result, {"arr_0": points}, [domain.label])
