"""Random draws as functions of the base seed, the purpose and the index alone."""

import enum
from collections.abc import Sequence

import numpy as np
import torch as th

from ..errors import ArgumentError


class Stream(enum.IntEnum):
    """Purposes of random numbers; each has a stream of its own.

    The values decide the results of runs, so they never change. Some purposes share a value, which
    does no harm, because no command draws for two of them. A new purpose takes a free value.
    """

    # The drawing of one tissue tile, whose seed is its own: (seed, stream).
    TISSUE_GLANDS = 0
    TISSUE_EPITHELIUM = 1
    TISSUE_STROMA = 2
    TISSUE_FIBRES = 3
    TISSUE_STAIN = 4
    TISSUE_SEVERITY = 8

    # Training: (seed, stream, ...).
    DATA_ORDER = 0  # epoch
    AUGMENTATION = 1  # sample
    TRAINING_NOISE = 2  # step; then step, 1 + place in the batch
    DROPOUT = 5  # step, rank
    FIRST_WEIGHTS = 6
    PRIORITY = 7  # step
    VALIDATION_NOISE = 20  # step; then step, 1 + place in the batch

    # Images that a model draws or measures: (seed, stream, index).
    IMAGE_NOISE = 3
    IMAGE_CLASS = 4
    ENLARGING_NOISE = 7
    LIKELIHOOD_NOISE = 8

    # Points: (seed, stream, shape), (seed, stream, task) and (0, stream, rank).
    TRAINING_POINTS = 20
    SOURCE_POINTS = 21
    COLOR_POINTS = 40

    # Evaluation: (0, stream), (seed, stream, subset), (seed, stream, replicate), (seed, stream).
    SMALL_NETWORK = 20
    KERNEL_DISTANCE = 21
    INTERVALS = 22
    ABLATION = 30


def generator(seed: int, stream: Stream, *index: int) -> np.random.Generator:
    """Return the random generator of one purpose, a function of the arguments alone.

    Args:
        seed: base seed, at least 0.
        stream: purpose of the draws.
        *index: numbers that tell draws of one purpose apart, such as the numbers of a step and an
            image; a last number of 0 gives the same generator as none.

    Raises:
        UserError: if the base seed is negative.
    """
    if seed < 0:
        raise ArgumentError("seed", f"expected 0 or above, got {seed}")
    entropy = np.random.SeedSequence([seed, stream, *index])
    return np.random.Generator(np.random.PCG64(entropy))


def seed_torch(seed: int, stream: Stream, *index: int) -> None:
    """Seed torch's global generator, for draws that take no other; see `generator`."""
    th.manual_seed(int(generator(seed, stream, *index).integers(2**62)))


class ImageNoise:
    """Standard normal noise; the noise of an image is a function of its own index alone.

    Args:
        seed: base seed.
        indices: global index of each image of the batch.
        stream: purpose of the noise.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], stream: Stream = Stream.IMAGE_NOISE
    ) -> None:
        self.generators = [generator(seed, stream, index) for index in indices]

    def draw(self, shape: Sequence[int]) -> th.Tensor:
        """Return the next noise [N, *shape], float32 on the CPU."""
        drawn = [g.standard_normal(tuple(shape), dtype=np.float32) for g in self.generators]
        return th.from_numpy(np.stack(drawn))

    def __call__(self, x: th.Tensor) -> th.Tensor:
        """Return the next noise in the shape and on the device of states x [N, ...]."""
        return self.draw(x.shape[1:]).to(x)
