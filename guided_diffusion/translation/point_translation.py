"""Move points from one distribution to another by DDIB, for the commands of points.

The training run of task k lies in the folder log2Dk below `RUNS`, where the other commands look for
it by default. Points are float32 [N, 2]; point i depends on the seed, the number of points and i,
not on batch size or ranks.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch as th

from ..config.network_settings import PointNetworkSettings
from ..config.settings import joined
from ..data import plots
from ..data.synthetic_datasets import draw_points, shape_of_task
from ..diffusion.settings import ProcessSettings
from ..models.domains import POINTS, Domain, load_asked
from ..runtime import atomic_files, dist_util, logger, progress_bars
from ..runtime.command import Command
from ..runtime.execution import settle_precision
from ..runtime.random_streams import Stream, generator
from ..runtime.run_folder import RunFolder, default_folder
from ..runtime.settings import ExecutionSettings, RunSettings
from ..runtime.work_sharing import SharedBatches
from . import sequences
from .encode_decode import translate
from .predictor import Predictor
from .settings import PointTranslationSettings, WalkSettings

RUNS = Path("results") / "synthetic"


def run_of_task(task: int, folder: str | Path = "") -> Path:
    """Return the training run of a task in a folder of runs (empty: `RUNS`)."""
    return Path(folder or RUNS) / f"log2D{task}"


def load(
    path: str | Path,
    task: int,
    network: PointNetworkSettings,
    process: ProcessSettings,
    compile: bool = False,
) -> Domain:
    """Load the model of a task from a checkpoint or training run folder, and name it for the task.

    Settings that the command line gave override the settings of the training.

    Raises:
        UserError: if the path, the file or the settings do not fit.
    """
    label = shape_of_task(task).name.lower().replace("_", " ")
    return load_asked(str(path), network, process, kind=POINTS, label=label, compile=compile)


def move_points(
    command: Command,
    asked: PointTranslationSettings,
    network: PointNetworkSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
    back: bool = False,
) -> None:
    """Move points of the source distribution to the target and save each stage, with a plot.

    Args:
        command: command that was asked, whose run folder is claimed.
        asked: points to move, and their models.
        network: settings of both networks.
        process: settings of both processes.
        run: run folder and seed.
        execution: arithmetic of the networks.
        back: whether to move the points back as well, and log their distance from the start.

    Raises:
        UserError: if a model cannot be loaded, or the two models cannot be joined.
    """
    # Load the models and claim the run folder.
    plots.figure_class()
    everything = joined(asked, network, process, run, execution)
    name = f"{'cycle' if back else 'translation'}_{asked.source}_{asked.target}"
    default = default_folder(name, everything, command.free, command.defaults)
    named = ((asked.source_model, asked.source), (asked.target_model, asked.target))
    source, target = (
        load(path or run_of_task(task, asked.model_path), task, network, process, execution.compile)
        for path, task in named
    )
    sequences.refuse_unequal(source, target)
    folder = RunFolder(Path(run.out_dir or default), command.name, everything, command.free)
    folder.claim(precision=settle_precision(execution.precision, dist_util.dev()))
    logger.configure(str(folder.path))

    # Move the points to noise and on to the target, each batch in one forward.
    rng = generator(run.seed, Stream.SOURCE_POINTS, asked.source)
    points = draw_points(asked.num_samples, shape_of_task(asked.source), rng)
    walk = WalkSettings(level_convention=asked.level_convention)
    ends = [Predictor(domain, execution, asked.batch_size) for domain in (source, target)]

    def move(batch: Sequence[int]) -> list[th.Tensor]:
        stages = [th.from_numpy(points[batch])]
        for first, second in (ends, ends[::-1]) if back else (ends,):
            stages += translate(first, second, stages[-1], walk, progress_bars.inner_progress)
        return stages[1:]

    stages = [points, *over_ranks(asked.num_samples, asked.batch_size, move)]

    # Save the points and their plots, and log the distance of start and end.
    names = ("source", "latent", "target", "latent_back", "cycle")[: len(stages)]
    titles = source.label, "latent", target.label, "latent back", f"{source.label} back"
    save(folder.path / name, dict(zip(names, stages, strict=True)), titles[: len(stages)])
    if back:
        distances = round_trip(points, stages[-1])
        logger.logkvs({f"{key}_distance": value for key, value in distances.items()})
        logger.logkvs({"points": len(points), "steps": source.diffusion.num_timesteps})
        logger.dumpkvs()


def over_ranks(
    count: int, batch_size: int, move: Callable[[Sequence[int]], Sequence[th.Tensor]]
) -> list[np.ndarray]:
    """Move points batch by batch, with the batches shared by the ranks.

    Args:
        count: number of all points.
        batch_size: points per batch.
        move: function from the indices of a batch to tensors [N, 2], the same number each time.

    Returns:
        each tensor of all batches together, [count, 2], on every rank.
    """
    mine = progress_bars.progress(SharedBatches(range(count), batch_size), unit="batch")
    moved = {batch[0]: [tensor.cpu().numpy() for tensor in move(batch)] for batch in mine}
    parts = ChainMap(*dist_util.Ranks().gather(moved))
    in_order = [parts[first] for first in sorted(parts)]
    return [np.concatenate(arrays) for arrays in zip(*in_order, strict=True)]


def save(path: Path, arrays: Mapping[str, np.ndarray], titles: Sequence[str]) -> None:
    """Save sets of points as PATH.npz, and as a row of plots in PATH.png (rank 0)."""
    if dist_util.rank() == 0:
        with atomic_files.atomic_write(path.with_suffix(".npz")) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        panels = dict(zip(titles, arrays.values(), strict=True))
        plots.scatter_row(panels, path.with_suffix(".png"))
        logger.log(f"saved {path}.npz and {path}.png")
    dist_util.barrier()


def round_trip(start: np.ndarray, end: np.ndarray) -> dict[str, float]:
    """Return the mean and the largest distance of points [N, 2] from their start."""
    distance = np.linalg.norm(end.astype(np.float64) - start, axis=1)
    return {"mean": float(distance.mean()), "max": float(distance.max())}
