"""Self-attention over the positions of a feature map.

Conventions: feature maps are [N, C, *spatial] and are flattened to T = prod(spatial) positions.
A projection holds queries, keys and values as the channels of one [N, 3 * H * D, T] tensor, for H
heads of D channels, in one of two orders:

    legacy: [H, 3, D], each head's query, key and value lie together
    new:    [3, H, D], all queries, then all keys, then all values

Attention runs in three pieces, `split_heads`, `attend`, `merge_heads`; an order is known to the
first alone. The memory behind [N, C, T] tensors is position-major here, as in channels_last images,
because the fused kernels want D to be the innermost dimension.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nn import checkpoint, normalization, zero_module

QKVOrder = Literal["legacy", "new"]


def split_heads(qkv: Tensor, n_heads: int, order: QKVOrder) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a joint projection into queries, keys and values.

    Args:
        qkv: [N, 3 * H * D, T]; a view is returned where its memory is position-major.
        n_heads: H.
        order: what the channels mean, "legacy" or "new" (see the module's docstring).

    Returns:
        Three tensors [N, H, T, D].

    Raises:
        ValueError: if the channels are not 3 * H equal parts, or the order is unknown.
    """
    n, width, length = qkv.shape
    if width % (3 * n_heads):
        raise ValueError(f"qkv channels: expected a multiple of 3 * {n_heads} heads, got {width}")
    if order not in get_args(QKVOrder):
        raise ValueError(f"qkv order: expected one of {get_args(QKVOrder)}, got {order!r}")
    tokens = qkv.transpose(1, 2).contiguous()  # [N, T, 3 * H * D]
    if order == "legacy":
        q, k, v = tokens.view(n, length, n_heads, 3, -1).unbind(3)
    else:
        q, k, v = tokens.view(n, length, 3, n_heads, -1).unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def reorder_rows(rows: Tensor, n_heads: int, order: QKVOrder) -> Tensor:
    """Rewrite a projection's weight or bias from one channel order to the other.

    Args:
        rows: [3 * H * D, ...], in `order`.
        n_heads: H.
        order: "legacy" or "new", what the rows are; the result is the other.

    Returns:
        A copy in which the rows stand elsewhere, bit for bit the same.
    """
    leading = (n_heads, 3) if order == "legacy" else (3, n_heads)
    return rows.unflatten(0, (*leading, -1)).transpose(0, 1).flatten(0, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for [N, H, T, D] tensors; q may have fewer positions.

    Reference: Vaswani et al. 2017, "Attention Is All You Need", equation 1.
    """
    return F.scaled_dot_product_attention(q, k, v)


def merge_heads(heads: Tensor) -> Tensor:
    """[N, H, T, D] -> [N, H * D, T]."""
    return heads.transpose(1, 2).flatten(2).transpose(1, 2)


def count_flops_attn(model: nn.Module, _x: Any, y: Tensor | Sequence[Tensor]) -> None:
    """Add an attention's multiply-adds to `model.total_ops`; a `thop.profile` custom op.

    Args:
        model: an attention module that thop gave a `total_ops` tensor.
        _x: its inputs, not used.
        y: its output [N, C, *spatial], bare or as the first of a sequence.
    """
    n, channels, *spatial = (y if isinstance(y, Tensor) else y[0]).shape
    # Two products of the same size: queries with keys, and weights with values.
    operations = 2 * n * math.prod(spatial) ** 2 * channels
    model.total_ops += torch.tensor([operations], dtype=torch.float64)


class _OrderedAttention(nn.Module):
    """[N, 3 * H * D, T] -> [N, H * D, T] with the channel order of the subclass."""

    order: ClassVar[QKVOrder]

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def forward(self, qkv: Tensor) -> Tensor:
        return merge_heads(attend(*split_heads(qkv, self.n_heads, self.order)))

    @staticmethod
    def count_flops(model: nn.Module, _x: Any, y: Tensor | Sequence[Tensor]) -> None:
        """See `count_flops_attn`."""
        count_flops_attn(model, _x, y)


class QKVAttentionLegacy(_OrderedAttention):
    """Attention on a projection whose channels are ordered [H, 3, D]."""

    order = "legacy"


class QKVAttention(_OrderedAttention):
    """Attention on a projection whose channels are ordered [3, H, D]."""

    order = "new"


class _PointwiseConv1d(nn.Conv1d):
    """A kernel-size-1 Conv1d computed as one matrix product, with a position-major result.

    Parameters, keys and initialisation are Conv1d's. The plain kernel returns channel-major memory,
    which every fused attention kernel would have to copy.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(1, 2).contiguous()  # [N, T, C]
        return F.linear(tokens, self.weight.squeeze(2), self.bias).transpose(1, 2)


class AttentionBlock(nn.Module):
    """Residual self-attention between all positions of a feature map.

    Args:
        channels: of input and output.
        num_heads: heads, where num_head_channels is -1.
        num_head_channels: channels of one head; sets the number of heads unless it is -1.
        use_checkpoint: recompute the block's activations in the backward pass.
        use_new_attention_order: whether the projection's order is "new" rather than "legacy".

    Raises:
        ValueError: if the channels cannot be cut into equal heads as asked.

    Reference: Dhariwal and Nichol 2021, https://arxiv.org/abs/2105.05233, section 3.1.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        num_head_channels: int = -1,
        use_checkpoint: bool = False,
        use_new_attention_order: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.num_heads = count_heads(channels, num_heads, num_head_channels)
        self.use_checkpoint = use_checkpoint
        self.norm = normalization(channels)
        self.qkv = _PointwiseConv1d(channels, 3 * channels)
        attention = QKVAttention if use_new_attention_order else QKVAttentionLegacy
        self.attention = attention(self.num_heads)
        self.proj_out = zero_module(_PointwiseConv1d(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, *spatial] -> the same shape."""
        return checkpoint(self._forward, (x,), self.parameters(), self.use_checkpoint)

    def _forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2)  # [N, C, T]
        h = self.proj_out(self.attention(self.qkv(h)))
        return x + h.reshape(x.shape)


