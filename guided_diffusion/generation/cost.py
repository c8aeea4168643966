"""Count what a generation run costs, before it starts: forwards, FLOPs, bytes on disk.

A forward is one image going once through one network, whatever its batch. A FLOP is one addition or
one multiplication. Where depths are not chosen yet, counts are an estimate and a bound.
"""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from ..config.network_settings import ModelSettings
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.settings import ProcessSettings
from ..models.script_util import build_network
from ..translation import depth_policies
from ..translation.moves import decode_moves, encode_moves
from ..translation.sequences import Recipe
from ..translation.settings import WalkSettings
from .arrays import empty_entries

PACKED = 0.7  # bytes of a PNG of tissue for each byte of its pixels
TEXT_BYTES = 1000  # of a picture's provenance and its row of the manifest


@dataclass(frozen=True)
class Forwards:
    """Forwards that one source image takes.

    Attributes:
        encoding: forwards of the source's network.
        decoding: forwards of the target's network, for all images of the sequence; estimated by
            evenly spaced depths where the policy measures images to choose depths.
        bound: largest number of forwards that decoding can take.
    """

    encoding: int
    decoding: int
    bound: int

    @property
    def total(self) -> int:
        """Forwards of both networks."""
        return self.encoding + self.decoding


def forwards(source: GaussianDiffusion, target: GaussianDiffusion, recipe: Recipe) -> Forwards:
    """Return the forwards that one source image takes by a recipe, encoded and decoded."""
    depths, walk = recipe.depths.resolved(), recipe.walk
    amount, fixed = depths.amount, depths.fixed
    evenly = depth_policies.uniform(np.empty((target.num_timesteps, 1)), amount).values
    decoding = bound = decoding_forwards(target, walk, fixed or evenly)
    if depths.policy not in ("fixed", "uniform"):
        bound = amount * len(decode_moves(target, walk))
    encoding = encode_moves(source, walk, max(fixed, default=None))
    return Forwards(len(encoding), decoding, bound)


def decoding_forwards(
    diffusion: GaussianDiffusion, walk: WalkSettings, depths: Sequence[int]
) -> int:
    """Return the forwards of decoding one image from each depth: the moves that end below it."""
    moves = decode_moves(diffusion, walk)
    return sum(move.depth_next < depth for depth in depths for move in moves)


def flops(network: ModelSettings, process: ProcessSettings) -> int:
    """Return the FLOPs of one forward, without allocating the network."""
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not know fused attention on a CPU; on "meta" it counts the two products.
    with th.device("meta"), th.no_grad(), FlopCounterMode(display=False) as counter:
        model = build_network(network.replace(use_fp16=False), process.learn_sigma)
        labels = {"y": th.zeros(1, dtype=th.long)} if network.class_cond else {}
        images = th.empty(1, network.in_channels, network.image_size, network.image_size)
        model.eval()(images, th.zeros(1), **labels)
    return counter.get_total_flops()


def array_bytes(
    arrays: Collection[str], amount: int, tile_shape: tuple[int, int, int], count: int
) -> int:
    """Return the exact size of a translation's .npy files.

    Args:
        arrays: names of the files, among source, target, diffway and latent.
        amount: images per sequence.
        tile_shape: (C, H, W).
        count: number of source images.
    """
    entries, size = empty_entries(amount, tile_shape), 0
    for entry in map(entries.get, arrays):
        shape, header = (count, *entry.shape), io.BytesIO()
        description = {"descr": entry.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, description)
        size += header.tell() + count * entry.nbytes
    return size


def picture_bytes(amount: int, tile_shape: tuple[int, int, int], count: int) -> int:
    """Estimate the bytes of pictures and manifest; arguments as in `array_bytes`."""
    pixels = int(np.prod(tile_shape))
    return round(count * (amount + 1) * (PACKED * pixels + TEXT_BYTES))
