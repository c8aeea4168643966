"""The networks with improved-diffusion's arguments: no image size, and heads by number alone.

Their state dicts fit guided-diffusion's networks with the legacy attention order.
"""

from collections.abc import Collection, Sequence
from typing import Any

from .. import unet
from .._porch import star_of
from ..nn import SiLU
from ..unet import *

__all__ = star_of(__name__)


class QKVAttention(unet.QKVAttentionLegacy):
    """Attention of one head, [N, 3 * C, T] -> [N, C, T]; several heads are laid along N."""

    def __init__(self) -> None:
        super().__init__(n_heads=1)


class AttentionBlock(unet.AttentionBlock):
    """`guided_diffusion.unet.AttentionBlock` with improved-diffusion's arguments."""

    def __init__(self, channels: int, num_heads: int = 1, use_checkpoint: bool = False) -> None:
        super().__init__(channels, num_heads, use_checkpoint=use_checkpoint)


class UNetModel(unet.UNetModel):
    """`guided_diffusion.unet.UNetModel` with improved-diffusion's arguments."""

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
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        super().__init__(image_size=None, **given)


class SuperResModel(unet.SuperResModel, UNetModel):
    """`guided_diffusion.unet.SuperResModel` with improved-diffusion's arguments."""

    def __init__(self, in_channels: int, *args: Any, **kwargs: Any) -> None:
        UNetModel.__init__(self, 2 * in_channels, *args, **kwargs)
