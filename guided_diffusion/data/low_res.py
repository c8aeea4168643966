"""Small images that a super-resolution network enlarges: of training batches, and given ones.

Small images are NCHW float32 in [-1, 1], as large ones are. In training they are the large ones
averaged over areas.
"""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch as th
import torch.nn.functional as F

from ..config.network_settings import NUM_CLASSES
from ..errors import ArgumentError
from .image_datasets import Batch, ImageDataset, fixed_images
from .image_files import to_model_range


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


class BaseSamples:
    """Small images of an .npz as `image_sample.py` writes it: arr_0, and classes as arr_1.

    Args:
        path: of the file.
        side: of the images, pixels.
        class_cond: whether their classes are needed.
        in_channels: of the images.

    Raises:
        UserError: unless the file holds such images.
    """

    def __init__(self, path: Path, side: int, class_cond: bool, in_channels: int) -> None:
        arrays = _load_npz(path)
        self.images = arrays.get("arr_0")
        _check_images(path, self.images, (side, side, in_channels))
        self.labels = None
        if class_cond:
            self.labels = arrays.get("arr_1")
            _check_labels(path, self.labels, len(self.images))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return ([N, C, H, W] float32 in [-1, 1], {"y": classes [N]} if needed)."""
        chosen = list(indices)
        labels = {} if self.labels is None else {"y": th.from_numpy(self.labels[chosen]).long()}
        return to_model_range(self.images[chosen]), labels


def open_base_samples(
    path: str, side: int, class_cond: bool, in_channels: int
) -> BaseSamples | ImageDataset:
    """Return the images to enlarge, of an .npz or of a folder (then as centre crops).

    Raises:
        UserError: if there are none, or they do not fit the network.
    """
    if not path or not Path(path).exists():
        raise ArgumentError("base_samples", f"expected an .npz or a folder of images, got {path!r}")
    if Path(path).is_dir():
        return fixed_images(path, side, class_cond, in_channels, "base_samples")
    return BaseSamples(Path(path), side, class_cond, in_channels)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("arr_0", "arr_1") if name in file}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ArgumentError("base_samples", f"expected an .npz, got {path} ({error})") from None


def _check_images(path: Path, images: np.ndarray | None, expected: tuple[int, ...]) -> None:
    if images is None or images.dtype != np.uint8 or images.shape[1:] != expected:
        found = "no arr_0" if images is None else f"{images.dtype} {list(images.shape)}"
        raise ArgumentError(
            "base_samples",
            f"expected arr_0 of uint8 [N, {', '.join(map(str, expected))}], as the "
            f"model's --small_size says, found {found} in {path}",
        )
    if not len(images):
        raise ArgumentError("base_samples", f"expected images, found none in {path}")


def _check_labels(path: Path, labels: np.ndarray | None, count: int) -> None:
    whole = labels is not None and labels.shape == (count,) and labels.dtype.kind in "iu"
    if not whole or not ((labels >= 0) & (labels < NUM_CLASSES)).all():
        raise ArgumentError(
            "base_samples",
            f"expected as arr_1 a class of 0 to {NUM_CLASSES - 1} for each image, "
            f"as the model needs it, found {'other numbers' if whole else 'none'} in {path}",
        )
