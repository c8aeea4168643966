"""What a generation run costs, counted before it starts: forwards, FLOPs, bytes on disk.

A forward is one image going once through one network, whatever the batch that it goes in. A FLOP is
one addition or one multiplication. What depends on depths that are not chosen yet is an estimate
and a bound.
"""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..models.script_util import create_model_and_diffusion
from ..translation import depth_policies
from ..translation.sequences import Recipe
from ..translation.walks import Engine, decode_moves, encode_moves
from .export import array_entries

PACKED = 0.7  # size of a PNG of tissue over that of its pixels
TEXT_BYTES = 1000  # of a picture: its provenance, and its row of the manifest


@dataclass(frozen=True)
class Forwards:
    """Forwards that one source image takes.

    Attributes:
        encoding: through the source's network.
        decoding: through the target's, of all images of the sequence; an estimate where the
            policy chooses depths by what it measures: those of evenly spaced depths.
        bound: what decoding takes at most.
    """

    encoding: int
    decoding: int
    bound: int

    @property
    def total(self) -> int:
        """Through both networks."""
        return self.encoding + self.decoding


def forwards(source: GaussianDiffusion, target: GaussianDiffusion, recipe: Recipe) -> Forwards:
    """Return what one source image takes by a recipe.

    Args:
        source: process that encodes.
        target: process that decodes.
        recipe: how.
    """
    evenly = depth_policies.uniform(np.empty((target.num_timesteps, 1)), recipe.amount).values
    decoding = decoding_forwards(target, recipe.engine, evenly)
    full = recipe.amount * len(decode_moves(target, recipe.engine))
    return Forwards(
        len(encode_moves(source, recipe.engine)),
        decoding,
        decoding if recipe.depth_policy == "uniform" else full,
    )


def decoding_forwards(diffusion: GaussianDiffusion, engine: Engine, depths: Sequence[int]) -> int:
    """Return the forwards of decoding one image from each depth: a move for each level below."""
    visited = [move.depth for move in decode_moves(diffusion, engine)[1:]]
    return sum(sum(level < d for level in [*visited, 0]) for d in depths)


def flops(args: Mapping[str, Any]) -> int:
    """Return the FLOPs of one forward, without allocating the network.

    Args:
        args: the flags of network and process, as in `Domain.args`.
    """
    from torch.utils.flop_counter import FlopCounterMode

    side = args["image_size"]
    # On "meta" attention is counted as its two products; the counter knows no fused one of a CPU.
    with th.device("meta"), th.no_grad(), FlopCounterMode(display=False) as counter:
        network, _ = create_model_and_diffusion(**{**args, "use_fp16": False})
        labels = {"y": th.zeros(1, dtype=th.long)} if args["class_cond"] else {}
        network.eval()(th.empty(1, args["in_channels"], side, side), th.zeros(1), **labels)
    return counter.get_total_flops()


def array_bytes(
    arrays: Collection[str], amount: int, tile_shape: tuple[int, int, int], count: int
) -> int:
    """Return the exact size of a translation's .npy files.

    Args:
        arrays: which, of source, target, diffway and latent.
        amount: images per sequence.
        tile_shape: (C, H, W).
        count: source images.
    """
    entries = array_entries(amount, tile_shape)
    return sum(_npy_bytes(entries[name], count) for name in arrays)


def _npy_bytes(entry: np.ndarray, count: int) -> int:
    shape, header = (count, *entry.shape), io.BytesIO()
    description = {"descr": entry.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.tell() + count * entry.nbytes


def picture_bytes(amount: int, tile_shape: tuple[int, int, int], count: int) -> int:
    """Return about how much room pictures and manifest take; arguments as in `array_bytes`."""
    pixels = int(np.prod(tile_shape))
    return round(count * (amount + 1) * (PACKED * pixels + TEXT_BYTES))
