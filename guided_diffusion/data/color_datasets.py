"""The colours of a picture as a data set of points in three dimensions, for colour transfer.

A point is [3] float32, about in [-1, 1]: red, green and blue, or CIELAB's L*, a* and b* (sRGB,
white point D65) as L* / 50 - 1, a* / 128, b* / 128. Points keep the order of the pixels.

Reference: Su et al. 2023, "Dual Diffusion Implicit Bridges for Image-to-Image Translation",
https://arxiv.org/abs/2203.08382; IEC 61966-2-1 (sRGB); CIE 15:2004, section 8.2.1 (CIELAB).
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch as th
from torch.utils.data import Dataset

from ..runtime import dist_util
from ..runtime.random_streams import Stream, generator
from .image_files import open_image

XYZ_OF_RGB = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = XYZ_OF_RGB.sum(axis=1)  # red, green and blue together: D65
LINEAR_BELOW = 6 / 29  # value of CIELAB's cube root below which a line takes its place
LAB_OFFSET = np.array([50, 0, 0], dtype=np.float32)
LAB_SCALE = np.array([50, 128, 128], dtype=np.float32)

Batches = Iterator[tuple[th.Tensor, dict[str, Any]]]


class ColorDataset(Dataset):
    """The pixels of one picture, in rows from the top.

    Args:
        image_path: file of the picture.
        use_lab_space: whether points are in CIELAB instead of RGB.
        resize: whether to take only every `ratio`-th pixel along both sides.
        ratio: distance of the pixels that `resize` takes, 1 or more.

    Raises:
        ValueError: if the ratio is below 1; as `UserError` if the file is not a picture.
    """

    def __init__(
        self,
        image_path: str | os.PathLike,
        use_lab_space: bool = True,
        resize: bool = False,
        ratio: int = 0,
    ) -> None:
        self.points, self.image_shape = self.read_image(image_path, use_lab_space, resize, ratio)
        self.resize, self.n_samples = resize, len(self.points)

    @classmethod
    def read_image(
        cls,
        image_path: str | os.PathLike,
        use_lab_space: bool = True,
        resize: bool = False,
        ratio: int = 0,
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return the normalised points [N, 3] of a picture and its shape (H, W, 3)."""
        if resize and ratio < 1:
            raise ValueError(f"ratio: expected 1 or more where resize is True, got {ratio}")
        pixels = np.asarray(open_image(image_path))
        if resize:
            pixels = pixels[::ratio, ::ratio]
        points = pixels.reshape(-1, 3)
        points = _lab_of_rgb(points / 255) if use_lab_space else points
        return cls.normalize(points, use_lab_space), pixels.shape

    @classmethod
    def normalize(cls, arr: np.ndarray | th.Tensor, use_lab_space: bool = True) -> np.ndarray:
        """Scale points [N, 3] of L*, a*, b*, or of levels 0..255, to about [-1, 1], as float32.

        Raises:
            ValueError: for another shape.
        """
        arr = _triples(arr)
        return (arr - LAB_OFFSET) / LAB_SCALE if use_lab_space else arr / 127.5 - 1

    @classmethod
    def unnormalize(cls, arr: np.ndarray | th.Tensor, use_lab_space: bool = True) -> np.ndarray:
        """Scale points [N, 3] back to L*, a*, b*, or to levels 0..255; undoes `normalize`."""
        arr = _triples(arr)
        return arr * LAB_SCALE + LAB_OFFSET if use_lab_space else (arr + 1) * 127.5

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return (point [3], no conditions)."""
        return self.points[index], {}


def sample_to_image(arr: np.ndarray | th.Tensor, image_shape: Sequence[int]) -> np.ndarray:
    """Return points [N, 3] in CIELAB as a picture [H, W, 3] uint8, colours clipped to sRGB.

    DDIB's function of this name gives levels 0..1 to 8 bits, so that its pictures are black.
    """
    lab = ColorDataset.unnormalize(arr).astype(np.float64)
    return _picture(_rgb_of_lab(lab) * 255, image_shape)


def rgb_sample_to_image(arr: np.ndarray | th.Tensor, image_shape: Sequence[int]) -> np.ndarray:
    """Return points [N, 3] in RGB as a picture [H, W, 3] uint8, levels rounded and clipped.

    DDIB's function of this name truncates levels.
    """
    return _picture(ColorDataset.unnormalize(arr, use_lab_space=False), image_shape)


def _picture(levels: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    return levels.round().clip(0, 255).astype(np.uint8).reshape(image_shape)


def load_color_data_for_translation(batch_size: int, dataset: ColorDataset) -> Batches:
    """Yield every point once, in order: ([n, 3] with n = batch_size or the rest, {})."""
    return ((points, {}) for points in th.from_numpy(dataset.points).split(batch_size))


def load_color_data_for_training(
    batch_size: int, image_path: str | os.PathLike, use_lab_space: bool, logger: Any
) -> Batches:
    """Yield batches ([batch_size, 3], {}) of points drawn at random, for ever, others on each rank.

    The number of points is logged by `logger.log`; for other arguments see `ColorDataset`.
    """
    dataset = ColorDataset(image_path, use_lab_space)
    logger.log(f"{image_path}: {len(dataset)} points")
    points, rng = th.from_numpy(dataset.points), generator(0, Stream.COLOR_POINTS, dist_util.rank())
    return ((points[rng.integers(len(points), size=batch_size)], {}) for _ in itertools.count())


def _triples(arr: np.ndarray | th.Tensor) -> np.ndarray:
    arr = np.asarray(arr.cpu() if th.is_tensor(arr) else arr)
    if arr.ndim != 2 or arr.shape[1] != 3:
        raise ValueError(f"arr: expected points [N, 3], got {list(arr.shape)}")
    return arr.astype(np.float32)


def _lab_of_rgb(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB [N, 3] in 0..1 to L* in 0..100, a* and b*."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    ratio = linear @ XYZ_OF_RGB.T / WHITE
    straight = ratio / (3 * LINEAR_BELOW**2) + 4 / 29
    x, y, z = np.where(ratio > LINEAR_BELOW**3, np.cbrt(ratio), straight).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def _rgb_of_lab(lab: np.ndarray) -> np.ndarray:
    """Convert L*, a*, b* [N, 3] to sRGB in 0..1, with other colours clipped."""
    lightness, a, b = lab.T
    y = (lightness + 16) / 116
    roots = np.stack([y + a / 500, y, y - b / 200], axis=1)
    straight = 3 * LINEAR_BELOW**2 * (roots - 4 / 29)
    ratio = np.where(roots > LINEAR_BELOW, roots**3, straight)
    linear = (ratio * WHITE @ np.linalg.inv(XYZ_OF_RGB).T).clip(0, 1)
    return np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
