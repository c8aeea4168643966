"""Small images that a super-resolution network enlarges, NCHW float32 in [-1, 1] as large ones."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch as th
import torch.nn.functional as F

from ..errors import UserError, blame
from .classes import Classes
from .image_formats import open_images
from .image_source import Batch, ImageSource
from .reading import READING, ReadingSettings
from .sample_runs import is_sample_run


def downsample(images: th.Tensor, side: int) -> th.Tensor:
    """Average images [N, C, H, W] over areas to [N, C, side, side]."""
    return F.interpolate(images, side, mode="area")


def with_low_res(batches: Iterable[Batch], side: int) -> Iterator[Batch]:
    """Add {"low_res": [N, C, side, side]} to the conditions of batches of large images."""
    for images, conditions in batches:
        yield images, conditions | {"low_res": downsample(images, side)}


def pixelated(images: th.Tensor, side: int) -> th.Tensor:
    """Enlarge images [N, C, H, W] to [N, C, side, side] with their pixels left visible."""
    return F.interpolate(images, side, mode="nearest")


def open_base_samples(
    path: str,
    side: int,
    classes: Classes | None,
    in_channels: int,
    reading: ReadingSettings = READING,
) -> ImageSource:
    """Open the images to enlarge, of an .npz or of a folder (then as centre crops).

    Args:
        path: folder, run folder of a sampling command, or .npz as `image_sample.py` writes it:
            arr_0, and classes as arr_1.
        side: side of the small images, pixels.
        classes: classes of the network, which needs those of the images; None: it does not.
        in_channels: number of channels that the network takes, 1 to 4.
        reading: settings of how files are read.

    Raises:
        UserError: if there are no images, or they do not fit the network.
    """
    kinds = "an .npz or a folder of images"
    with blame("base_samples"):
        place = Path(path)  # images of an .npz have their size already
        cut = 0 if place.is_file() or is_sample_run(place) else side
        images = open_images(
            path, cut, in_channels, classes=classes, expected=kinds, reading=reading
        )
        found = "x".join(map(str, images.size)) if len(images) else "no image"
        if found != f"{side}x{side}":
            expected = f"expected {side}x{side} pixels, as the model's --small_size says"
            raise UserError(f"{path}: {expected}, got {found}")
        images.check()
        return images
