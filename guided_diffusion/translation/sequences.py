"""From source images to sequences: encode with one domain, decode with the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch as th

from ..data.image_files import to_model_range
from ..data.image_source import ImageSource
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..errors import ArgumentError, UserError
from ..models.domains import Domain
from ..networks.attention import Priority, priorities_of
from ..runtime import logger
from ..runtime.settings import ExecutionSettings
from ..runtime.work_sharing import SharedBatches
from . import walks
from .depth_policies import Depths
from .moves import Move
from .predictor import Predictor
from .settings import BatchSettings, DepthSettings, WalkSettings
from .soft_labels import soft_label
from .walks import unwatched


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
    """Everything that decides what comes of a source image, besides the two domains.

    Attributes:
        depths: number of images, and the policy that chooses their depths.
        walk: solver, grid and steps of both walks.
        batches: images encoded together, images per forward, memory.
        execution: arithmetic of the networks.
    """

    depths: DepthSettings = DepthSettings()
    walk: WalkSettings = WalkSettings()
    batches: BatchSettings = BatchSettings()
    execution: ExecutionSettings = ExecutionSettings()

    def resolved(self, diffusion: GaussianDiffusion) -> "Recipe":
        """Return the recipe with the preset of its walks resolved for a process.

        Raises:
            ArgumentError: naming a setting that the process cannot be used with.
        """
        self.depths.check(diffusion.num_timesteps)
        walk = self.walk.resolved(diffusion.num_timesteps)
        walk.check(diffusion)
        return replace(self, walk=walk)

    def predictor(self, domain: Domain, priority: Priority) -> Predictor:
        """Return what predicts noise with the network of a domain."""
        return Predictor(domain, self.execution, self.batches.max_batch, priority)


class Sequences:
    """The sequences of many source images, of which each rank gets some, batch by batch.

    Iterate on every rank; `len` is how many all ranks together make.

    Args:
        source: domain that encodes.
        target: domain that decodes.
        images: source images, as the source model takes them.
        recipe: depths, walks, batches and arithmetic.
        todo: indices into `images` that the ranks together are to do; None: all.
        watch: as in `encode` and `decode`.

    Attributes:
        decoded: how many sequences this rank has made; a batch is made before its first is given.

    Raises:
        UserError: if the two domains, the recipe and the images cannot work together.
    """

    def __init__(
        self,
        source: Domain,
        target: Domain,
        images: ImageSource,
        recipe: Recipe,
        todo: Sequence[int] | None = None,
        watch: Callable[..., Iterable[Move]] = unwatched,
    ) -> None:
        refuse_unequal(source, target)
        recipe = recipe.resolved(source.diffusion)
        self.source, self.target = source, target
        warn_of_roles(source, target)
        self.encoder = recipe.predictor(source, "global")
        self.decoder = recipe.predictor(target, "local")
        self.images, self.recipe, self.watch = images, recipe, watch
        self.todo = range(len(images)) if todo is None else todo
        self.decoded = 0

    @property
    def forwards(self) -> int:
        """How many images have gone through the two networks on this rank."""
        return self.encoder.forwards + self.decoder.forwards

    def __len__(self) -> int:
        return len(self.todo)

    def __iter__(self) -> Iterator[ImageSequence]:
        for batch in SharedBatches(self.todo, self.recipe.batches.batch_size):
            yield from self._batch(batch)

    def _batch(self, batch: Sequence[int]) -> Iterator[ImageSequence]:
        recipe = self.recipe
        tiles = self.images.tiles(batch)
        clean = to_model_range(tiles)
        walk, wanted = recipe.walk, recipe.depths
        memory_gb = recipe.batches.trajectory_memory
        trajectory, features = walks.encode(
            self.encoder, clean, walk, wanted.depth_feature, self.watch, memory_gb
        )
        chosen = [wanted.choose(curve) for curve in features]
        latents = [trajectory.at(i, d.values) for i, d in enumerate(chosen)]
        flat = [value for d in chosen for value in d.values]
        _refuse_infinite(self.source, latents)
        images = walks.decode(self.decoder, th.cat(latents), flat, walk, self.watch)
        _refuse_infinite(self.target, images)
        self.decoded += len(batch)
        per_image = images.split(wanted.amount)
        for index, tile, d, states, decoded in zip(
            batch, tiles, chosen, latents, per_image, strict=True
        ):
            yield ImageSequence(
                index,
                self.images.name(index),
                tile,
                d,
                self._timesteps(d),
                states,
                decoded,
                [soft_label(i, wanted.amount) for i in range(1, wanted.amount + 1)],
            )

    def _timesteps(self, depths: Depths) -> list[int]:
        original = self.target.diffusion.timestep_map
        return [int(original[d - 1]) if d else -1 for d in depths.values]


def _refuse_infinite(domain: Domain, states: Iterable[th.Tensor]) -> None:
    if not all(th.isfinite(state).all() for state in states):
        raise UserError(
            f"{domain.origin}: the network predicts numbers that are not finite; its training may "
            "have diverged, or --precision does not suit it"
        )


def warn_of_roles(source: Domain, target: Domain) -> None:
    """Say so where a model with hybrid attention lacks the weights of the role it is to play."""
    for domain, priority in ((source, "global"), (target, "local")):
        held = priorities_of(domain.model)
        if held and priority not in held:
            role = "source" if priority == "global" else "target"
            logger.warn(
                f"{domain.origin}: the {role}, but trained with --attention_priority {held[0]} "
                f"instead of {priority} or both"
            )


def refuse_unequal(source: Domain, target: Domain) -> None:
    """Stop if two domains, of images or of points, cannot be joined.

    Raises:
        UserError: naming the flag in which they differ.
    """
    for flag in (
        "image_size",
        "in_channels",
        "diffusion_steps",
        "noise_schedule",
        "timestep_respacing",
    ):
        values = source.args.get(flag), target.args.get(flag)
        if values[0] != values[1]:
            raise ArgumentError(
                flag,
                f"source and target need the same; {source.origin} has {values[0]!r}, "
                f"{target.origin} has {values[1]!r}",
            )
    for domain in (source, target):
        if domain.args.get("class_cond"):
            raise UserError(
                f"{domain.origin}: expected an unconditional model (--class_cond False)"
            )
