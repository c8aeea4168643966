"""Kinds of attention side by side: the models to train under one budget, and their measurements.

A model is named by its kind of attention and trained for both domains; the target's training
starts from the source's weights. A row of the table is a pair of such models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch as th
from PIL import Image

from ..data.image_features import LUMA
from ..data.image_source import ImageSource
from ..data.pictures import grid, scale_of, to_uint8
from ..errors import require
from ..evaluation.feature_extractors import Extractor
from ..evaluation.set_distances import kid, psnr
from ..models.domains import Domain
from ..networks.attention import Priority, set_priority
from ..runtime.random_streams import Stream, generator
from ..translation.encode_decode import translate
from ..translation.sequences import ImageSequence, Recipe, Sequences

HYBRID = {"attention_kind": "hybrid"}
NEW_ORDER = {"use_new_attention_order": True}
# Flags of the trainings, by name of the model.
MODELS: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard-new": NEW_ORDER,
    "hybrid-global": {**HYBRID, "attention_priority": "global"},
    "hybrid-local": {**HYBRID, "attention_priority": "local"},
    "hybrid-both": {**HYBRID, "attention_priority": "both"},
}
STRATA = 10  # parts of the time axis; a loss takes one time for each image from each part


@dataclass(frozen=True)
class Row:
    """Row of the table: names of its two models, and flags that override the source's own."""

    name: str
    source: str
    target: str
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def ends(self) -> tuple[tuple[str, str, dict[str, Any]], ...]:
        """(name of the model, domain, overriding flags) of source and target."""
        return (self.source, "source", self.overrides), (self.target, "target", {})


ROWS = (
    Row("standard", "standard", "standard"),
    Row("standard, new order", "standard-new", "standard-new"),
    Row("hybrid, global", "hybrid-global", "hybrid-global"),
    Row("hybrid, local", "hybrid-local", "hybrid-local"),
    Row("hybrid, global to local", "hybrid-global", "hybrid-global-to-local"),
    Row("hybrid, both", "hybrid-both", "hybrid-both"),
    Row("mix-up: source in the other order", "standard", "standard", NEW_ORDER),
)


def trainings() -> Iterator[list[tuple[str, str, dict[str, Any], str]]]:
    """Yield chains of trainings, each (name, domain, flags, name of the source to start from).

    A training needs the trainings before it in its chain; the chains are independent.
    """
    for name, flags in MODELS.items():
        chain = [(name, "source", flags, ""), (name, "target", flags, name)]
        if name == "hybrid-global":
            chain.append(("hybrid-global-to-local", "target", MODELS["hybrid-local"], name))
        yield chain


@th.no_grad()
def mean_loss(
    domain: Domain, images: th.Tensor, priority: Priority, seed: int, batch_size: int = 50
) -> float:
    """Measure the mean squared error of the predicted noise, over images and times.

    Args:
        domain: domain whose network predicts.
        images: clean images [N, C, H, W] in [-1, 1].
        priority: priority of the network's attention.
        seed: seed of the noise and the times, which are the same for every domain.
        batch_size: images per forward.
    """
    set_priority(domain.model, priority)
    rng = generator(seed, Stream.ABLATION)
    steps, found = domain.diffusion.num_timesteps, []
    for stratum in range(STRATA):
        noise = th.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
        times = (stratum + rng.random(len(images))) * steps / STRATA
        t = th.from_numpy(times.astype(np.int64))
        for part in th.arange(len(images)).split(batch_size):
            x, at, eps = (values[part].to(domain.device) for values in (images, t, noise))
            losses = domain.diffusion.training_losses(domain.model, x, at, noise=eps)
            found.append(losses.get("mse", losses["loss"]).cpu())
    return float(th.cat(found).mean())


def round_trip(source: Domain, images: th.Tensor, recipe: Recipe) -> float:
    """Measure the PSNR in dB of images [N, C, H, W] after a walk to noise and back."""
    predict = recipe.predictor(source, "global")
    _, returned = translate(predict, predict, images, recipe.walk)
    return psnr(returned.cpu(), images)


def structure_kept(sequences: Sequence[ImageSequence]) -> list[float]:
    """Measure the SSIM of images to their source at each step, in grey, mean over the sequences.

    Raises:
        MissingExtraError: without torchmetrics.

    Reference:
        Wang et al. 2004, "Image quality assessment: from error visibility to structural
        similarity".
    """
    ssim = require("torchmetrics.functional.image", "metrics")
    measure = partial(ssim.structural_similarity_index_measure, data_range=255.0)
    sources = _grey(np.stack([sequence.source for sequence in sequences]))
    steps = np.stack([to_uint8(sequence.images) for sequence in sequences], axis=1)
    return [float(measure(_grey(tiles), sources)) for tiles in steps]


