"""DDIB's network for points of the plane, or for colours: a U-Net of linear layers.

Conventions: points and activations are [N, C] vectors. Timesteps come from the diffusion process;
0 is the clean end. Parameters are named as in the U-Net.
"""

import torch
from torch import Tensor, nn

from .nn import (
    SiLU,
    TimestepBlock,
    TimestepEmbedSequential,
    checkpoint,
    linear,
    normalization,
    timestep_embedding,
    zero_module,
)


class ResBlock(TimestepBlock):
    """Two linear layers with the timestep added between them, around a skip connection.

    For arguments see `nn.ResBlock`; widths are multiples of 32.
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
        self.channels, self.emb_channels, self.dropout = channels, emb_channels, dropout
        self.use_checkpoint = use_checkpoint
        self.in_layers = nn.Sequential(normalization(channels), SiLU(), linear(channels, out))
        self.emb_layers = nn.Sequential(SiLU(), linear(emb_channels, out))
        last = zero_module(linear(out, out))
        self.out_layers = nn.Sequential(normalization(out), SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = nn.Identity() if out == channels else linear(channels, out)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Apply the block: [N, channels], [N or 1, emb_channels] -> [N, out_channels]."""
        return checkpoint(self._forward, (x, emb), self.parameters(), self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)
        return self.skip_connection(x) + self.out_layers(h)


class SyntheticModel(nn.Module):
    """The denoising network of points.

    As in DDIB, the only skip connection leads from just before the middle block to just after it;
    none starts at the first layer.

    Args:
        in_channels: number of coordinates of a point.
        model_channels: width of the input blocks, a multiple of 32; output blocks are twice as
            wide.
        out_channels: channels of the result; with learned variance, twice the coordinates.
        num_res_blocks: number of residual blocks before the middle block, and after it.
        dropout: probability of dropping an activation, in [0, 1].
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
        self.model_channels, self.num_res_blocks = model_channels, num_res_blocks
        self.dropout, self.use_checkpoint = dropout, use_checkpoint
        self.dtype = torch.float16 if use_fp16 else torch.float32
        embed = [linear(model_channels, model_channels) for _ in range(2)]
        self.time_embed = nn.Sequential(embed[0], SiLU(), embed[1])
        first = TimestepEmbedSequential(linear(in_channels, model_channels))
        self.input_blocks = nn.ModuleList([first, self._blocks(model_channels, num_res_blocks)])
        self.middle_block = self._blocks(model_channels, 2)
        self.output_blocks = nn.ModuleList([self._blocks(2 * model_channels, num_res_blocks)])
        last = zero_module(linear(2 * model_channels, out_channels))
        self.out = nn.Sequential(normalization(2 * model_channels), SiLU(), last)

    def _blocks(self, width: int, count: int) -> TimestepEmbedSequential:
        args, checkpointed = (width, self.model_channels, self.dropout), self.use_checkpoint
        blocks = (ResBlock(*args, use_checkpoint=checkpointed) for _ in range(count))
        return TimestepEmbedSequential(*blocks)

    def _float16_parts(self) -> list[nn.Module]:
        return [self.input_blocks, self.middle_block, self.output_blocks]

    def convert_to_fp16(self) -> None:
        """Cast the blocks to float16; the embedding and the last layers stay float32."""
        for part in self._float16_parts():
            part.half()
        self.dtype = torch.float16

    def convert_to_fp32(self) -> None:
        """Cast the blocks back to float32."""
        for part in self._float16_parts():
            part.float()
        self.dtype = torch.float32

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Predict from noisy points: [N, in_channels] and [N] -> [N, out_channels], x's dtype."""
        h, emb = x.to(self.dtype), self._embed(timesteps).to(self.dtype)
        for block in self.input_blocks:
            h = block(h, emb)
        skip = h
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skip], dim=1), emb)  # [N, 2 * model_channels]
        return self.out(h.float()).to(x.dtype)

    def _embed(self, timesteps: Tensor) -> Tensor:
        # Points are so small that embedding their timesteps would be most of the work. Each
        # distinct one is embedded once; if there is only one, as in sampling, it stays one row.
        distinct, place = timesteps.unique(return_inverse=True)
        emb = self.time_embed(timestep_embedding(distinct, self.model_channels))
        return emb if len(distinct) == 1 else emb[place]
