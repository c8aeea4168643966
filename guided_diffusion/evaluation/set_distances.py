"""Distances between two sets of images, from features: KID, precision, recall, FID and sFID.

Sums run in float64. Intervals come from random halves: a replicate draws half of the images of
each set without replacement, which varies as much as a whole set drawn anew. (Images drawn twice,
as in the plain bootstrap, make k-nearest-neighbour radii vanish and distances grow.) The replicates
are shifted to the value of the whole sets, because half as many images have a larger bias.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th

from ..data.image_source import ImageSource
from ..errors import UserError
from ..runtime.random_streams import Stream, generator
from .feature_extractors import Extractor, extract, map_over_ranks

FEW_IMAGES = 2048  # below it FID says more about the number of images than about the images
NEIGHBOURS = 3
SUBSETS, SUBSET_SIZE = 100, 1000  # of KID; the size is at most half of the smaller set
CONFIDENCE = 95  # percent
BLOCK = 2048  # rows of a matrix of pairs that are held at once
# Smallest and largest values of a metric; precision and recall are shares.
RANGES = {"kid": (-math.inf, math.inf), "fid": (0, math.inf), "sfid": (0, math.inf)}


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution with covariance factor.T @ factor."""

    mean: th.Tensor  # [D]
    factor: th.Tensor  # [R, D]; R is below D where fewer images than dimensions were seen

    @classmethod
    def of_rows(cls, rows: th.Tensor) -> "Gaussian":
        """Fit a normal distribution to rows [N, D], with the unbiased covariance."""
        mean = rows.mean(0)
        factor = (rows - mean) / math.sqrt(len(rows) - 1)
        if len(rows) <= rows.shape[1]:
            return cls(mean, factor)
        return cls.of_moments(mean, factor.T @ factor)

    @classmethod
    def of_moments(cls, mean: th.Tensor, covariance: th.Tensor) -> "Gaussian":
        """Return the normal distribution with a mean [D] and a covariance [D, D]."""
        values, vectors = th.linalg.eigh(covariance)
        return cls(mean, values.clamp(min=0).sqrt()[:, None] * vectors.T)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Compute the Frechet distance |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians.

    With Ci = Fi^T Fi, the trace of the root is the sum of the singular values of F1 F2^T.

    Reference: Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    shift = (one.mean - other.mean).square().sum()
    spread = one.factor.square().sum() + other.factor.square().sum()
    shared = th.linalg.svdvals(one.factor @ other.factor.T).sum()
    return max(0.0, float(shift + spread - 2 * shared))


def polynomial_mmd(x: th.Tensor, y: th.Tensor) -> float:
    """Compute the unbiased squared MMD of rows [N, D] and [M, D], kernel (a.b / D + 1)^3.

    Reference: Binkowski et al. 2018, arXiv:1801.01401, eq. 4.
    """
    within = sum(_kernel_mean(rows, rows, skip_diagonal=True) for rows in (x, y))
    return within - 2 * _kernel_mean(x, y)


def _kernel_mean(x: th.Tensor, y: th.Tensor, skip_diagonal: bool = False) -> float:
    dims = x.shape[1]
    total = sum(float((rows @ y.T / dims + 1).pow(3).sum()) for rows in x.split(BLOCK))
    if not skip_diagonal:
        return total / (len(x) * len(y))
    diagonal = float((x.square().sum(1) / dims + 1).pow(3).sum())
    return (total - diagonal) / (len(x) * (len(x) - 1))


