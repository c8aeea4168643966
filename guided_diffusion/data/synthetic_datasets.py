"""DDIB's six distributions of points in the plane, of mean 0 and variance 1 over both axes.

Points are [N, 2] float64, in order along the curves that they lie on; `Synthetic2DDataset` holds
float32. The number of a task in DDIB's scripts is the place of its `Synthetic2DType`, from 0.
Random functions take a numpy generator; None is numpy's global one, which `np.random.seed` sets,
as in DDIB.

Reference: Su et al. 2023, "Dual Diffusion Implicit Bridges", https://arxiv.org/abs/2203.08382,
section 5.1.
"""

import enum
import os
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch.utils.data import Dataset

from ..runtime import atomic_files
from ..runtime.random_streams import Stream, generator
from . import plots
from .image_datasets import samples_of_batches, shuffled

MOON_NOISE = 0.05  # standard deviation, where a moon's radius is 1
INCREASING, EQUAL = np.array([1, 2, 3]), np.array([1, 1, 1])  # radii of concentric, olympic curves

Rng = np.random.Generator | None


class Synthetic2DType(enum.Enum):
    """The distributions, in the order of their tasks."""

    MOONS = enum.auto()
    CHECKERBOARD = enum.auto()
    CONCENTRIC_RINGS = enum.auto()
    CONCENTRIC_SQUARES = enum.auto()
    OLYMPIC_RINGS = enum.auto()  # parallel rings, in the paper
    OLYMPIC_SQUARES = enum.auto()  # parallel squares, in the paper


def shape_of_task(task: int) -> Synthetic2DType:
    """Return the distribution of a task of DDIB's scripts, 0..5."""
    return list(Synthetic2DType)[task]


class BaseSampler:
    """Draws points from bands around closed curves of one form.

    Args:
        radii: size of each curve, [K]; of a square: half its side.
        centers: centre of each curve, [K, 2].
        width: width of the bands, across.
    """

    def __init__(self, radii: np.ndarray, centers: np.ndarray, width: float) -> None:
        self.radii, self.centers = np.array(radii, np.float64), np.array(centers, np.float64)
        self.num_objects, self.width = len(self.radii), width

    def sample(self, N: int, *, rng: Rng = None) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
        """Return normalised points [N, 2], in order along each curve, and their curves [N]."""
        unit, radius, which = self._draw(N, np.random if rng is None else rng)
        return normalize(unit * radius[:, None] + self.centers[which]), which

    @abstractmethod
    def _draw(self, count: int, rng: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return points [N, 2] on the curve of radius 1 about 0, radii [N] and curves [N]."""

    def _radii(self, which: np.ndarray, rng: Any) -> np.ndarray:
        return self.radii[which] + (rng.random(len(which)) - 0.5) * self.width


class RingSampler(BaseSampler):
    """Bands around circles, with as many points each and as many at each radius."""

    def _draw(self, count: int, rng: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        which = np.sort(np.arange(count) % self.num_objects)
        radius = self._radii(which, rng)
        angle = 2 * np.pi * rng.random(count)
        angle = angle[np.lexsort((angle, which))][::-1]
        return np.stack([np.cos(angle), np.sin(angle)], axis=1), radius, which


class SquareSampler(BaseSampler):
    """Bands around squares, with as many points each, on each side and at each radius."""

    def _draw(self, count: int, rng: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        edge = np.sort(np.arange(count) % (4 * self.num_objects))
        which, side = np.divmod(edge, 4)  # sides from the top, clockwise
        along = 2 * (rng.random(count) - 0.5)
        back = (side == 1) | (side == 2)
        along = along[np.lexsort((np.where(back, -along, along), edge))]
        across = np.where(side < 2, 1.0, -1.0)
        level = side % 2 == 0
        unit = np.stack([np.where(level, along, across), np.where(level, across, along)], axis=1)
        return unit, self._radii(which, rng), which


class _Concentric(BaseSampler):
    """Curves of radii [K] about one centre, in bands of `width`."""

    def __init__(self, radii: np.ndarray, width: float = 0.5) -> None:
        super().__init__(radii, np.zeros((len(radii), 2)), width)


class _Olympic(BaseSampler):
    """Up to five curves side by side: three in a row, then two below them."""

    places: np.ndarray  # centres of the five curves, in units of a radius

    def __init__(self, radii: np.ndarray = np.ones(5), width: float = 0.5) -> None:  # noqa: B008
        super().__init__(radii, self.places[: len(radii)], width)


class ConcentricRingSampler(_Concentric, RingSampler):
    """Circles about one centre."""


class OlympicRingSampler(_Olympic, RingSampler):
    """Up to five circles side by side."""

    places = np.array([(-140, 0), (0, 0), (140, 0), (-55, -50), (55, -50)]) / 50


class ConcentricSquareSampler(_Concentric, SquareSampler):
    """Squares about one centre."""


class OlympicSquareSampler(_Olympic, SquareSampler):
    """Up to five squares side by side."""

    places = np.array([(-150, 0), (0, 0), (150, 0), (-55, -50), (55, -50)]) / 50


def make_moons(
    n_samples: int = 100,
    *,
    shuffle: bool = True,
    noise: float | None = None,
    random_state: int | np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return points on two interleaved half circles of radius 1, as scikit-learn does.

    Args:
        n_samples: number of points.
        shuffle: whether to return them in random order, instead of along one moon and the other.
        noise: standard deviation of normal noise on each coordinate; None: no noise.
        random_state: seed or source of randomness.

    Returns:
        Points [N, 2] float64, and the moon of each, [N] int64.
    """
    rng = np.random if random_state is None else np.random.default_rng(random_state)
    upper = n_samples // 2
    angle, low = (np.linspace(0, np.pi, count) for count in (upper, n_samples - upper))
    x = np.concatenate([np.cos(angle), 1 - np.cos(low)])
    y = np.concatenate([np.sin(angle), 0.5 - np.sin(low)])
    points, which = np.stack([x, y], axis=1), (np.arange(n_samples) >= upper).astype(np.int64)
    order = rng.permutation(n_samples) if shuffle else slice(None)
    points = points[order]
    if noise is not None:
        points = points + rng.normal(scale=noise, size=points.shape)
    return points, which[order]


def make_checkerboard(n_samples: int, *, rng: Rng = None) -> np.ndarray:
    """Return points [N, 2], from right to left, of the eight dark fields of a board of side 4."""
    source: Any = np.random if rng is None else rng
    x = np.sort(source.random(n_samples) * 4 - 2)[::-1]
    y = source.random(n_samples) - 2 * source.choice(2, n_samples) + np.floor(x) % 2
    return np.stack([x, y], axis=1)


def normalize(points: np.ndarray) -> np.ndarray:
    """Shift and scale points so that all their coordinates together have mean 0 and variance 1."""
    return (points - points.mean()) / points.std()


def draw_points(n_samples: int, shape: Synthetic2DType, rng: Rng = None) -> np.ndarray:
    """Return normalised points [N, 2] float32 of a distribution, along its curves."""
    if shape is Synthetic2DType.MOONS:
        points, _ = make_moons(n_samples, shuffle=False, noise=MOON_NOISE, random_state=rng)
    elif shape is Synthetic2DType.CHECKERBOARD:
        points = make_checkerboard(n_samples, rng=rng)
    else:
        points, _ = _SAMPLERS[shape].sample(n_samples, rng=rng)
    return normalize(points).astype(np.float32)


_SAMPLERS = {
    Synthetic2DType.CONCENTRIC_RINGS: ConcentricRingSampler(INCREASING),
    Synthetic2DType.CONCENTRIC_SQUARES: ConcentricSquareSampler(INCREASING),
    Synthetic2DType.OLYMPIC_RINGS: OlympicRingSampler(EQUAL),
    Synthetic2DType.OLYMPIC_SQUARES: OlympicSquareSampler(EQUAL),
}


class Synthetic2DDataset(Dataset):
    """Points of one distribution, drawn once; item i is (point [2] float32, {})."""

    def __init__(self, n_samples: int, shape: Synthetic2DType, rng: Rng = None) -> None:
        self.n_samples, self.shape, self.shape_val = n_samples, shape, shape.value
        self.points = draw_points(n_samples, shape, rng)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict]:
        return self.points[index], {}


