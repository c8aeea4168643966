"""Move points of one distribution to another: encode with the source model, decode with the target.

Saves source points, noise and target points as .npz, and a plot of each in which a point keeps its
colour. Flags of network and process are read from the args.json beside each model.
"""

from pathlib import Path

from ..config.network_settings import PointNetworkSettings
from ..config.settings import joined
from ..data import plots
from ..diffusion.settings import ProcessSettings
from ..runtime import logger, progress_bars
from ..runtime.command import STARTS_ANEW, command
from ..runtime.run_folder import RunFolder, default_folder
from ..runtime.settings import ExecutionSettings, RunSettings
from ..translation import point_translation
from ..translation.predictor import Predictor
from ..translation.settings import PointTranslationSettings, WalkSettings
from ..translation.walks import translate


@command(interrupted=STARTS_ANEW)
def main(
    asked: PointTranslationSettings,
    network: PointNetworkSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Move the points."""
    # Load the models and claim the run folder.
    plots.figure_class()
    everything = joined(asked, network, process, run, execution)
    name = f"translation_{asked.source}_{asked.target}"
    default = default_folder(name, everything, main.free, main.defaults)
    source, target = point_translation.load_pair(asked, network, process, execution.compile)
    folder = RunFolder(Path(run.out_dir or default), main.name, everything, main.free)
    folder.claim()
    logger.configure(str(folder.path))

    # Move the points to the noise and on to the target; a batch goes in one forward.
    points = point_translation.source_points(asked, run.seed)
    walk = WalkSettings(level_convention=asked.level_convention)
    ends = [Predictor(domain, execution, asked.batch_size) for domain in (source, target)]
    latents, moved = point_translation.over_ranks(
        asked.num_samples,
        asked.batch_size,
        lambda batch: translate(*ends, points[batch], walk, progress_bars.inner_progress),
    )

    # Save the points and their plots.
    point_translation.save(
        folder.path / name,
        {"source": points.numpy(), "latent": latents, "target": moved},
        [source.label, "latent", target.label],
    )