def count_heads(channels: int, num_heads: int, num_head_channels: int) -> int:
    """Return the number of heads of a block of so many channels.

    Raises:
        ValueError: if the channels cannot be cut into equal heads as asked.
    """
    if num_head_channels == -1:
        if num_heads < 1 or channels % num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of the block's {channels} channels, got {num_heads}"
            )
        return num_heads
    if num_head_channels < 1 or channels % num_head_channels:
        raise ValueError(
            f"num_head_channels: expected -1 or a divisor of the block's {channels} channels, "
            f"got {num_head_channels}"
        )
    return channels // num_head_channels


class AttentionPool2d(nn.Module):
    """Pool a feature map by letting its mean attend to all of its positions.

    Args:
        spacial_dim: height and width of the feature map.
        embed_dim: its channels C.
        num_heads_channels: channels of one head.
        output_dim: channels of the result; C if not given.

    Raises:
        ValueError: if embed_dim is not a multiple of num_heads_channels.

    Reference: Radford et al. 2021 (CLIP), https://arxiv.org/abs/2103.00020, section 2.4.
    """

    def __init__(
        self,
        spacial_dim: int,
        embed_dim: int,
        num_heads_channels: int,
        output_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = count_heads(embed_dim, 1, num_heads_channels)
        self.positional_embedding = nn.Parameter(
            torch.randn(embed_dim, spacial_dim**2 + 1) / embed_dim**0.5
        )
        self.qkv_proj = _PointwiseConv1d(embed_dim, 3 * embed_dim)
        self.c_proj = _PointwiseConv1d(embed_dim, output_dim or embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, spacial_dim, spacial_dim] -> [N, output_dim].

        Raises:
            ValueError: if x has another number of positions.
        """
        positions = self.positional_embedding.shape[1] - 1
        if math.prod(x.shape[2:]) != positions:
            side = math.isqrt(positions)
            raise ValueError(
                f"attention pool: expected a feature map of {side}x{side}, "
                f"got {'x'.join(map(str, x.shape[2:]))}"
            )
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=2, keepdim=True), x], dim=2)  # [N, C, T + 1], the mean first
        x = x + self.positional_embedding.to(x.dtype)
        q, k, v = split_heads(self.qkv_proj(x), self.num_heads, "new")
        pooled = merge_heads(attend(q[:, :, :1], k, v))  # the mean's query is the only one read
        return self.c_proj(pooled).squeeze(2)
