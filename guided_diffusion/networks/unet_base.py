"""Encoder of the U-Net and of the classifier; for conventions see `unet`."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .attention import AttentionBlock, Priority, set_priority
from .nn import (
    Downsample,
    ResBlock,
    SiLU,
    TimestepEmbedSequential,
    Upsample,
    conv_nd,
    convert_module_to_f16,
    convert_module_to_f32,
    linear,
    timestep_embedding,
)


class TimestepUNet(nn.Module):
    """Base of the U-Net and the classifier: time embedding, input blocks, middle block, precision.

    Args:
        image_size: side of x. The U-Net takes any size that its downsampling divides.
        in_channels: channels of x.
        model_channels: base width; must be a multiple of 32 after each multiplier.
        out_channels: channels of the result; for a U-Net with learned variance, twice the
            channels of a picture.
        num_res_blocks: number of residual blocks per resolution.
        attention_resolutions: downsampling factors (1, 2, 4, ...) at which to attend.
        dropout: probability of dropping an activation, in [0, 1).
        channel_mult: width multiplier of each resolution, finest first.
        conv_resample: resample with a convolution, where resblock_updown does not apply.
        dims: number of spatial dimensions of x.
        num_classes: number of classes to condition on, by labels from 0; None: no labels.
        use_checkpoint: recompute activations in the backward pass to save memory.
        use_fp16: run the blocks in float16; call `convert_to_fp16` before the first forward.
        num_heads: number of attention heads, where num_head_channels is -1.
        num_head_channels: channels per attention head, or -1.
        num_heads_upsample: number of heads in the decoder; -1 means num_heads.
        use_scale_shift_norm: scale and shift norms by the timestep embedding, instead of adding it.
        resblock_updown: resample inside residual blocks.
        use_new_attention_order: use the channel order "new" in qkv projections, see `attention`.
        hybrid: window and priority of hybrid attention, see `attention.HybridAttention`; the
            windows of every other block are shifted. None: standard attention.

    Raises:
        ValueError: if the heads do not divide the channels of a block that attends, or the
            settings of its hybrid attention are impossible.
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
        num_classes: int | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        hybrid: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.in_channels, self.out_channels = in_channels, out_channels
        self.model_channels, self.channel_mult = model_channels, channel_mult
        self.num_res_blocks, self.attention_resolutions = num_res_blocks, attention_resolutions
        self.dropout, self.conv_resample, self.dims = dropout, conv_resample, dims
        self.num_classes, self.use_checkpoint = num_classes, use_checkpoint
        self.dtype = torch.float16 if use_fp16 else torch.float32
        self.num_heads, self.num_head_channels = num_heads, num_head_channels
        self.num_heads_upsample = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.use_scale_shift_norm, self.resblock_updown = use_scale_shift_norm, resblock_updown
        self.use_new_attention_order, self.hybrid = use_new_attention_order, hybrid
        self._shifts = itertools.cycle((False, True))  # whether a block's windows are shifted

        emb = self.emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(linear(model_channels, emb), SiLU(), linear(emb, emb))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, self.emb_channels)
        # Channels of the results of the input blocks, in order; skip connections carry them.
        self.input_blocks, self._skip_channels = self._build_input_blocks()
        ch = self._skip_channels[-1]
        self.middle_block = TimestepEmbedSequential(
            self._res_block(ch), self._attention(ch, num_heads), self._res_block(ch)
        )
        self._feature_size = sum(self._skip_channels) + ch
        self._build_end()

    def _build_end(self) -> None:
        """Add the layers after the middle block; a hook for subclasses."""

    def _build_input_blocks(self) -> tuple[nn.ModuleList, list[int]]:
        widths = [int(mult * self.model_channels) for mult in self.channel_mult]
        stem = conv_nd(self.dims, self.in_channels, widths[0], 3, padding=1)
        blocks, channels = [TimestepEmbedSequential(stem)], [widths[0]]
        for level, width in enumerate(widths):
            for _ in range(self.num_res_blocks):
                layers = self._layers(channels[-1], width, 2**level, self.num_heads)
                blocks.append(TimestepEmbedSequential(*layers))
                channels.append(width)
            if level < len(widths) - 1:
                blocks.append(TimestepEmbedSequential(self._resample(width, Downsample)))
                channels.append(width)
        return nn.ModuleList(blocks), channels

    def _layers(self, channels: int, out: int, ds: int, num_heads: int) -> list[nn.Module]:
        """Build a residual block, and attention after it at the factors that ask for it."""
        attention = [self._attention(out, num_heads)] if ds in self.attention_resolutions else []
        return [self._res_block(channels, out_channels=out), *attention]

    def _res_block(self, channels: int, **kwargs: Any) -> ResBlock:
        return ResBlock(
            channels,
            self.emb_channels,
            self.dropout,
            dims=self.dims,
            use_checkpoint=self.use_checkpoint,
            use_scale_shift_norm=self.use_scale_shift_norm,
            **kwargs,
        )

    def _attention(self, channels: int, num_heads: int) -> AttentionBlock:
        return AttentionBlock(
            channels,
            num_heads=num_heads,
            num_head_channels=self.num_head_channels,
            use_checkpoint=self.use_checkpoint,
            use_new_attention_order=self.use_new_attention_order,
            hybrid=self.hybrid and {**self.hybrid, "shifted": next(self._shifts)},
        )

    def set_priority(self, priority: Priority) -> None:
        """Choose the priority of the network, see `attention.set_priority`."""
        set_priority(self, priority)

    def _resample(self, channels: int, kind: type[Upsample] | type[Downsample]) -> nn.Module:
        if self.resblock_updown:
            return self._res_block(channels, up=kind is Upsample, down=kind is Downsample)
        return kind(channels, self.conv_resample, self.dims)

    @property
    def inner_dtype(self) -> torch.dtype:
        """The dtype of the blocks' weights, by improved-diffusion's name."""
        return next(self.input_blocks.parameters()).dtype

    def _float16_parts(self) -> list[nn.Module]:
        return [self.input_blocks, self.middle_block]

    def convert_to_fp16(self) -> None:
        """Cast the blocks' convolutions to float16; norms, embeddings and the end stay float32."""
        for part in self._float16_parts():
            part.apply(convert_module_to_f16)
        self.dtype = torch.float16

    def convert_to_fp32(self) -> None:
        """Cast the blocks' convolutions back to float32."""
        for part in self._float16_parts():
            part.apply(convert_module_to_f32)
        self.dtype = torch.float32

    def _encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """Compute the results of all input blocks, then of the middle block, in their dtype."""
        features = [x.to(self.dtype)]
        for block in [*self.input_blocks, self.middle_block]:
            features.append(block(features[-1], emb))
        return features[1:]

    def _embed(self, timesteps: Tensor) -> Tensor:
        return self.time_embed(timestep_embedding(timesteps, self.model_channels))
