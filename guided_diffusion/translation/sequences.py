"""Make sequences of source images: encode with one domain, decode with the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch as th

from ..data.image_files import to_model_range
from ..data.image_source import ImageSource
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..errors import UserError
from ..models.domains import Domain, refuse_differing
from ..networks.attention import Priority, priorities_of
from ..runtime import logger
from ..runtime.settings import ExecutionSettings
from ..runtime.work_sharing import SharedBatches
from . import encode_decode
from .depth_policies import Depths
from .encode_decode import unwatched
from .moves import Move
from .predictor import Predictor
from .settings import BatchSettings, DepthSettings, WalkSettings
from .soft_labels import soft_label


@dataclass
class ImageSequence:
    """One source image on its way to the target.

    Attributes:
        index: number of the source image.
        source_file: path of the source image.
        source: its tile, [H, W, C] uint8.
        depths: depth of each image, and whether their search failed.
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
    """Settings that decide the sequence of a source image, besides the two domains."""

    depths: DepthSettings = DepthSettings()
    walk: WalkSettings = WalkSettings()
    batches: BatchSettings = BatchSettings()
    execution: ExecutionSettings = ExecutionSettings()

    def resolved(self, diffusion: GaussianDiffusion) -> "Recipe":
        """Return the recipe with its preset and its amount resolved for a process.

        Raises:
            ArgumentError: if a setting does not fit the process.
        """
        depths, levels = self.depths.resolved(), diffusion.num_timesteps
        depths.check(levels)
        return replace(self, depths=depths, walk=self.walk.resolved(levels))

    def predictor(self, domain: Domain, priority: Priority) -> Predictor:
        """Return a predictor of noise with the network of a domain."""
        return Predictor(domain, self.execution, self.batches.max_batch, priority)


class Sequences:
    """Sequences of many source images, made while they are iterated over.

    Every rank iterates and makes a share, batch by batch; `len` counts the sequences of all ranks.

    Args:
        source: domain that encodes.
        target: domain that decodes.
        images: source images, as the source model takes them.
        recipe: depths, walks, batches and arithmetic.
        todo: indices of the images that all ranks together work on; None: all.
        watch: wrapper of the moves of a walk, which may show progress, see `encode_decode`.

    Attributes:
        decoded: number of sequences that this rank has made, in whole batches.

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
        self.source, self.target, recipe = source, target, recipe.resolved(source.diffusion)
        warn_of_roles(source, target)
        self.encoder = recipe.predictor(source, "global")
        self.decoder = recipe.predictor(target, "local")
        self.images, self.recipe, self.watch = images, recipe, watch
        self.todo = range(len(images)) if todo is None else todo
        self.decoded = 0

    @property
    def forwards(self) -> int:
        """Number of images that have gone through the two networks on this rank."""
        return self.encoder.forwards + self.decoder.forwards

    def __len__(self) -> int:
        return len(self.todo)

    def __iter__(self) -> Iterator[ImageSequence]:
        for batch in SharedBatches(self.todo, self.recipe.batches.batch_size):
            yield from self._batch(batch)

    def _batch(self, batch: Sequence[int]) -> Iterator[ImageSequence]:
        walk, wanted = self.recipe.walk, self.recipe.depths
        memory_gb = self.recipe.batches.trajectory_memory
        tiles = self.images.tiles(batch)
        trajectory, features = encode_decode.encode(
            self.encoder,
            to_model_range(tiles),
            walk,
            wanted.depth_feature,
            self.watch,
            memory_gb,
            deepest=max(wanted.fixed, default=None),
        )
        chosen = [wanted.choose(curve) for curve in features]
        latents = [trajectory.at(i, depths.values) for i, depths in enumerate(chosen)]
        flat = [depth for depths in chosen for depth in depths.values]
        self.source.refuse_infinite(*latents)
        images = encode_decode.decode(self.decoder, th.cat(latents), flat, walk, self.watch)
        self.target.refuse_infinite(images)
        self.decoded += len(batch)
        original = self.target.diffusion.timestep_map
        labels = [soft_label(i, wanted.amount) for i in range(1, wanted.amount + 1)]
        found = zip(batch, tiles, chosen, latents, images.split(wanted.amount), strict=True)
        for index, tile, depths, states, decoded in found:
            file = self.images.name(index)
            steps = [int(original[depth - 1]) if depth else -1 for depth in depths.values]
            yield ImageSequence(index, file, tile, depths, steps, states, decoded, list(labels))


def warn_of_roles(source: Domain, target: Domain) -> None:
    """Warn of a model with hybrid attention that lacks the weights for its role."""
    for domain, priority, role in ((source, "global", "source"), (target, "local", "target")):
        held = priorities_of(domain.model)
        if held and priority not in held:
            trained = f"trained with --attention_priority {held[0]} instead of {priority} or both"
            logger.warn(f"{domain.origin}: the {role}, but {trained}")


def refuse_unequal(source: Domain, target: Domain) -> None:
    """Refuse two domains, of images or of points, that cannot be joined.

    Raises:
        UserError: if a setting differs, or a model is class-conditional.
    """
    same = "image_size", "in_channels", "diffusion_steps", "noise_schedule", "timestep_respacing"
    refuse_differing("source and target", source, target, same)
    for domain in (source, target):
        if domain.args.get("class_cond"):
            expected = (
                "expected a model without classes; imagenet_translation translates between the "
                "classes of one"
            )
            raise UserError(f"{domain.origin}: {expected}")
