"""From a source image to a sequence: encode with one domain, decode with the other.

A process of T timesteps has T + 1 levels: level 0 is clean (alpha_bar 1), level k is
alpha_bar_{k-1}, which the network reads as t = k - 1. A depth is a number of encoding moves. A
walk is a list of `Move`s, data rather than index arithmetic; encoding is never clipped.

The two level conventions differ in the encoding alone. As published ("reference"), the clean
image is read as if it were at alpha_bar_0 and every state ends one level above the one at which
decoding reads it. "aligned" starts at the clean level and makes each move the mirror of a
decoding move: same levels, same timestep. What is left of the round-trip error is that the
network sees the state before the move instead of the one after it.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from . import depth, run
from .checkpoint import Domain
from .depth import Depths
from .flags import UserError
from .gaussian_diffusion import GaussianDiffusion
from .image_datasets import load_tile, to_model_range
from .soft_labels import soft_label
from .solvers import ddim_step
from .spectrum import reference_magnitude

CONVENTIONS = ("reference", "aligned")


@dataclass(frozen=True)
class Move:
    """One step of a walk: the network is asked at `timestep`, the state changes its level."""

    timestep: int
    level_cur: float
    level_next: float


def encode_moves(diffusion: GaussianDiffusion, convention: str) -> list[Move]:
    """Return the T moves from a clean image to noise.

    Raises:
        UserError: for an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise UserError(f"--level_convention: expected one of {CONVENTIONS}, got {convention!r}")
    if convention == "aligned":
        backwards = reversed(decode_moves(diffusion))
        return [Move(m.timestep, m.level_next, m.level_cur) for m in backwards]
    return _moves(diffusion.alphas_cumprod, diffusion.alphas_cumprod_next)


def decode_moves(diffusion: GaussianDiffusion) -> list[Move]:
    """Return the T moves from noise to a clean image; the last d of them decode depth d."""
    return _moves(diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev)[::-1]


def _moves(here: np.ndarray, there: np.ndarray) -> list[Move]:
    return [Move(t, float(a), float(b)) for t, (a, b) in enumerate(zip(here, there, strict=True))]


def unwatched(moves: Iterable[Move], **_: str) -> Iterable[Move]:
    """Return the moves as they are; `run.progress` in its place shows a bar of them."""
    return moves


@th.no_grad()
def walk(
    domain: Domain, states: th.Tensor, moves: Iterable[Move], precision: str = "fp32"
) -> Iterator[th.Tensor]:
    """Yield the states [N, C, H, W] after each move."""
    for move in moves:
        states = _moved(domain, states, move, precision)
        yield states


def _moved(domain: Domain, states: th.Tensor, move: Move, precision: str) -> th.Tensor:
    t = th.full((len(states),), move.timestep, dtype=th.int64, device=states.device)
    with run.autocast(states.device, precision):
        eps = domain.diffusion.predict_eps(domain.model, states, t)
    return ddim_step(states, move.level_cur, move.level_next, eps.float())


class Trajectory:
    """The states of a batch after 1..T moves, in memory or, where too large, in a nameless file."""

    def __init__(self, moves: int, shape: Sequence[int], memory_gb: float) -> None:
        shape = (moves, *shape)
        if 4 * np.prod(shape, dtype=np.float64) <= memory_gb * 1e9:
            self.states = np.empty(shape, dtype=np.float32)
        else:
            size, elsewhere = 4 * int(np.prod(shape)), ", or let TMPDIR name a folder with more"
            file = tempfile.TemporaryFile()
            run.reserve(file, size, "--trajectory_memory", elsewhere)
            self.states = np.memmap(file, np.float32, "r+", shape=shape)

    def store(self, index: int, states: th.Tensor) -> None:
        """Keep the states [N, C, H, W] after move `index` + 1."""
        self.states[index] = states.cpu().numpy()

    def at(self, image: int, depths: Sequence[int], clean: th.Tensor) -> th.Tensor:
        """Return the states of one image after each of these numbers of moves; 0 is `clean`."""
        kept = [th.from_numpy(np.array(self.states[d - 1, image])) if d else clean for d in depths]
        return th.stack(kept)


def encode(
    domain: Domain,
    images: th.Tensor,
    convention: str,
    precision: str = "fp32",
    memory_gb: float = 0.5,
    watch: Callable[..., Iterable[Move]] = unwatched,
) -> tuple[Trajectory, np.ndarray]:
    """Walk a batch to noise once, keeping and measuring every state.

    Args:
        domain: the source.
        images: [N, C, H, W] in [-1, 1], on the CPU.
        convention: "reference" or "aligned".
        precision: "fp32" or "bf16" arithmetic of the network.
        memory_gb: of the trajectory; a larger one goes to a temporary file.
        watch: called with the moves and `desc`, wraps them in a progress bar.

    Returns:
        the trajectory, and the features [N, T] float64 after each move.
    """
    moves = encode_moves(domain.diffusion, convention)
    trajectory = Trajectory(len(moves), images.shape, memory_gb)
    features = []
    start = images.to(domain.device)
    for index, states in enumerate(walk(domain, start, watch(moves, desc="encoding"), precision)):
        trajectory.store(index, states)
        features.append(reference_magnitude(states))
    return trajectory, th.stack(features, dim=1).cpu().numpy()


