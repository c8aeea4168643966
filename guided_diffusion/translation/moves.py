"""Walks as data: lists of moves from clean images to noise, and back.

A process of T timesteps has T + 1 levels: level 0 is clean (alpha_bar 1), level k is
alpha_bar_{k-1}, which the network reads as t = k - 1. A depth is a number of noising moves: depth
d is at level d. A walk is a list of `Move`s; encoding is never clipped.

Decoding asks the network at the level where the state is. Encoding with DDIM has two conventions.
As published ("reference"), the clean image is read as if it were at alpha_bar_0, and every state
ends one level above the level at which decoding reads it. "aligned" starts at the clean level and
makes each move the mirror of a decoding move: same levels, same timestep. A smaller round-trip
error is left, since the network sees the state before the move and not the state after it.
The multistep solver, "dpmpp", asks at the level where the state is in both directions.
"""

from dataclasses import dataclass

from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.schedules import timestep_grid
from ..diffusion.solvers import DDIM
from .settings import WalkSettings


@dataclass(frozen=True)
class Move:
    """One move of a walk: the network is asked at `timestep`, and the state changes its level."""

    timestep: int
    level_cur: float
    level_next: float
    depth_cur: int
    depth_next: int


def encode_moves(
    diffusion: GaussianDiffusion, walk: WalkSettings, deepest: int | None = None
) -> list[Move]:
    """Return the moves from a clean image to noise, or those of them that reach a depth.

    Raises:
        ArgumentError: if the walk does not fit the process.
    """
    walk = walk.resolved(diffusion.num_timesteps)
    if walk.level_convention == "reference":
        here, above = diffusion.alphas_cumprod, diffusion.alphas_cumprod_next
        pairs = enumerate(zip(here.tolist(), above.tolist(), strict=True))
        return [Move(t, a, b, t, t + 1) for t, (a, b) in pairs][:deepest]
    level, depths = levels(diffusion), _visited(diffusion, walk.grid, walk.encode_steps)
    mirrored = isinstance(walk.encoding, DDIM)
    return [
        Move((b if mirrored else max(a, 1)) - 1, level[a], level[b], a, b)
        for a, b in zip([0, *depths], depths, strict=False)
        if deepest is None or a < deepest
    ]


def decode_moves(diffusion: GaussianDiffusion, walk: WalkSettings) -> list[Move]:
    """Return the moves from noise to a clean image.

    Raises:
        ArgumentError: if the walk does not fit the process.
    """
    walk = walk.resolved(diffusion.num_timesteps)
    level, depths = levels(diffusion), _visited(diffusion, walk.grid, walk.decode_steps)[::-1]
    pairs = zip(depths, [*depths[1:], 0], strict=True)
    return [Move(a - 1, level[a], level[b], a, b) for a, b in pairs]


def levels(diffusion: GaussianDiffusion) -> list[float]:
    """Return the level at each depth 0..T."""
    return [1.0, *diffusion.alphas_cumprod.tolist()]


def _visited(diffusion: GaussianDiffusion, grid: str, steps: int) -> list[int]:
    """Return the depths that a walk visits, rising; 0 steps: all depths."""
    timesteps = timestep_grid(grid, steps or diffusion.num_timesteps, diffusion.alphas_cumprod)
    return [int(t) + 1 for t in timesteps]