def _grey(tiles: np.ndarray) -> th.Tensor:
    # [N, H, W, C] uint8 -> [N, 1, H, W], luma of ITU-R BT.601 of colour images.
    values = th.from_numpy(tiles).float().movedim(-1, 1)
    weights = th.tensor(LUMA) if values.shape[1] == 3 else th.ones(1)
    return (values[:, : len(weights)] * weights[:, None, None]).sum(1, keepdim=True)


def distance(extractor: Extractor, reference: th.Tensor, tiles: np.ndarray, seed: int) -> float:
    """Measure the KID of tiles [N, H, W, C] uint8 to the features [M, D] of a reference."""
    return kid(reference, features_of(extractor, tiles), seed)["value"]


def features_of(extractor: Extractor, tiles: np.ndarray) -> th.Tensor:
    """Return the features [N, D] float64 of tiles [N, H, W, C] uint8."""
    return extractor(tiles)[0].double()


@dataclass(frozen=True)
class Material:
    """Images that every row is measured on; pairs are images [N, C, H, W] of source and target."""

    trained: tuple[th.Tensor, th.Tensor]  # seen in training
    held_out: tuple[th.Tensor, th.Tensor]  # seen by no model
    sources: ImageSource  # the held-out source images
    reference: th.Tensor  # features [N, D] of the target images that were seen in training


def measure(
    source: Domain,
    target: Domain,
    material: Material,
    recipe: Recipe,
    extractor: Extractor,
    seed: int,
) -> tuple[dict[str, Any], list[ImageSequence]]:
    """Measure a row; return its numbers, and the sequences of the held-out source images."""
    ends = ((source, "global"), (target, "local"))
    losses = []
    for images in (material.trained, material.held_out):
        both = [mean_loss(d, x, p, seed) for (d, p), x in zip(ends, images, strict=True)]
        losses.append(float(np.mean(both)))
    sequences = list(Sequences(source, target, material.sources, recipe))
    steps = np.stack([to_uint8(sequence.images) for sequence in sequences], axis=1)
    return {
        "training_loss": losses[0],
        "held_out_loss": losses[1],
        "round_trip": round_trip(source, material.held_out[0], recipe),
        "ssim": structure_kept(sequences),
        "kid": [distance(extractor, material.reference, tiles, seed) for tiles in steps],
        "n": len(sequences),
    }, sequences


def lines(table: Sequence[dict[str, Any]], limits: tuple[float, float]) -> list[str]:
    """Return the table as text.

    Args:
        table: results of `measure`, each with the `name` of its row.
        limits: KID to the reference of held-out source images, and of held-out target images.
    """
    width = 5 * len(table[0]["ssim"])
    found = [
        "loss: mean squared error of the noise, mean of both domains; round trip: PSNR in dB; "
        "at each step, SSIM to the source and KID x 1000 to the target",
        f"{'attention':34s} training held-out round trip  {'SSIM':{width}s} KID",
    ]
    for row in table:
        ssim = " ".join(f"{value:.2f}" for value in row["ssim"])
        kids = " ".join(f"{1000 * value:.1f}" for value in row["kid"])
        found.append(
            f"{row['name']:34s} {row['training_loss']:8.4f} {row['held_out_loss']:8.4f} "
            f"{row['round_trip']:10.1f}  {ssim}  {kids}"
        )
    ends = " and ".join(f"{1000 * value:.2f}" for value in limits)
    return [*found, f"KID x 1000 of held-out sources and targets: {ends}; N = {table[0]['n']}"]


def picture(names: Sequence[str], shown: Sequence[Sequence[ImageSequence]]) -> Image.Image:
    """Draw sequences, with the sequences of one source image below one another.

    Args:
        names: names of the rows of the table.
        shown: sequences of each row, from the same source images.
    """
    tiles, captions = [], []
    for same_source in zip(*shown, strict=True):
        for name, sequence in zip(names, same_source, strict=True):
            tiles.append([sequence.source, *to_uint8(sequence.images)])
            title, depths = name.replace("hybrid, ", "hy. ")[:20], sequence.depths.values
            captions.append([title, *(f"d{depth}" for depth in depths)])
    return grid(tiles, captions, scale_of(tiles[0][0]))
