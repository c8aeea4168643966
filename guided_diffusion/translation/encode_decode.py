"""Walks along a process: from clean images to noise (`encode`) and back (`decode`).

See `moves` for levels and depths. In all functions, `walk` holds the solver, grid and steps, and
`watch` wraps the moves in a progress bar; it is called with the moves and the keyword `desc`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch as th

from ..data.image_features import FEATURES
from ..diffusion.solvers import Multistep, Past
from ..runtime import execution
from .moves import Move, decode_moves, encode_moves, levels
from .predictor import Predictor
from .settings import WalkSettings
from .trajectory import Trajectory


def unwatched(moves: Iterable[Move], **_: str) -> Iterable[Move]:
    """Return the moves as they are, without a progress bar such as `progress_bars.progress`."""
    return moves


@th.no_grad()
def follow(
    predict: Predictor, states: th.Tensor, moves: Iterable[Move], solver: Multistep
) -> Iterator[tuple[th.Tensor, th.Tensor]]:
    """Yield the states [N, C, H, W] after each move, and the predicted noise that it used."""
    past: list[Past] = []
    for move in moves:
        eps = predict(states, th.full((len(states),), move.timestep, device=states.device))
        moved = solver.step(states, move.level_cur, move.level_next, eps, past)
        past = solver.remember(past, (move.level_cur, states, eps))
        states = moved
        yield states, eps


def encode(
    predict: Predictor,
    images: th.Tensor,
    walk: WalkSettings,
    feature: str = "magnitude",
    watch: Callable[..., Iterable[Move]] = unwatched,
    memory_gb: float = 0.5,
    deepest: int | None = None,
) -> tuple[Trajectory, np.ndarray]:
    """Walk a batch to noise once, keeping and measuring every state.

    Args:
        predict: network of the source.
        images: clean images [N, C, H, W] in [-1, 1], on the CPU.
        walk: solver, grid and steps of both walks.
        feature: name of the image feature to measure, see `image_features.FEATURES`.
        watch: wrapper of the moves, which may show progress.
        memory_gb: most GB of trajectory in memory; a larger one lies in a temporary file.
        deepest: depth that suffices; None: full depth.

    Returns:
        the trajectory, and the features [N, T, K] float64 at the depths 1..T, interpolated between
        visited depths, and behind the deepest as there.
    """
    diffusion = predict.domain.diffusion
    walk = walk.resolved(diffusion.num_timesteps)
    moves = encode_moves(diffusion, walk, deepest)
    trajectory = Trajectory(moves, images, walk.encoding, levels(diffusion), memory_gb)
    features = []
    start = images.to(predict.domain.device)
    steps = follow(predict, start, watch(moves, desc="encoding"), walk.encoding)
    for index, (states, eps) in enumerate(steps):
        trajectory.store(index, states, eps)
        features.append(FEATURES[feature](states))
    curves = th.stack(features, dim=1).cpu().numpy()  # [N, moves, K]
    return trajectory, at_every_depth(trajectory.depths[1:], curves, diffusion.num_timesteps)


def at_every_depth(depths: np.ndarray, curves: np.ndarray, total: int) -> np.ndarray:
    """Interpolate curves [N, len(depths), K] between depths to [N, total, K] at 1..total."""
    if len(depths) == total:
        return curves
    place = np.interp(np.arange(1, total + 1), depths, np.arange(len(depths)))
    before = np.minimum(place.astype(int), len(depths) - 2)
    share = (place - before)[None, :, None]
    return (1 - share) * curves[:, before] + share * curves[:, before + 1]


@th.no_grad()
def decode(
    predict: Predictor,
    latents: th.Tensor,
    depths: Sequence[int],
    walk: WalkSettings,
    watch: Callable[..., Iterable[Move]] = unwatched,
) -> th.Tensor:
    """Decode latents of different depths together.

    The walk starts at the deepest latent. Another latent joins when the walk comes down to its
    depth, with a first move of its own to the next level of the walk.

    Args:
        predict: network of the target.
        latents: states [N, C, H, W], on the CPU.
        depths: depth of each latent, 0..T; a latent at depth 0 is clean already.
        walk: solver, grid and steps of both walks.
        watch: wrapper of the moves, which may show progress.

    Returns:
        clean images [N, C, H, W] on the CPU, not clipped.
    """
    diffusion = predict.domain.diffusion
    walk = walk.resolved(diffusion.num_timesteps)
    solver, past = walk.decoding, list[Past]()
    order = sorted(range(len(depths)), key=lambda i: -depths[i])
    states = latents[order].to(predict.domain.device)
    # Depths and levels lie on the device, so that no move waits for the host.
    descending = th.tensor([depths[i] for i in order], device=states.device)
    place = execution.exact(states.device)
    level_at = th.tensor(levels(diffusion), dtype=th.float64, device=place)
    needed = [move for move in decode_moves(diffusion, walk) if move.depth_next < max(depths)]
    for move in watch(needed, desc="decoding"):
        joined = sum(d > move.depth_next for d in depths)
        depth = descending[:joined].clamp(max=move.depth_cur)
        active = states[:joined]
        eps = predict(active, depth - 1)
        moved = solver.step(active, level_at[depth.to(place)], move.level_next, eps, past)
        past = solver.remember(past, (level_at[depth.to(place)], active, eps))
        states = th.cat([moved, states[joined:]])
    images = th.empty_like(states)
    images[order] = states
    return images.cpu()


def translate(
    source: Predictor,
    target: Predictor,
    states: th.Tensor,
    walk: WalkSettings,
    watch: Callable[..., Iterable[Move]] = unwatched,
) -> tuple[th.Tensor, th.Tensor]:
    """Walk a batch [N, ...] all the way to noise with one domain, and back with the other.

    Returns:
        the noise and the clean states of the target, each [N, ...].

    Reference:
        DDIB, arXiv:2203.08382, algorithm 1.
    """
    walk = walk.resolved(source.domain.diffusion.num_timesteps)
    there = watch(encode_moves(source.domain.diffusion, walk), desc="encoding")
    back = watch(decode_moves(target.domain.diffusion, walk), desc="decoding")
    latents = _last(follow(source, states.to(source.domain.device), there, walk.encoding))
    source.domain.refuse_infinite(latents)
    translated = _last(follow(target, latents, back, walk.decoding))
    target.domain.refuse_infinite(translated)
    return latents, translated


def _last(steps: Iterator[tuple[th.Tensor, th.Tensor]]) -> th.Tensor:
    return deque(steps, maxlen=1).pop()[0]