def kid(reference: th.Tensor, samples: th.Tensor, seed: int) -> dict[str, float]:
    """Compute mean ("value") and standard deviation ("std") of the squared MMD of subsets."""
    size = min(SUBSET_SIZE, len(reference) // 2, len(samples) // 2)
    values = []
    for subset in range(SUBSETS):
        rng = generator(seed, Stream.KERNEL_DISTANCE, subset)
        pair = (rows[rng.choice(len(rows), size, replace=False)] for rows in (reference, samples))
        values.append(polynomial_mmd(*pair))
    spread = float(np.std(values))
    return {"value": float(np.mean(values)), "std": spread, "subsets": SUBSETS, "size": size}


def precision_and_recall(reference: th.Tensor, samples: th.Tensor) -> tuple[float, float]:
    """Compute the share of samples in the reference manifold, and of the reference in the samples'.

    The manifold of a set is a union of balls, one around each of its images, whose radius is the
    distance to the third nearest other image of the set.

    Reference: Kynkaanniemi et al. 2019, arXiv:1904.06991, eqs. 1 and 2.
    """
    return _share_inside(samples, reference), _share_inside(reference, samples)


def _share_inside(rows: th.Tensor, manifold: th.Tensor) -> float:
    # One more neighbour, as the nearest image of the set is the image itself.
    nearest = [d.kthvalue(NEIGHBOURS + 1).values for d in _squared_distances(manifold, manifold)]
    radii = th.cat(nearest)
    inside = sum(int((d <= radii).any(1).sum()) for d in _squared_distances(rows, manifold))
    return inside / len(rows)


def _squared_distances(x: th.Tensor, y: th.Tensor) -> Iterator[th.Tensor]:
    """Yield |x_i - y_j|^2 in blocks of rows [B, M]."""
    lengths = y.square().sum(1)
    for rows in x.split(BLOCK):
        scale = rows.square().sum(1)[:, None] + lengths
        squared = scale - 2 * rows @ y.T
        # Equal images must be at distance 0; the subtraction is off by rounding.
        yield squared.masked_fill(squared < 1e-12 * scale, 0)


@dataclass(frozen=True)
class Measured:
    """Features of a set of images, and distributions that came with the set and replace them."""

    pooled: th.Tensor  # [N, D] float64
    spatial: th.Tensor  # [N, S] float64
    given: Mapping[str, Gaussian] = field(default_factory=dict)  # {"fid" or "sfid": distribution}

    def __len__(self) -> int:
        return len(self.pooled)

    def gaussian(self, distance: str) -> Gaussian | None:
        """Return the distribution that "fid" or "sfid" compares, or None if it is not known."""
        if distance in self.given or not len(self):
            return self.given.get(distance)
        return Gaussian.of_rows(self.pooled if distance == "fid" else self.spatial)

    def half(self, rng: np.random.Generator) -> "Measured":
        """Return the set with half of its images, drawn at random."""
        chosen = rng.permutation(len(self))[: len(self) // 2]
        return Measured(self.pooled[chosen], self.spatial[chosen], self.given)


def measure(
    images: ImageSource, extractor: Extractor, batch_size: int, device: th.device
) -> Measured:
    """Extract the features of a set; statistics in its file replace them where they fit.

    Raises:
        UserError: if there are too few images, or no images and no statistics that fit.
    """
    fitting = {
        distance: Gaussian.of_moments(*(th.from_numpy(m).to(device, th.float64) for m in moments))
        for distance, moments in images.moments.items()
        if len(moments[0]) == extractor.dims[distance]
    }
    smallest = 2 * (NEIGHBOURS + 1)  # a half has a third neighbour for each of its images
    if 0 < len(images) < smallest:
        raise UserError(f"{images.path}: expected {smallest} images or more, got {len(images)}")
    if not len(images) and not fitting:
        found = ", ".join(str(len(mean)) for mean, _ in images.moments.values())
        raise UserError(
            f"{images.path}: expected arr_0, or statistics of {extractor.name}'s "
            f"{extractor.dims['fid']} or {extractor.dims['sfid']} features, got {found} features"
        )
    pooled, spatial = (r.to(device, th.float64) for r in extract(images, extractor, batch_size))
    return Measured(pooled, spatial, fitting)


def evaluate(
    reference: Measured, samples: Measured, replicates: int = 200, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Compute each metric's "value", its "interval" (None without replicates), and more for KID.

    Where a set has no images, metrics that need them are left out.

    Args:
        reference: the images to be like.
        samples: the images to be judged.
        replicates: number of halves to draw for the intervals; 0: no intervals.
        seed: base seed of all draws.
    """
    both = len(reference) and len(samples)
    results = {"kid": kid(reference.pooled, samples.pooled, seed)} if both else {}
    results |= {name: {"value": value} for name, value in _scores(reference, samples).items()}

    def scores_of_halves(index: int) -> dict[str, float]:
        rng = generator(seed, Stream.INTERVALS, index)
        one, other = reference.half(rng), samples.half(rng)
        distance = {"kid": polynomial_mmd(one.pooled, other.pooled)} if both else {}
        return distance | _scores(one, other)

    count = replicates if len(reference) or len(samples) else 0
    drawn = map_over_ranks(scores_of_halves, range(count), "intervals", "half")
    for name, result in results.items():
        values, limits = [scores[name] for scores in drawn], RANGES.get(name, (0, 1))
        result["interval"] = _interval(result["value"], values, limits) if drawn else None
    return results


def _scores(reference: Measured, samples: Measured) -> dict[str, float]:
    found = {}
    if len(reference) and len(samples):
        pair = (reference.pooled, samples.pooled)
        found["precision"], found["recall"] = precision_and_recall(*pair)
    for distance in ("fid", "sfid"):
        one, other = reference.gaussian(distance), samples.gaussian(distance)
        if one is not None and other is not None:
            found[distance] = frechet_distance(one, other)
    return found


def _interval(value: float, drawn: Sequence[float], limits: tuple[float, float]) -> list[float]:
    outside = (100 - CONFIDENCE) / 2
    ends = np.percentile(drawn, [outside, 100 - outside]) - np.mean(drawn)
    return [float(np.clip(value + end, *limits)) for end in ends]


def warnings_of(images: ImageSource, measured: Measured, extractor: Extractor) -> list[str]:
    """Return warnings about a set for readers of FID and sFID."""
    instead = "taken from its images" if len(images) else "left out"
    warnings = [
        f"{images.path}: its {distance} statistics are of {len(images.moments[distance][0])} "
        f"features, {extractor.name} has {extractor.dims[distance]}; {instead}"
        for distance in sorted(images.moments.keys() - measured.given.keys())
    ]
    if not len(images):
        warnings.append(f"{images.path}: statistics alone; KID, precision and recall need images")
    elif len(images) < FEW_IMAGES and measured.given.keys() < {"fid", "sfid"}:
        dims = extractor.dims["fid"]
        rank = f", the covariance of {dims} features is singular" if len(images) <= dims else ""
        warnings.append(
            f"{images.path}: {len(images)} images, below {FEW_IMAGES}: FID and sFID are too large"
            f"{rank}; compare sets of one size, or KID"
        )
    return warnings


def psnr(images: th.Tensor, expected: th.Tensor) -> float:
    """Compute the peak signal-to-noise ratio of all images [N, C, H, W], in dB; inf if equal.

    Both sets are clipped to [-1, 1].
    """
    error = (images.clamp(-1, 1) - expected.clamp(-1, 1)).double().square().mean()
    return float(10 * th.log10(4 / error))