def load_2d_data(
    batch_size: int,
    shape: Synthetic2DType,
    training: bool = True,
    n_samples: int = 300000,
    *,
    seed: int = 0,
    start_step: int = 0,
) -> Iterator[tuple[th.Tensor, dict]]:
    """Yield batches of points of one distribution, for training without end.

    Args:
        batch_size: points per batch (in training, and per rank).
        shape: the distribution.
        training: whether to go on without end, each pass in an order of its own, with other
            batches on each rank; otherwise each point comes once, and the last batch may be
            smaller.
        n_samples: number of points that are drawn.
        seed: the base seed.
        start_step: number of batches that a resumed run has seen.

    Yields:
        ([batch_size, 2] float32, no conditions).
    """
    rng = generator(seed, Stream.TRAINING_POINTS, shape.value)
    points = th.from_numpy(draw_points(n_samples, shape, rng))
    if training:
        for samples in samples_of_batches(batch_size, start_step):
            yield points[shuffled(samples, n_samples, seed)], {}
    else:
        yield from ((batch, {}) for batch in points.split(batch_size)[start_step:])


def scatter(
    points: np.ndarray,
    filename: str | os.PathLike = "scatter.png",
    enable_color_interpolation: bool = True,
) -> None:
    """Save a plot of points [N, 2] as PNG, coloured by position or all alike."""
    plots.scatter_row({"": points}, filename, None if enable_color_interpolation else "tab:blue")


def heatmap(points: np.ndarray, filename: str | os.PathLike = "heatmap.png") -> None:
    """Save a picture of the density of points [N, 2]."""
    plots.heatmap_of(points, filename)


def save_plots() -> None:
    """Save a heatmap and a scatter plot of each distribution into the folder synthetic_images."""
    atomic_files.make_folder(folder := Path("synthetic_images"))
    for shape in Synthetic2DType:
        points = draw_points(20000, shape, generator(0, Stream.TRAINING_POINTS, shape.value))
        heatmap(points, folder / f"{shape.value}_{shape}_Heatmap.png")
        scatter(points, folder / f"{shape.value}_{shape}_Scatter.png")
