"""Move points from one distribution to another by DDIB: what the commands of points share.
The training run of a task lies in a folder of its own name below `RUNS`, where the other scripts
look for it unless they are told otherwise. Points are float32 [N, 2]; point i depends on the seed,
the number of points and i, not on batch size or ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch as th

from ..config.network_settings import PointNetworkSettings
from ..data import plots
from ..data.synthetic_datasets import draw_points, shape_of_task
from ..diffusion.settings import ProcessSettings
from ..models.domains import POINTS, Domain, load_asked
from ..runtime import atomic_files, dist_util, logger, progress_bars
from ..runtime.random_streams import Stream, generator
from ..runtime.work_sharing import Dealing
from . import sequences
from .settings import PointTranslationSettings

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
    """Load the model of a task; settings that were given go before those of its training.

    Args:
        path: checkpoint or training run folder.
        task: number of the distribution, which names the domain.
        network: settings of the command, as is `process`.
        process: settings of the process.
        compile: whether the network is compiled.

    Raises:
        UserError: if the path, the file or the settings do not fit.
    """
    label = shape_of_task(task).name.lower().replace("_", " ")
    return load_asked(str(path), network, process, kind=POINTS, label=label, compile=compile)


def load_pair(
    asked: PointTranslationSettings,
    network: PointNetworkSettings,
    process: ProcessSettings,
    compile: bool = False,
) -> tuple[Domain, Domain]:
    """Load the source and the target model, by path or by task.

    Raises:
        UserError: if one cannot be loaded, or the two cannot be joined.
    """
    named = ((asked.source_model, asked.source), (asked.target_model, asked.target))
    source, target = (
        load(path or run_of_task(task, asked.model_path), task, network, process, compile)
        for path, task in named
    )
    sequences.refuse_unequal(source, target)
    return source, target


def source_points(asked: PointTranslationSettings, seed: int) -> th.Tensor:
    """Return the points [num_samples, 2] of the source distribution that are to be moved."""
    rng = generator(seed, Stream.SOURCE_POINTS, asked.source)
    return th.from_numpy(draw_points(asked.num_samples, shape_of_task(asked.source), rng))


def over_ranks(
    count: int, batch_size: int, move: Callable[[Sequence[int]], Sequence[th.Tensor]]
) -> list[np.ndarray]:
    """Call `move` with the indices of each batch, the batches dealt to the ranks.

    Args:
        count: points in all.
        batch_size: points per call.
        move: indices -> tensors [N, 2], as many at each call.

    Returns:
        the tensors of all batches put together, [count, 2] each, on every rank.
    """
    mine = progress_bars.progress(Dealing(range(count), batch_size), unit="batch")
    moved = {batch[0]: [tensor.cpu().numpy() for tensor in move(batch)] for batch in mine}
    parts: dict[int, list[np.ndarray]] = {}
    for found in dist_util.Ranks().gather(moved):
        parts |= found
    in_order = [parts[first] for first in sorted(parts)]
    return [np.concatenate(arrays) for arrays in zip(*in_order, strict=True)]


def save(path: Path, arrays: Mapping[str, np.ndarray], titles: Sequence[str]) -> None:
    """Save sets of points as PATH.npz, and as a row of plots in PATH.png (rank 0)."""
    if dist_util.rank() == 0:
        with atomic_files.atomic_write(path.with_suffix(".npz")) as file:
            np.savez(file, **arrays)
        panels = dict(zip(titles, arrays.values(), strict=True))
        plots.scatter_row(panels, path.with_suffix(".png"))
        logger.log(f"saved {path}.npz and {path}.png")
    dist_util.barrier()


def round_trip(start: np.ndarray, end: np.ndarray) -> dict[str, float]:
    """Return mean and largest distance of points [N, 2] from where they started."""
    distance = np.linalg.norm(end.astype(np.float64) - start, axis=1)
    return {"mean": float(distance.mean()), "max": float(distance.max())}
