"""DDIB's six distributions of points in the plane, each of mean 0 and variance 1 along both axes.

Points are [N, 2]. The number of a task in DDIB's scripts is the value of its `Synthetic2DType`.
A ring, round or square, is a band of a width about its radius (of a square: half its side), on
which points lie evenly. Everything random takes a numpy generator; None is one of its own.
"""

import enum
import os
from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import torch as th

from . import dist_util, plots, run
from .image_datasets import epoch_order

TRAIN_STREAM = 20  # of `run.generator`
MOON_NOISE = 0.05  # standard deviation, where a moon's radius is 1
FIVE_RADII = np.ones(5)
# Three above two, in units of the distance between neighbours.
FIVE_CENTERS = np.array([(-1, 0.5), (0, 0.5), (1, 0.5), (-0.5, -0.5), (0.5, -0.5)])

Rng = np.random.Generator | None


class Synthetic2DType(enum.IntEnum):
    """The distributions, by the number of their task."""

    MOONS = 0
    CHECKERBOARDS = 1
    CONCENTRIC_RINGS = 2
    CONCENTRIC_SQUARES = 3
    PARALLEL_RINGS = 4
    PARALLEL_SQUARES = 5


class BaseSampler:
    """Draws points from bands around closed curves of one form.

    Args:
        radii: [K], size of each curve.
        centers: [K, 2].
        width: of the bands, across.
    """

    def __init__(self, radii: np.ndarray, centers: np.ndarray, width: float) -> None:
        self.radii, self.centers, self.width = np.asarray(radii, float), np.asarray(centers), width

    def sample(self, N: int, rng: Rng = None) -> np.ndarray:  # noqa: N803 (upstream's name)
        """Return N points [N, 2] float64, evenly spread over all bands."""
        rng = rng or np.random.default_rng()
        inner = np.maximum(self.radii - self.width / 2, 0) ** 2
        outer = (self.radii + self.width / 2) ** 2
        areas = outer - inner  # up to a factor, in both forms
        which = rng.choice(len(areas), N, p=areas / areas.sum())
        radius = np.sqrt(rng.uniform(inner[which], outer[which]))
        return self.centers[which] + radius[:, None] * self._on_unit_curve(rng, N)

    @abstractmethod
    def _on_unit_curve(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return points [count, 2] evenly spread over the curve of radius 1 about 0."""


class RingSampler(BaseSampler):
    """Bands around circles."""

    def _on_unit_curve(self, rng: np.random.Generator, count: int) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi, count)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)


class SquareSampler(BaseSampler):
    """Bands around squares."""

    def _on_unit_curve(self, rng: np.random.Generator, count: int) -> np.ndarray:
        across, along = rng.choice([-1.0, 1.0], count), rng.uniform(-1, 1, count)
        upright = rng.integers(2, size=count, dtype=bool)
        return np.where(upright, [across, along], [along, across]).T


def _concentric(radii: np.ndarray) -> np.ndarray:
    return np.zeros((len(radii), 2))


def _olympic(radii: np.ndarray, width: float) -> np.ndarray:
    # Far enough apart for rings that do not touch.
    return FIVE_CENTERS * 2.2 * (np.max(radii) + width / 2)


class ConcentricRingSampler(RingSampler):
    """Circles about one centre.

    Args:
        radii: [K].
        width: of the bands, across.
    """

    def __init__(self, radii: np.ndarray, width: float = 0.5) -> None:
        super().__init__(radii, _concentric(radii), width)


class OlympicRingSampler(RingSampler):
    """Five circles side by side, three above two.

    Args:
        radii: [5].
        width: of the bands, across.
    """

    def __init__(self, radii: np.ndarray = FIVE_RADII, width: float = 0.5) -> None:
        super().__init__(radii, _olympic(radii, width), width)


class ConcentricSquareSampler(SquareSampler):
    """Squares about one centre.

    Args:
        radii: [K], half the sides.
        width: of the bands, across.
    """

    def __init__(self, radii: np.ndarray, width: float = 0.5) -> None:
        super().__init__(radii, _concentric(radii), width)


class OlympicSquareSampler(SquareSampler):
    """Five squares side by side, three above two.

    Args:
        radii: [5], half the sides.
        width: of the bands, across.
    """

    def __init__(self, radii: np.ndarray = FIVE_RADII, width: float = 0.5) -> None:
        super().__init__(radii, _olympic(radii, width), width)


def make_moons(n_samples: int, rng: Rng = None) -> np.ndarray:
    """Return points [N, 2] of two interleaved half circles of radius 1, with a little noise."""
    rng = rng or np.random.default_rng()
    angle, lower = rng.uniform(0, np.pi, n_samples), rng.integers(2, size=n_samples, dtype=bool)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.where(lower[:, None], [1.0, 0.5] - arc, arc)
    return points + MOON_NOISE * rng.standard_normal(points.shape)


def make_checkerboard(n_samples: int, rng: Rng = None) -> np.ndarray:
    """Return points [N, 2] of the eight dark fields of a board of four by four, of side 2."""
    rng = rng or np.random.default_rng()
    column = rng.integers(4, size=n_samples)
    row = 2 * rng.integers(2, size=n_samples) + column % 2
    corner = np.stack([column, row], axis=1) - 2
    return 2 * (corner + rng.random((n_samples, 2)))


def normalize(points: np.ndarray) -> np.ndarray:
    """Shift and scale points [N, 2] to mean 0 and variance 1 along each axis."""
    return (points - points.mean(axis=0)) / points.std(axis=0)


def draw_points(n_samples: int, shape: Synthetic2DType, rng: Rng = None) -> np.ndarray:
    """Return normalised points [N, 2] float32 of a distribution."""
    makers = {
        Synthetic2DType.MOONS: make_moons,
        Synthetic2DType.CHECKERBOARDS: make_checkerboard,
        Synthetic2DType.CONCENTRIC_RINGS: ConcentricRingSampler(np.array([1, 2, 3])).sample,
        Synthetic2DType.CONCENTRIC_SQUARES: ConcentricSquareSampler(np.array([1, 2, 3])).sample,
        Synthetic2DType.PARALLEL_RINGS: OlympicRingSampler().sample,
        Synthetic2DType.PARALLEL_SQUARES: OlympicSquareSampler().sample,
    }
    return normalize(makers[shape](n_samples, rng)).astype(np.float32)


class Synthetic2DDataset(th.utils.data.Dataset):
    """Points of one distribution, drawn once; item i is (point [2] float32, {}).

    Args:
        n_samples: points.
        shape: the distribution.
        rng: as everywhere here.
    """

    def __init__(self, n_samples: int, shape: Synthetic2DType, rng: Rng = None) -> None:
        self.points = th.from_numpy(draw_points(n_samples, shape, rng))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[th.Tensor, dict]:
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
    """Yield this rank's batches of points without end.

    Args:
        batch_size: points per batch and rank.
        shape: the distribution.
        training: in an order of its own each time round; otherwise as drawn.
        n_samples: points that are drawn once, and then gone round.
        seed: the base seed.
        start_step: batches to leave out, as of a run that is resumed.

    Yields:
        ([batch_size, 2] float32, no conditions).
    """
    rng = run.generator(seed, TRAIN_STREAM, int(shape))
    points = Synthetic2DDataset(n_samples, shape, rng).points
    step, ranks, rank = start_step, dist_util.world_size(), dist_util.rank()
    while True:
        first = (step * ranks + rank) * batch_size
        epochs, rows = np.divmod(np.arange(first, first + batch_size), n_samples)
        for epoch in np.unique(epochs) if training else ():
            this = epochs == epoch
            rows[this] = epoch_order(n_samples, seed, int(epoch))[rows[this]]
        yield points[rows], {}
        step += 1


def scatter(
    points: np.ndarray,
    filename: str | os.PathLike = "scatter.png",
    enable_color_interpolation: bool = True,
) -> None:
    """Save a plot of points [N, 2].

    Args:
        points: what to plot.
        filename: of the PNG.
        enable_color_interpolation: colour each point by its position; otherwise all alike.
    """
    plots.scatter_row({"": points}, filename, None if enable_color_interpolation else "tab:blue")


def heatmap(points: np.ndarray, filename: str | os.PathLike = "heatmap.png") -> None:
    """Save a picture of the density of points [N, 2]."""
    plots.heatmap_of(points, filename)


def save_plots() -> None:
    """Save a plot of each distribution in the current folder, under its name."""
    for shape in Synthetic2DType:
        points = draw_points(20000, shape, run.generator(0, TRAIN_STREAM, int(shape)))
        scatter(points, f"{shape.name.lower()}.png")
