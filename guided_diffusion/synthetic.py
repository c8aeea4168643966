"""DDIB's network for points of the plane: a perceptron with residual blocks that know the time.

Conventions: points and activations are [N, C] vectors; `t` is the diffusion timestep of each
point as the diffusion hands it over (0 is the clean end). Parameters are named as in the U-Net.
"""

import torch
from torch import Tensor, nn

from .nn import (
    SiLU,
    TimestepBlock,
    TimestepEmbedSequential,
    checkpoint,
    linear,
    timestep_embedding,
    zero_module,
)

__all__ = ["ResBlock", "SyntheticModel", "TimestepBlock", "TimestepEmbedSequential"]


class ResBlock(TimestepBlock):
    """Two linear layers with the timestep added between them, around a skip connection.

    Args:
        channels: of the input.
        emb_channels: width of the timestep embedding.
        dropout: probability of dropping an activation before the second layer.
        out_channels: of the result; `channels` if not given.
        use_checkpoint: recompute the block's activations in the backward pass.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        out = self.out_channels = out_channels or channels
        self.use_checkpoint = use_checkpoint
        self.in_layers = nn.Sequential(nn.LayerNorm(channels), SiLU(), linear(channels, out))
        self.emb_layers = nn.Sequential(SiLU(), linear(emb_channels, out))
        last = zero_module(linear(out, out))
        self.out_layers = nn.Sequential(nn.LayerNorm(out), SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = nn.Identity() if out == channels else linear(channels, out)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[N, channels] and [N, emb_channels], or [1, emb_channels] -> [N, out_channels]."""
        return checkpoint(self._forward, (x, emb), self.parameters(), self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)
        return self.skip_connection(x) + self.out_layers(h)


class SyntheticModel(nn.Module):
    """The denoising network of points.

    Args:
        in_channels: coordinates of a point.
        model_channels: width.
        out_channels: of the result; with learned variance, twice the coordinates.
        num_res_blocks: residual blocks.
        dropout: probability, in [0, 1].
        use_checkpoint: recompute activations in the backward pass to save memory.
        use_fp16: run the blocks in float16; call `convert_to_fp16` before the first forward.

    Reference: Su et al. 2023, "Dual Diffusion Implicit Bridges", https://arxiv.org/abs/2203.08382
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        dropout: float = 0,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.model_channels = model_channels
        self.dtype = torch.float16 if use_fp16 else torch.float32
        self.time_embed = nn.Sequential(
            linear(model_channels, model_channels), SiLU(), linear(model_channels, model_channels)
        )
        blocks = [
            ResBlock(model_channels, model_channels, dropout, use_checkpoint=use_checkpoint)
            for _ in range(num_res_blocks)
        ]
        first = linear(in_channels, model_channels)
        self.input_blocks = nn.ModuleList(TimestepEmbedSequential(b) for b in (first, *blocks))
        last = zero_module(linear(model_channels, out_channels))
        self.out = nn.Sequential(nn.LayerNorm(model_channels), SiLU(), last)

    def convert_to_fp16(self) -> None:
        """Cast the blocks to float16; the embedding and the last layers stay float32."""
        self.input_blocks.half()
        self.dtype = torch.float16

    def convert_to_fp32(self) -> None:
        """Cast the blocks back to float32."""
        self.input_blocks.float()
        self.dtype = torch.float32

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Predict from noisy points.

        Args:
            x: [N, in_channels].
            timesteps: [N].

        Returns:
            [N, out_channels], in x's dtype.
        """
        h, emb = x.to(self.dtype), self._embed(timesteps).to(self.dtype)
        for block in self.input_blocks:
            h = block(h, emb)
        return self.out(h.float()).to(x.dtype)

    def _embed(self, timesteps: Tensor) -> Tensor:
        # A point is so small that embedding its time would be most of the work; each distinct
        # time is embedded once, and one time for all, as in sampling, stays a single row.
        distinct, place = timesteps.unique(return_inverse=True)
        emb = self.time_embed(timestep_embedding(distinct, self.model_channels))
        return emb if len(distinct) == 1 else emb[place]
