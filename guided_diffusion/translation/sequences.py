"""From source images to sequences: encode with one domain, decode with the other."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch as th

from ..config.flags import args_to_dict
from ..data.image_features import FEATURES
from ..data.image_files import to_model_range
from ..data.image_source import ImageSource
from ..errors import ArgumentError, UserError
from ..models.domains import Domain
from ..networks.attention import priorities_of
from ..runtime import logger
from ..runtime.work_sharing import Dealing
from . import depth_policies, walks
from .depth_policies import Depths
from .soft_labels import soft_label
from .walks import Engine, Move, Predictor, decode_moves, encode_moves, unwatched


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
    depth_feature: str = "magnitude"
    batch_size: int = 1
    engine: Engine = field(default_factory=Engine)

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Recipe":
        """Return the recipe that parsed flags ask for."""
        own = [f.name for f in fields(cls) if f.name != "engine"]
        engine = Engine(**args_to_dict(args, [f.name for f in fields(Engine)]))
        return cls(**args_to_dict(args, own), engine=engine)


class Sequences:
    """The sequences of many source images, of which each rank gets some, batch by batch.

    Iterate on every rank; `len` is how many all ranks together make.

    Args:
        source: domain that encodes.
        target: domain that decodes.
        images: source images, as the source model takes them.
        recipe: how.
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
        _refuse_recipe(recipe, source.diffusion.num_timesteps)
        encode_moves(source.diffusion, recipe.engine)
        decode_moves(target.diffusion, recipe.engine)
        self.source, self.target = source, target
        warn_of_roles(source, target)
        self.encoder = Predictor(source, recipe.engine, "global")
        self.decoder = Predictor(target, recipe.engine, "local")
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
        for batch in Dealing(self.todo, self.recipe.batch_size):
            yield from self._batch(batch)

    def _batch(self, batch: Sequence[int]) -> Iterator[ImageSequence]:
        recipe = self.recipe
        tiles = self.images.tiles(batch)
        clean = to_model_range(tiles)
        engine = recipe.engine
        trajectory, features = walks.encode(
            self.encoder, clean, engine, recipe.depth_feature, self.watch
        )
        chosen = [
            depth_policies.choose(recipe.depth_policy, curve, recipe.amount) for curve in features
        ]
        latents = [trajectory.at(i, d.values) for i, d in enumerate(chosen)]
        flat = [value for d in chosen for value in d.values]
        _refuse_infinite(self.source, latents)
        images = walks.decode(self.decoder, th.cat(latents), flat, engine, self.watch)
        _refuse_infinite(self.target, images)
        self.decoded += len(batch)
        per_image = images.split(recipe.amount)
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
                [soft_label(i, recipe.amount) for i in range(1, recipe.amount + 1)],
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


def _refuse_recipe(recipe: Recipe, steps: int) -> None:
    depth_policies.choose(recipe.depth_policy, np.zeros((steps, 1)), recipe.amount)
    if recipe.depth_feature not in FEATURES:
        raise ArgumentError(
            "depth_feature", f"expected one of {sorted(FEATURES)}, got {recipe.depth_feature!r}"
        )
    if recipe.depth_policy == "add" and recipe.depth_feature != "magnitude":
        raise ArgumentError(
            "depth_feature",
            "the published search (--depth_policy add) is defined on magnitude, "
            f"got {recipe.depth_feature!r}; use it with --depth_policy even",
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
