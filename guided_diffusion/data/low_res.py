"""Small images that a super-resolution network enlarges, NCHW float32 in [-1, 1] as large ones."""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch as th
import torch.nn.functional as F

from ..errors import UserError, blame
from .image_formats import open_images
from .image_source import Batch, ImageSource


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


def open_base_samples(path: str, side: int, class_cond: bool, in_channels: int) -> ImageSource:
    """Open the images to enlarge, of an .npz or of a folder (then as centre crops).

    Args:
        path: folder, or .npz as `image_sample.py` writes it: arr_0, and classes as arr_1.
        side: side of the small images, pixels.
        class_cond: whether the network needs their classes.
        in_channels: number of channels that the network takes, 1 to 4.

    Raises:
        UserError: if there are no images, or they do not fit the network.
    """
    with blame("base_samples"):
        if not path or not Path(path).exists():
            raise UserError(f"expected an .npz or a folder of images, got {path!r}")
        if Path(path).is_file():
            _refuse_npz(path, (side, side, in_channels))
        return open_images(path, side, in_channels, labels="prefix" if class_cond else "")


def _refuse_npz(path: str, expected: tuple[int, ...]) -> None:
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file.get("arr_0")
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"expected an .npz, got {path} ({error})") from None
    if images is None or images.dtype != np.uint8 or images.shape[1:] != expected:
        found = "no arr_0" if images is None else f"{images.dtype} {list(images.shape)}"
        raise UserError(
            f"expected arr_0 of uint8 [N, {', '.join(map(str, expected))}], as the "
            f"model's --small_size says, found {found} in {path}"
        )
    if not len(images):
        raise UserError(f"expected images, found none in {path}")
