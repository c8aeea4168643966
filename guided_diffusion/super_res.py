"""Small images that a super-resolution network enlarges: of training batches, and given ones.

Small images are NCHW float32 in [-1, 1], as large ones are. In training they are the large ones
averaged over areas.
"""

from collections.abc import Iterable, Iterator

import torch as th
import torch.nn.functional as F

from .image_datasets import Batch


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
