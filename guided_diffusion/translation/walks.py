"""Walks along a process: from clean images to noise (`encode`) and back (`decode`).

A process of T timesteps has T + 1 levels: level 0 is clean (alpha_bar 1), level k is
alpha_bar_{k-1}, which the network reads as t = k - 1. A depth is a number of levels. A walk is a
list of `Move`s, data rather than index arithmetic; encoding is never clipped.

Decoding asks the network at the level where the state is. Encoding with DDIM has two conventions.
As published ("reference"), the clean image is read as if it were at alpha_bar_0 and every state
ends one level above the one at which decoding reads it. "aligned" starts at the clean level and
makes each move the mirror of a decoding move: same levels, same timestep. What is left of the
round-trip error is that the network sees the state before the move instead of the one after it.
The multistep solver, "dpmpp", asks at the level where the state is in both directions.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch as th

from ..data.image_features import FEATURES
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.schedules import timestep_grid
from ..diffusion.solvers import DDIM, PREDICTED, SOLVERS, Multistep, Past
from ..errors import ArgumentError
from ..models.domains import Domain
from ..networks.attention import Priority, set_priority
from ..runtime import atomic_files, execution

CONVENTIONS = ("reference", "aligned")
CHOICES = {
    "level_convention": CONVENTIONS,
    "solver": tuple(SOLVERS),
    "encode_prediction": tuple(PREDICTED),
}
_SMALL = 8  # images; what is left below goes through the network at once


@dataclass(frozen=True)
class Engine:
    """How the two walks are made; the flags of the same names."""

    solver: str = "ddim"
    solver_order: int = 2
    encode_steps: int = 0
    decode_steps: int = 0
    grid: str = "mixed"
    level_convention: str = "reference"
    precision: str = "fp32"
    max_batch: int = 32
    trajectory_memory: float = 0.5
    compile: bool = False
    encode_prediction: str = "data"

    @property
    def order(self) -> int:
        """Order of the solver; DDIM is the first."""
        return self.encoding.order

    @property
    def encoding(self) -> Multistep:
        """Solver of the walk to noise."""
        return SOLVERS[self.solver](self.solver_order, self.encode_prediction)

    @property
    def decoding(self) -> Multistep:
        """Solver of the walk to clean images."""
        return SOLVERS[self.solver](self.solver_order, "data")

    def within(self, levels: int) -> "Engine":
        """Return an engine that takes no more steps than there are levels."""
        steps = {"encode_steps": self.encode_steps, "decode_steps": self.decode_steps}
        return replace(self, **{name: min(count, levels) for name, count in steps.items()})


@dataclass(frozen=True)
class Move:
    """One step of a walk: the network is asked at `timestep`, the state changes its level.

    `depth` is that of the state after the move in an encoding, before it in a decoding.
    """

    timestep: int
    level_cur: float
    level_next: float
    depth: int


def encode_moves(diffusion: GaussianDiffusion, engine: Engine) -> list[Move]:
    """Return the moves from a clean image to noise.

    Raises:
        UserError: if the engine's flags are unknown or do not go together.
    """
    if engine.level_convention == "reference":
        _refuse_unless_published(engine)
        here, above = diffusion.alphas_cumprod, diffusion.alphas_cumprod_next
        pairs = enumerate(zip(here.tolist(), above.tolist(), strict=True))
        return [Move(t, a, b, t + 1) for t, (a, b) in pairs]
    level, depths = levels(diffusion), _visited(diffusion, engine, "encode_steps")
    mirrored = isinstance(engine.encoding, DDIM)
    return [
        Move((b if mirrored else max(a, 1)) - 1, level[a], level[b], b)
        for a, b in zip([0, *depths], depths, strict=False)
    ]


def decode_moves(diffusion: GaussianDiffusion, engine: Engine) -> list[Move]:
    """Return the moves from noise to a clean image; depth d is decoded by those from d on.

    Raises:
        UserError: if the engine's flags are unknown.
    """
    level, depths = levels(diffusion), _visited(diffusion, engine, "decode_steps")[::-1]
    pairs = zip(depths, [*depths[1:], 0], strict=True)
    return [Move(a - 1, level[a], level[b], a) for a, b in pairs]


def levels(diffusion: GaussianDiffusion) -> list[float]:
    """Return the level at each depth 0..T."""
    return [1.0, *diffusion.alphas_cumprod.tolist()]


def _visited(diffusion: GaussianDiffusion, engine: Engine, flag: str) -> list[int]:
    for name, known in CHOICES.items():
        if getattr(engine, name) not in known:
            raise ArgumentError(name, f"expected one of {known}, got {getattr(engine, name)!r}")
    total = diffusion.num_timesteps
    try:
        grid = timestep_grid(engine.grid, getattr(engine, flag) or total, diffusion.alphas_cumprod)
    except ValueError as error:
        raise ArgumentError(flag if "steps" in str(error) else "grid", f"{error}") from None
    return [int(t) + 1 for t in grid]


def _refuse_unless_published(engine: Engine) -> None:
    for flag, published in {"solver": "ddim", "encode_steps": 0}.items():
        if getattr(engine, flag) != published:
            raise ArgumentError(
                flag,
                f"the published levels (--level_convention reference) go with "
                f"{published} only, got {getattr(engine, flag)}; add --level_convention aligned",
            )


def unwatched(moves: Iterable[Move], **_: str) -> Iterable[Move]:
    """Return the moves as they are; `progress_bars.progress` in its place shows a bar of them."""
    return moves


class Predictor:
    """The network of a domain, asked for the noise in at most `max_batch` images at a time.

    Args:
        domain: that is asked.
        engine: how.
        priority: of its attention, where it has weights for both: "global" as a source, "local" as
            a target; None: as it stands.

    Attributes:
        max_batch: halved whenever the device runs out of memory.
        forwards: images that went through the network so far.
    """

    def __init__(self, domain: Domain, engine: Engine, priority: Priority | None = None) -> None:
        self.priority = priority
        self.domain, self.precision, self.max_batch = domain, engine.precision, engine.max_batch
        self.compiled = engine.compile
        self.forwards = 0

    def __call__(self, states: th.Tensor, timesteps: th.Tensor) -> th.Tensor:
        """Return the noise in states [N, C, H, W] at timesteps int64 [N], float32."""
        timesteps = execution.upload(timesteps, states.device)
        if self.priority:  # in every call: one model can be asked in both roles by turns
            set_priority(self.domain.model, self.priority)
        parts, first = [], 0
        while first < len(states):
            part = slice(first, first + self._size(len(states) - first))
            try:
                parts.append(self._predict(states[part], timesteps[part]))
            except th.cuda.OutOfMemoryError:
                if self.max_batch == 1:
                    raise
                self.max_batch //= 2
                continue
            first = part.stop
        self.forwards += len(states)
        return parts[0] if len(parts) == 1 else th.cat(parts)

    def _size(self, left: int) -> int:
        # A CPU's freed memory is used again only by what fits in: halves do, other sizes cut it up
        # ever more. A GPU's allocator sees to that by itself, and small forwards cost it more.
        size = self.max_batch
        while self.domain.device.type == "cpu" and size > max(left, _SMALL):
            size //= 2
        return min(size, left)

    def _predict(self, states: th.Tensor, timesteps: th.Tensor) -> th.Tensor:
        count = len(states)
        if self.compiled:  # for every size anew: so only for powers of two
            size = min(self.max_batch, 1 << (count - 1).bit_length())
            states, timesteps = (_filled_up(values, size) for values in (states, timesteps))
        with execution.autocast(states.device, self.precision):
            eps = self.domain.diffusion.predict_eps(self.domain.model, states, timesteps)
        # The next call may overwrite what compiled code returned.
        return eps[:count].float().clone() if self.compiled else eps.float()


def _filled_up(values: th.Tensor, size: int) -> th.Tensor:
    # With repetitions of the first: [N, ...] to [size, ...].
    return th.cat([values, values[:1].expand(size - len(values), *values.shape[1:])])


@th.no_grad()
def walk(
    predict: Predictor, states: th.Tensor, moves: Iterable[Move], solver: Multistep
) -> Iterator[tuple[th.Tensor, th.Tensor]]:
    """Yield the states [N, C, H, W] after each move, and the noise that it was made with."""
    past: list[Past] = []
    for move in moves:
        eps = predict(states, th.full((len(states),), move.timestep, device=states.device))
        moved = solver.step(states, move.level_cur, move.level_next, eps, past)
        past = solver.remember(past, (move.level_cur, states, eps))
        states = moved
        yield states, eps


class Trajectory:
    """The states of a batch along an encoding, in memory or, where too large, in a file.

    At a depth between two visited ones the solver itself interpolates, at no further forward: the
    state there is a shorter move from the visited one before it. For that, what the moves were
    made with is kept too.

    Args:
        moves: of the encoding.
        clean: the batch, [N, C, H, W].
        engine: how it is walked.
        levels: of the process, by depth.
    """

    def __init__(
        self, moves: Sequence[Move], clean: th.Tensor, engine: Engine, levels: Sequence[float]
    ) -> None:
        self.moves, self.levels, self.solver = moves, levels, engine.encoding
        self.depths = np.array([0, *(move.depth for move in moves)])
        gaps = len(moves) < len(levels) - 1
        memory_gb = engine.trajectory_memory / (2 if gaps else 1)
        self.states = _large_array((len(moves) + 1, *clean.shape), memory_gb)
        self.states[0] = clean.numpy()
        self.eps = _large_array((len(moves), *clean.shape), memory_gb) if gaps else None

    def store(self, move: int, states: th.Tensor, eps: th.Tensor) -> None:
        """Keep the states [N, C, H, W] after a move, and the noise that it was made with."""
        self.states[move + 1] = states.cpu().numpy()
        if self.eps is not None:
            self.eps[move] = eps.cpu().numpy()

    def at(self, image: int, depths: Sequence[int]) -> th.Tensor:
        """Return the states [len(depths), C, H, W] of one image at these depths."""
        return th.stack([self._state(image, depth) for depth in depths])

    def _state(self, image: int, depth: int) -> th.Tensor:
        last = int(np.searchsorted(self.depths, depth, side="right")) - 1
        if self.depths[last] == depth:
            return th.from_numpy(np.array(self.states[last, image]))
        *past, (level, x, eps) = [
            (self.moves[move].level_cur, *self._made_with(move, image))
            for move in range(max(0, last + 1 - self.solver.order), last + 1)
        ]
        return self.solver.step(x, level, self.levels[depth], eps, past)[0]

    def _made_with(self, move: int, image: int) -> list[th.Tensor]:
        kept = self.states, self.eps
        return [th.from_numpy(np.array(array[move, image]))[None] for array in kept]


def _large_array(shape: Sequence[int], memory_gb: float) -> np.ndarray:
    size = 4 * int(np.prod(shape, dtype=np.float64))
    if size <= memory_gb * 1e9:
        return np.empty(shape, dtype=np.float32)
    elsewhere = ", or let TMPDIR name a folder with more"
    file = atomic_files.reserve(tempfile.TemporaryFile(), size, "trajectory_memory", elsewhere)
    return np.memmap(file, np.float32, "r+", shape=shape)


def encode(
    predict: Predictor,
    images: th.Tensor,
    engine: Engine,
    feature: str = "magnitude",
    watch: Callable[..., Iterable[Move]] = unwatched,
) -> tuple[Trajectory, np.ndarray]:
    """Walk a batch to noise once, keeping and measuring every state.

    Args:
        predict: the source.
        images: [N, C, H, W] in [-1, 1], on the CPU.
        engine: how.
        feature: what is measured, one of `spectrum.FEATURES`.
        watch: called with the moves and `desc`, wraps them in a progress bar.

    Returns:
        the trajectory, and the features [N, T, K] float64 at the depths 1..T; between visited
        depths they are interpolated.
    """
    diffusion = predict.domain.diffusion
    moves = encode_moves(diffusion, engine)
    trajectory = Trajectory(moves, images, engine, levels(diffusion))
    found = []
    start = images.to(predict.domain.device)
    steps = walk(predict, start, watch(moves, desc="encoding"), engine.encoding)
    for index, (states, eps) in enumerate(steps):
        trajectory.store(index, states, eps)
        found.append(FEATURES[feature](states))
    curves = th.stack(found, dim=1).cpu().numpy()  # [N, moves, K]
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
    engine: Engine,
    watch: Callable[..., Iterable[Move]] = unwatched,
) -> th.Tensor:
    """Decode latents of different depths together.

    The walk starts at the deepest; a latent joins when the walk comes down to its depth, with a
    first move of its own to the next level of the walk.

    Args:
        predict: the target.
        latents: [N, C, H, W] on the CPU.
        depths: of each latent, 0..T; one of depth 0 is clean already.
        engine: how.
        watch: called with the moves and `desc`, wraps them in a progress bar.

    Returns:
        clean images [N, C, H, W] on the CPU, not clipped.
    """
    diffusion = predict.domain.diffusion
    order = sorted(range(len(depths)), key=lambda i: -depths[i])
    states = latents[order].to(predict.domain.device)
    # All moves are made of these, so that none waits for something from the host.
    descending = th.tensor([depths[i] for i in order], device=states.device)
    level_at = th.tensor(levels(diffusion), dtype=th.float64, device=states.device)
    moves, past = decode_moves(diffusion, engine), []
    solver = engine.decoding
    ends = dict(zip(moves, [*(move.depth for move in moves[1:]), 0], strict=True))
    below = [move for move in moves if ends[move] < max(depths)]
    for move in watch(below, desc="decoding"):
        joined = sum(d > ends[move] for d in depths)
        depth = descending[:joined].clamp(max=move.depth)
        active = states[:joined]
        eps = predict(active, depth - 1)
        moved = solver.step(active, level_at[depth], move.level_next, eps, past)
        past = solver.remember(past, (level_at[depth], active, eps))
        states = th.cat([moved, states[joined:]])
    images = th.empty_like(states)
    images[order] = states
    return images.cpu()


def translate(
    source: Predictor,
    target: Predictor,
    states: th.Tensor,
    engine: Engine,
    watch: Callable[..., Iterable[Move]] = unwatched,
) -> tuple[th.Tensor, th.Tensor]:
    """Walk a batch all the way to noise with one domain, and back with the other.

    Args:
        source: encodes.
        target: decodes.
        states: clean [N, ...].
        engine: how.
        watch: called with the moves and `desc`, wraps them in a progress bar.

    Returns:
        the noise and the clean states of the target, each [N, ...].

    Reference:
        DDIB, arXiv:2203.08382, algorithm 1.
    """
    there = watch(encode_moves(source.domain.diffusion, engine), desc="encoding")
    back = watch(decode_moves(target.domain.diffusion, engine), desc="decoding")
    latents = _last(walk(source, states.to(source.domain.device), there, engine.encoding))
    return latents, _last(walk(target, latents, back, engine.decoding))


def _last(steps: Iterator[tuple[th.Tensor, th.Tensor]]) -> th.Tensor:
    return deque(steps, maxlen=1).pop()[0]
