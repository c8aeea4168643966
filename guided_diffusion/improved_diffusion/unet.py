"""The networks with improved-diffusion's arguments: no image size, and heads by number alone.

State dicts are those of guided-diffusion's networks in the legacy order of channels.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch as th
import torch.nn as nn
import torch.nn.functional as F

from .. import unet
from ..nn import SiLU
from ..unet import (
    Downsample,
    ResBlock,
    TimestepBlock,
    TimestepEmbedSequential,
    Upsample,
    avg_pool_nd,
    checkpoint,
    conv_nd,
    convert_module_to_f16,
    convert_module_to_f32,
    linear,
    normalization,
    timestep_embedding,
    zero_module,
)


class QKVAttention(unet.QKVAttentionLegacy):
    """Attention of one head, [N, 3 * C, T] -> [N, C, T]; heads go into N."""

    def __init__(self) -> None:
        super().__init__(n_heads=1)


class AttentionBlock(unet.AttentionBlock):
    """See `guided_diffusion.unet.AttentionBlock`."""

    def __init__(self, channels: int, num_heads: int = 1, use_checkpoint: bool = False) -> None:
        super().__init__(channels, num_heads, use_checkpoint=use_checkpoint)


class UNetModel(unet.UNetModel):
    """See `guided_diffusion.unet.UNetModel`."""

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Collection[int],
        dropout: float = 0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        dims: int = 2,
        num_classes: int | None = None,
        use_checkpoint: bool = False,
        num_heads: int = 1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
    ) -> None:
        super().__init__(
            None,
            in_channels,
            model_channels,
            out_channels,
            num_res_blocks,
            attention_resolutions,
            dropout,
            channel_mult,
            conv_resample,
            dims,
            num_classes,
            use_checkpoint,
            num_heads=num_heads,
            num_heads_upsample=num_heads_upsample,
            use_scale_shift_norm=use_scale_shift_norm,
        )


class SuperResModel(unet.SuperResModel, UNetModel):
    """See `guided_diffusion.unet.SuperResModel`."""

    def __init__(self, in_channels: int, *args: Any, **kwargs: Any) -> None:
        UNetModel.__init__(self, 2 * in_channels, *args, **kwargs)
