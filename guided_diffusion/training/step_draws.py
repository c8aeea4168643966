"""Random draws of a training step, which depend on the seed, the step and the place alone.

Timesteps are drawn for the batch of all ranks together, and each rank takes its slice; the noise of
an image depends on its place in that batch. So n ranks with batches of b draw the same as one
process with batches of n * b, and a resumed run draws the same as an unbroken one.
"""

import numpy as np
import torch as th

from ..diffusion.resample import ScheduleSampler
from ..diffusion.signatures import accepted
from ..networks.attention import priorities_of, set_priority
from ..runtime import dist_util
from ..runtime.random_streams import Stream, generator, seed_torch


def draw_timesteps_and_noise(
    sampler: ScheduleSampler,
    batch: th.Tensor,
    seed: int,
    step: int,
    stream: Stream = Stream.TRAINING_NOISE,
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Return this rank's timesteps [N], loss weights [N] and noise of one step, on the host.

    The noise has the shape of `batch`, this rank's images or points [N, ...].
    """
    rng = generator(seed, stream, step)
    count = len(batch) * dist_util.world_size()
    mine = slice(len(batch) * dist_util.rank(), len(batch) * (dist_util.rank() + 1))
    t, weights = sampler.sample(count, "cpu", **accepted(sampler.sample, rng=rng))
    shape = tuple(batch.shape[1:])
    if len(shape) == 1:  # one draw for all points is faster than a generator for each
        noise = rng.standard_normal((count, *shape), dtype=np.float32)[mine]
    else:  # numbered from 1, as 0 would repeat the generator of the timesteps
        rngs = [generator(seed, stream, step, 1 + i) for i in range(count)[mine]]
        noise = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs])
    return t[mine], weights[mine], th.from_numpy(noise)


def seed_dropout(seed: int, step: int) -> None:
    """Seed torch's global generator, the only one that dropout draws from."""
    seed_torch(seed, Stream.DROPOUT, step, dist_util.rank())


def draw_priority(model: th.nn.Module, seed: int, step: int) -> None:
    """Draw the priority of a network that holds weights for several; all ranks draw the same."""
    priorities = priorities_of(model)
    if len(priorities) > 1:
        rng = generator(seed, Stream.PRIORITY, step)
        set_priority(model, priorities[rng.integers(len(priorities))])