@th.no_grad()
def decode(
    domain: Domain,
    latents: th.Tensor,
    depths: Sequence[int],
    precision: str = "fp32",
    max_batch: int = 32,
    watch: Callable[..., Iterable[Move]] = unwatched,
) -> th.Tensor:
    """Decode latents of different depths together.

    The walk starts at the deepest; a latent joins when the walk comes down to its depth.

    Args:
        domain: the target.
        latents: [N, C, H, W] on the CPU.
        depths: of each latent, 0..T; one of depth 0 is clean already.
        precision: "fp32" or "bf16" arithmetic of the network.
        max_batch: images per forward at most.
        watch: called with the moves and `desc`, wraps them in a progress bar.

    Returns:
        clean images [N, C, H, W] on the CPU, not clipped.
    """
    order = sorted(range(len(depths)), key=lambda i: -depths[i])
    states = latents[order].to(domain.device)
    descending = [depths[i] for i in order]
    moves = decode_moves(domain.diffusion)[-max(depths) :] if max(depths) else []
    for move in watch(moves, desc="decoding"):
        active = sum(d > move.timestep for d in descending)
        for first in range(0, active, max_batch):
            part = slice(first, min(first + max_batch, active))
            states[part] = _moved(domain, states[part], move, precision)
    images = th.empty_like(states)
    images[order] = states
    return images.cpu()


@dataclass
class ImageSequence:
    """One source image on its way to the target.

    Attributes:
        index: number of the source image.
        source_file: its path.
        source: the tile, [H, W, C] uint8.
        depths: depth per image, and whether the search for them failed.
        timesteps: original timestep at which the decoding of each image begins; -1 for depth 0.
        latents: [amount, C, H, W] float32.
        images: [amount, C, H, W] float32, about [-1, 1].
        labels: (source share, target share) of each image.
    """

    index: int
    source_file: str
    source: np.ndarray
    depths: Depths
    timesteps: list[int]
    latents: th.Tensor
    images: th.Tensor
    labels: list[tuple[float, float]]


@dataclass(frozen=True)
class Recipe:
    """How sequences are made; the flags of the same names."""

    amount: int = 10
    depth_policy: str = "add"
    level_convention: str = "reference"
    batch_size: int = 1
    max_batch: int = 32
    precision: str = "fp32"
    trajectory_memory: float = 0.5


class Sequences:
    """The sequences of many source images, batch by batch; iterate, or ask for `len`.

    Args:
        source: domain that encodes.
        target: domain that decodes.
        files: source images.
        recipe: how.
        batches: lists of indices into `files` to do together; None: all, in order.
        watch: as in `encode` and `decode`.

    Raises:
        UserError: if the two domains, the recipe and the images cannot work together.
    """

    def __init__(
        self,
        source: Domain,
        target: Domain,
        files: Sequence[str],
        recipe: Recipe,
        batches: Sequence[Sequence[int]] | None = None,
        watch: Callable[..., Iterable[Move]] = unwatched,
    ) -> None:
        _refuse_unequal(source, target)
        steps = source.diffusion.num_timesteps
        depth.choose(recipe.depth_policy, [0.0] * steps, recipe.amount)
        encode_moves(source.diffusion, recipe.level_convention)
        self.source, self.target = source, target
        self.files, self.recipe, self.watch = files, recipe, watch
        self.batches = batches if batches is not None else deal(len(files), recipe.batch_size)

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)

    def __iter__(self) -> Iterator[ImageSequence]:
        for batch in self.batches:
            yield from self._batch(batch)

    def _batch(self, batch: Sequence[int]) -> Iterator[ImageSequence]:
        recipe = self.recipe
        tiles = np.stack([self.tile(index) for index in batch])
        clean = to_model_range(tiles)
        trajectory, features = encode(
            self.source, clean, recipe.level_convention, recipe.precision,
            recipe.trajectory_memory, self.watch,
        )  # fmt: skip
        chosen = [
            depth.choose(recipe.depth_policy, row.tolist(), recipe.amount) for row in features
        ]
        latents = [trajectory.at(i, d.values, clean[i]) for i, d in enumerate(chosen)]
        flat = [value for d in chosen for value in d.values]
        images = decode(
            self.target, th.cat(latents), flat, recipe.precision, recipe.max_batch, self.watch
        )
        per_image = images.split(recipe.amount)
        for index, tile, d, states, decoded in zip(
            batch, tiles, chosen, latents, per_image, strict=True
        ):
            yield ImageSequence(
                index, self.files[index], tile, d, self._timesteps(d), states, decoded,
                [soft_label(i, recipe.amount) for i in range(1, recipe.amount + 1)],
            )  # fmt: skip

    def tile(self, index: int) -> np.ndarray:
        """Return one source tile, [H, W, C] uint8, as the source model takes it."""
        args = self.source.args
        return load_tile(self.files[index], args["image_size"], args["in_channels"])

    def _timesteps(self, depths: Depths) -> list[int]:
        original = self.target.diffusion.timestep_map
        return [int(original[d - 1]) if d else -1 for d in depths.values]


def deal(count: int, batch_size: int) -> list[list[int]]:
    """Return 0..count-1 in batches of at most `batch_size`."""
    return [list(range(i, min(i + batch_size, count))) for i in range(0, count, batch_size)]


def _refuse_unequal(source: Domain, target: Domain) -> None:
    for flag in ("image_size", "in_channels", "diffusion_steps", "noise_schedule",
                 "timestep_respacing"):  # fmt: skip
        values = source.args[flag], target.args[flag]
        if values[0] != values[1]:
            raise UserError(
                f"--{flag}: source and target need the same; {source.origin} has {values[0]!r}, "
                f"{target.origin} has {values[1]!r}"
            )
    for domain in (source, target):
        if domain.args["class_cond"]:
            raise UserError(
                f"{domain.origin}: expected an unconditional model (--class_cond False)"
            )
