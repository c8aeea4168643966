"""The networks: a U-Net, its super-resolution variant, and its encoder half as a classifier.

Conventions: pictures are [N, C, H, W] in [-1, 1]. `timesteps` [N] come from the diffusion process:
0 is the clean end, and values may be rescaled or fractional. `emb` [N, E] is their learned
embedding. Attention is placed by downsampling factor: a block at factor `ds` sees feature maps of
H / ds by W / ds.

Reference: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis",
https://arxiv.org/abs/2105.05233, section 3; Ho et al. 2020, https://arxiv.org/abs/2006.11239.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionPool2d
from .nn import SiLU, TimestepEmbedSequential, Upsample, conv_nd, linear, normalization, zero_module
from .unet_base import TimestepUNet

ENCODER_POOLS = ("adaptive", "attention", "spatial", "spatial_v2")


class UNetModel(TimestepUNet):
    """The denoising network: encoder and decoder joined by skip connections.

    For arguments see `TimestepUNet`.
    """

    def _build_end(self) -> None:
        blocks, skips = [], list(self._skip_channels)
        ch = skips[-1]
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            width = int(mult * self.model_channels)
            for i in range(self.num_res_blocks + 1):
                layers = self._layers(ch + skips.pop(), width, 2**level, self.num_heads_upsample)
                if level and i == self.num_res_blocks:
                    layers.append(self._resample(width, Upsample))
                blocks.append(TimestepEmbedSequential(*layers))
                ch = width
        self.output_blocks = nn.ModuleList(blocks)
        last = zero_module(conv_nd(self.dims, ch, self.out_channels, 3, padding=1))
        self.out = nn.Sequential(normalization(ch), SiLU(), last)

    def _float16_parts(self) -> list[nn.Module]:
        return [*super()._float16_parts(), self.output_blocks]

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict from noisy pictures.

        Args:
            x: noisy pictures [N, in_channels, H, W].
            timesteps: timesteps [N].
            y: labels [N], if and only if the model is class-conditional.

        Returns:
            [N, out_channels, H, W], in x's dtype.

        Raises:
            ValueError: if y does not fit the model or x, or H or W is not divisible as needed.
        """
        emb = self._condition(x, timesteps, y)
        skips = self._encode(x, emb)
        h = skips.pop()
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        if self.dtype != x.dtype:  # after blocks of float16; a dtype that autocast chose stays
            h = h.to(x.dtype)
        return self.out(h).to(x.dtype)

    def get_feature_vectors(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> dict:
        """Compute the results of all blocks, in x's dtype; for arguments see `forward`.

        Returns:
            {"down": list of the input blocks' results [N, C, h, w], "middle": the middle block's,
            "up": list of the output blocks'}.
        """
        emb = self._condition(x, timesteps, y)
        *down, middle = self._encode(x, emb)
        up = [middle]
        for block, skip in zip(self.output_blocks, reversed(down), strict=True):
            up.append(block(torch.cat([up[-1], skip], dim=1), emb))
        down, (middle, *up) = ([h.to(x.dtype) for h in hs] for hs in (down, up))
        return {"down": down, "middle": middle, "up": up}

    def _condition(self, x: Tensor, timesteps: Tensor, y: Tensor | None) -> Tensor:
        """Check the inputs, and embed timesteps and labels."""
        if (y is None) != (self.num_classes is None):
            expected = "no labels" if self.num_classes is None else f"[{x.shape[0]}] labels"
            found = "None" if y is None else f"labels of shape {list(y.shape)}"
            expected += f" for num_classes={self.num_classes}"
            raise ValueError(f"y: expected {expected}, got {found}")
        if y is not None and y.shape != x.shape[:1]:
            expected = f"shape {list(x.shape[:1])}, one label per example"
            raise ValueError(f"y: expected {expected}, got {list(y.shape)}")
        factor = 2 ** (len(self.channel_mult) - 1)
        resized = x.shape[2:][-2:]  # the first of three spatial dimensions keeps its size
        if any(size % factor for size in resized):
            expected = f"height and width divisible by {factor}, the network's downsampling"
            raise ValueError(f"x: expected {expected}, got {'x'.join(map(str, resized))}")
        emb = self._embed(timesteps)
        return emb if y is None else emb + self.label_emb(y)


class SuperResModel(UNetModel):
    """A U-Net that sees a low-resolution picture, enlarged bilinearly, next to x.

    Args:
        image_size: side of the large picture.
        in_channels: channels of x, and of the low-resolution picture.
        *args, **kwargs: further arguments of `UNetModel`.
    """

    def __init__(self, image_size: int, in_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(image_size, 2 * in_channels, *args, **kwargs)

    def forward(
        self, x: Tensor, timesteps: Tensor, low_res: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Predict from noisy pictures and their low-resolution versions.

        For other arguments see `UNetModel.forward`.

        Args:
            low_res: low-resolution pictures [N, C, h, w].

        Raises:
            ValueError: as `UNetModel.forward`, or if low_res is missing.
        """
        return super().forward(_join(x, low_res), timesteps, **kwargs)

    def get_feature_vectors(
        self, x: Tensor, timesteps: Tensor, low_res: Tensor | None = None, **kwargs: Any
    ) -> dict:
        """Compute the results of all blocks, see `UNetModel`; for arguments see `forward`."""
        return super().get_feature_vectors(_join(x, low_res), timesteps, **kwargs)


def _join(x: Tensor, low_res: Tensor | None) -> Tensor:
    """Put the enlarged low_res [N, C, h, w] behind the channels of x: [N, 2 * C, H, W]."""
    if low_res is None:
        raise ValueError("low_res: expected the low-resolution pictures, got None")
    return torch.cat([x, F.interpolate(low_res, x.shape[2:], mode="bilinear")], dim=1)


class EncoderUNetModel(TimestepUNet):
    """The encoder half of the U-Net under a pooling head: a noise-aware classifier.

    Args:
        image_size: side of x; used by the attention pool only.
        out_channels: number of logits.
        num_heads_upsample: no effect.
        pool: kind of the head: "adaptive" averages the middle block's result, "attention" attends
            from its mean, "spatial" and "spatial_v2" run a two-layer network on the averages of all
            blocks' results.

    For other arguments see `TimestepUNet`.

    Raises:
        ValueError: if the pool is unknown, or is "attention" without num_head_channels.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Collection[int],
        dropout: float = 0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        dims: int = 2,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        pool: str = "adaptive",
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "pool", "__class__")}
        if pool not in ENCODER_POOLS:
            raise ValueError(f"pool: expected one of {', '.join(ENCODER_POOLS)}, got {pool!r}")
        if pool == "attention" and num_head_channels == -1:
            raise ValueError("num_head_channels: expected a width for the attention pool, got -1")
        super().__init__(**given)
        self.pool = pool
        ch, width = self._skip_channels[-1], self._feature_size
        if pool == "adaptive":
            last = zero_module(conv_nd(dims, ch, out_channels, 1))
            average = nn.AdaptiveAvgPool2d((1, 1))
            layers = [normalization(ch), SiLU(), average, last, nn.Flatten()]
        elif pool == "attention":
            side = image_size // 2 ** (len(channel_mult) - 1)
            attention = AttentionPool2d(side, ch, num_head_channels, out_channels)
            layers = [normalization(ch), SiLU(), attention]
        else:
            between = [nn.ReLU()] if pool == "spatial" else [normalization(2048), SiLU()]
            layers = [linear(width, 2048), *between, linear(2048, out_channels)]
        self.out = nn.Sequential(*layers)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Classify noisy pictures: [N, in_channels, H, W] and [N] -> [N, out_channels] logits.

        Raises:
            ValueError: if an attention pool gets pictures of another size than image_size.
        """
        features = self._encode(x, self._embed(timesteps))
        if self.pool.startswith("spatial"):
            features = [torch.cat([h.to(x.dtype).mean(dim=(2, 3)) for h in features], dim=1)]
        return self.out(features[-1].to(x.dtype)).to(x.dtype)
