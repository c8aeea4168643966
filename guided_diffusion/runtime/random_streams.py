"""Random draws as functions of the base seed, the purpose and the index alone."""

from collections.abc import Sequence

import numpy as np
import torch as th

from ..errors import ArgumentError


def generator(*seed: int) -> np.random.Generator:
    """Return the random generator of one purpose, a function of the numbers alone.

    Args:
        *seed: the base seed, the number of the purpose, and what tells its draws apart.

    Raises:
        UserError: if the base seed is negative.
    """
    if seed[0] < 0:
        raise ArgumentError("seed", f"expected 0 or above, got {seed[0]}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


class ImageNoise:
    """Standard normal noise of which each image's share depends on its own index alone.

    Args:
        seed: the base seed.
        indices: global index of each image of the batch.
        purpose: what it is drawn for: DRAWING, ENLARGING or MEASURING an image.
    """

    DRAWING, ENLARGING, MEASURING = 3, 7, 8

    def __init__(self, seed: int, indices: Sequence[int], purpose: int = DRAWING) -> None:
        self.generators = [generator(seed, purpose, index) for index in indices]

    def draw(self, shape: Sequence[int]) -> th.Tensor:
        """Return the next noise [N, *shape], float32 on the CPU."""
        drawn = [g.standard_normal(tuple(shape), dtype=np.float32) for g in self.generators]
        return th.from_numpy(np.stack(drawn))

    def __call__(self, x: th.Tensor) -> th.Tensor:
        """Return the next noise in the shape and on the device of states x [N, ...]."""
        return self.draw(x.shape[1:]).to(x)
