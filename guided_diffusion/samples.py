"""New images on disk while they are drawn: upstream's .npz, from a file that all ranks share.

Images are [N, H, W, C] uint8. What is finished lies in a hidden array of one record per image,
which a killed run leaves behind; the same command draws only what is missing in it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.lib.format import open_memmap

from . import dist_util, logger, report, run
from .bridge import deal
from .options import NUM_CLASSES

GRID_IMAGES = 64

Draw = Callable[[Sequence[int]], th.Tensor]
Labels = Callable[[Sequence[int]], np.ndarray]


def stream(
    folder: Path,
    shape: Sequence[int],
    batch_size: int,
    draw: Draw,
    identity: Mapping[str, Any],
    labels: Labels | None = None,
) -> Path:
    """Draw images on all ranks and save them as one .npz, with a grid to look at (samples.png).

    Every rank calls it alike. Image i must depend on its index alone, not on its batch.

    Args:
        folder: where the files go; exists.
        shape: (N, H, W, C).
        batch_size: images per call of `draw`.
        draw: takes n indices, returns their images [n, C, H, W] in [-1, 1].
        identity: all that decides the images, as JSON takes it: flags, digests of weights. What
            a killed run of another identity left is not continued.
        labels: takes n indices, returns their classes [n]; None: the .npz holds no classes.

    Returns:
        samples_NxHxWxC.npz, with arr_0 the images and arr_1 the classes.

    Raises:
        UserError: if the disk has no room.
    """
    name = f"samples_{'x'.join(map(str, shape))}"
    partial = folder / f".{name}_{run.fingerprint(dict(identity))}.partial.npy"
    todo = dist_util.once(lambda: _unfinished(partial, shape))
    records = open_memmap(partial, "r+")
    batches = [[todo[i] for i in batch] for batch in deal(len(todo), batch_size)]
    mine = batches[dist_util.rank() :: dist_util.world_size()]
    for batch in run.progress(mine, unit="batch"):
        _store(records, batch, report.to_uint8(draw(batch)))
    dist_util.barrier()
    path = folder / f"{name}.npz"
    if dist_util.rank() == 0:
        _save(path, records["image"], labels)
        partial.unlink()
    dist_util.barrier()
    return path


def _unfinished(partial: Path, shape: Sequence[int]) -> list[int]:
    if not partial.exists():
        dtype = [("finished", np.bool_), ("image", np.uint8, tuple(shape[1:]))]
        run.create_array(partial, dtype, shape[:1], "--num_samples")
    finished = open_memmap(partial, "r")["finished"]
    if finished.any():
        logger.log(f"{finished.sum()} of {len(finished)} images are there from an earlier run")
    return np.flatnonzero(~finished).tolist()


def _store(records: np.memmap, batch: Sequence[int], images: np.ndarray) -> None:
    records["image"][batch] = images
    records.flush()  # before they count as finished
    records["finished"][batch] = True


def _save(path: Path, images: np.ndarray, labels: Labels | None) -> None:
    arrays = [images] if labels is None else [images, labels(range(len(images)))]
    with run.atomic_write(path) as file:
        np.savez(file, *arrays)
    with run.atomic_write(path.with_name("samples.png")) as file:
        report.square_grid(images[:GRID_IMAGES]).save(file, "png")
    logger.log(f"saved {path}")


def random_labels(
    seed: int, indices: Sequence[int], classes: Sequence[int] = range(NUM_CLASSES)
) -> np.ndarray:
    """Return the class that each image is drawn in, int64 [n]; one of `classes`, at random."""
    picks = [run.generator(seed, 4, index).integers(len(classes)) for index in indices]
    return np.array([classes[pick] for pick in picks], dtype=np.int64)
