"""New images on disk while they are drawn: upstream's .npz, from a file that all ranks share.

Images are [N, H, W, C] uint8. A killed run leaves what is finished; the same command draws only
what is missing (see `records`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from . import dist_util, logger, records, report, run
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
    fields = [("image", np.uint8, tuple(shape[1:]))]
    *_, drawn = records.fill(
        partial, fields, shape[0], batch_size, lambda batch: {"image": report.to_uint8(draw(batch))}
    )
    path = folder / f"{name}.npz"
    if dist_util.rank() == 0:
        _save(path, drawn["image"], labels)
        partial.unlink()
    dist_util.barrier()
    return path


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
