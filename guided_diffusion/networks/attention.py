"""Self-attention over the positions of a feature map.

Conventions: feature maps are [N, C, *spatial] and are flattened to T = prod(spatial) positions.
A projection holds queries, keys and values as the channels of one [N, 3 * H * D, T] tensor, for H
heads of D channels, in one of two orders:

    legacy: [H, 3, D], each head's query, key and value lie together
    new:    [3, H, D], all queries, then all keys, then all values

Attention runs in three pieces, `split_heads`, `attend` and `merge_heads`; only the first depends on
the order. The memory behind [N, C, T] tensors is position-major here, as in channels_last images,
because the fused kernels want D to be the innermost dimension.

Standard attention is between all positions. Hybrid attention blends it, head by head, with
attention inside windows (see `window_grid`). A priority is a set of weights of the blend, named
after its start: `global` starts with attention between all positions, `local` with windows. In a
network that holds both sets, `set_priority` chooses the one in use.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ArgumentError
from .nn import checkpoint, normalization, zero_module
from .window_grid import WindowGrid

QKVOrder = Literal["legacy", "new"]
_ORDERS = get_args(QKVOrder)  # here: torch.compile cannot trace get_args before torch 2.5
Priority = Literal["global", "local"]

KINDS = ("standard", "hybrid")  # attention between all positions, or blended with windows
# Setting -> for each priority that a block then holds, the share of windows that it starts with.
STARTS: dict[str, dict[Priority, float]] = {
    "global": {"global": 0.0},
    "local": {"local": 1.0},
    "both": {"global": 0.0, "local": 1.0},
}


def split_heads(qkv: Tensor, n_heads: int, order: QKVOrder) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a joint projection [N, 3 * H * D, T] into queries, keys and values [N, H, T, D].

    The results are views where the projection's memory is position-major.

    Raises:
        ValueError: if the channels are not 3 * H equal parts, or the order is unknown.
    """
    n, width, length = qkv.shape
    if width % (3 * n_heads):
        raise ValueError(f"qkv channels: expected a multiple of 3 * {n_heads} heads, got {width}")
    if order not in _ORDERS:
        raise ValueError(f"qkv order: expected one of {_ORDERS}, got {order!r}")
    tokens = qkv.transpose(1, 2).contiguous()  # [N, T, 3 * H * D]
    if order == "legacy":
        q, k, v = tokens.view(n, length, n_heads, 3, -1).unbind(3)
    else:
        q, k, v = tokens.view(n, length, 3, n_heads, -1).unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def reorder_rows(rows: Tensor, n_heads: int, order: QKVOrder) -> Tensor:
    """Rewrite a projection's weight or bias from one channel order to the other.

    Args:
        rows: weight or bias [3 * H * D, ...], in `order`; the result is a copy in the other order.
        n_heads: number of heads, H.
        order: channel order of `rows`.
    """
    leading = (n_heads, 3) if order == "legacy" else (3, n_heads)
    return rows.unflatten(0, (*leading, -1)).transpose(0, 1).flatten(0, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute softmax(q k^T / sqrt(D)) v.

    Args:
        q, k, v: queries, keys and values [N, H, T, D]; q may have fewer positions.
        mask: [N, 1, T, T], true where a query (row) sees a key; None: it sees all.

    Reference: Vaswani et al. 2017, "Attention Is All You Need", equation 1.
    """
    return F.scaled_dot_product_attention(q, k, v, mask)


def attend_in_windows(
    q: Tensor, k: Tensor, v: Tensor, spatial: Sequence[int], window: int, shifted: bool = False
) -> Tensor:
    """Attend inside each window of a grid; for arguments see `attend` and `WindowGrid`."""
    grid = WindowGrid(spatial, window, shifted)
    heads = attend(*(grid.cut(x) for x in (q, k, v)), grid.mask(len(q), q.device))
    return grid.join(heads)


def merge_heads(heads: Tensor) -> Tensor:
    """Put heads together: [N, H, T, D] -> [N, H * D, T]."""
    return heads.transpose(1, 2).flatten(2).transpose(1, 2)


def count_flops_attn(model: nn.Module, _x: Any, y: Tensor | Sequence[Tensor]) -> None:
    """Add an attention's multiply-adds to `model.total_ops`; a `thop.profile` custom op.

    Args:
        model: an attention module that thop gave a `total_ops` tensor.
        _x: input of the module; not used.
        y: output of the module [N, C, *spatial], alone or as the first of a sequence.
    """
    n, channels, *spatial = (y if isinstance(y, Tensor) else y[0]).shape
    # Two products of the same size: queries with keys, and weights with values.
    operations = 2 * n * math.prod(spatial) ** 2 * channels
    model.total_ops += torch.tensor([operations], dtype=torch.float64)


class _OrderedAttention(nn.Module):
    """Attention [N, 3 * H * D, T] -> [N, H * D, T], with the channel order of the subclass."""

    order: ClassVar[QKVOrder]
    count_flops = staticmethod(count_flops_attn)

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def forward(self, qkv: Tensor, _spatial: Sequence[int] = ()) -> Tensor:
        return merge_heads(attend(*split_heads(qkv, self.n_heads, self.order)))


class QKVAttentionLegacy(_OrderedAttention):
    """Attention on a projection whose channels are ordered [H, 3, D]."""

    order = "legacy"


class QKVAttention(_OrderedAttention):
    """Attention on a projection whose channels are ordered [3, H, D]."""

    order = "new"


class HybridAttention(nn.Module):
    """Attention between all positions, blended with attention inside windows.

    Maps [N, 3 * H * D, T] to [N, H * D, T]. Its only parameters are `blend` [priorities, H], the
    share of the windows in each head's result, which training may move beyond 0 and 1. Where the
    shares cannot change and are exactly 0 or 1 in all heads, the attention without weight is not
    computed.

    Args:
        n_heads: number of heads, H.
        order: order of the projection's channels.
        window: positions on a side of a window.
        shifted: start the grid of windows half a window after the first position.
        priority: sets of weights to hold, a key of `STARTS`.

    Raises:
        ValueError: if the window has no position, or the priority is unknown.
    """

    def __init__(
        self, n_heads: int, order: QKVOrder, window: int, shifted: bool, priority: str
    ) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"attention_window: expected a side of at least 1, got {window}")
        if priority not in STARTS:
            known = ", ".join(STARTS)
            raise ValueError(f"attention_priority: expected one of {known}, got {priority!r}")
        self.n_heads, self.order, self.window, self.shifted = n_heads, order, window, shifted
        self.priorities = tuple(STARTS[priority])
        starts = torch.tensor(list(STARTS[priority].values()))
        self.blend = nn.Parameter(starts[:, None].repeat(1, n_heads))
        self.row = len(self.priorities) - 1  # priority in use: the last, `local`, draws images
        self._find_used()

    def set_priority(self, priority: Priority) -> None:
        """Use the weights of this priority, if the block holds them."""
        if priority in self.priorities:
            self.row = self.priorities.index(priority)

    def forward(self, qkv: Tensor, spatial: Sequence[int]) -> Tensor:
        """Attend between T = prod(spatial) positions."""
        q, k, v = split_heads(qkv, self.n_heads, self.order)
        one_window = max(spatial) <= self.window
        everywhere, nearby = self._used[self.row]
        if self.blend.requires_grad and (self.training or torch.is_grad_enabled()):
            # A share of 0 can move only if the windows are computed: they decide its gradient.
            everywhere, nearby = True, True
        if everywhere or one_window:
            all_heads = attend(q, k, v)
            if not nearby:
                return merge_heads(all_heads)
        if one_window:
            heads = all_heads
        else:
            heads = attend_in_windows(q, k, v, spatial, self.window, self.shifted)
        if everywhere:
            share = self.blend[self.row].to(q.dtype)[:, None, None]
            heads = torch.lerp(all_heads, heads, share)
        return merge_heads(heads)

    def _find_used(self) -> None:
        """Find the kinds of attention, (between all, in windows), that each priority needs."""
        # Not in every forward, because reading a share waits for the device.
        self._used = [(True, True)] * len(self.priorities)
        if not self.blend.is_meta:
            rows = self.blend.detach().tolist()
            self._used = [(any(s != 1 for s in row), any(s != 0 for s in row)) for row in rows]

    def train(self, mode: bool = True) -> "HybridAttention":
        """Switch between training and evaluation, and read the blend, which may have changed."""
        self._find_used()
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._find_used()


def priorities_of(network: nn.Module) -> tuple[Priority, ...]:
    """Return the priorities that a network has weights for; () if its attention is standard."""
    return next((m.priorities for m in network.modules() if isinstance(m, HybridAttention)), ())


def set_priority(network: nn.Module, priority: Priority) -> None:
    """Choose the priority of a network: `global` to encode a source, `local` to decode a target.

    A network without weights for it computes as before.
    """
    for module in network.modules():
        if isinstance(module, HybridAttention):
            module.set_priority(priority)


class _PointwiseConv1d(nn.Conv1d):
    """A Conv1d of kernel size 1, computed as one matrix product with a position-major result.

    Parameters, keys and initialisation are as in Conv1d. The plain kernel returns channel-major
    memory, which every fused attention kernel would have to copy.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(1, 2).contiguous()  # [N, T, C]
        return F.linear(tokens, self.weight.squeeze(2), self.bias).transpose(1, 2)


class AttentionBlock(nn.Module):
    """Residual self-attention between the positions of a feature map.

    Args:
        channels: channels of input and output.
        num_heads, num_head_channels: number and width of the heads, see `count_heads`.
        use_checkpoint: recompute the block's activations in the backward pass.
        use_new_attention_order: use the channel order "new" instead of "legacy".
        hybrid: `window`, `shifted` and `priority` of a `HybridAttention`; None: standard attention.

    Reference: Dhariwal and Nichol 2021, https://arxiv.org/abs/2105.05233, section 3.1.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        num_head_channels: int = -1,
        use_checkpoint: bool = False,
        use_new_attention_order: bool = False,
        hybrid: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.num_heads = count_heads(channels, num_heads, num_head_channels)
        self.use_checkpoint = use_checkpoint
        self.norm = normalization(channels)
        self.qkv = _PointwiseConv1d(channels, 3 * channels)
        attention = QKVAttention if use_new_attention_order else QKVAttentionLegacy
        if hybrid is None:
            self.attention = attention(self.num_heads)
        else:
            self.attention = HybridAttention(self.num_heads, attention.order, **hybrid)
        self.proj_out = zero_module(_PointwiseConv1d(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Attend: [N, C, *spatial] -> the same shape."""
        return checkpoint(self._forward, (x,), self.parameters(), self.use_checkpoint)

    def _forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2)  # [N, C, T]
        h = self.proj_out(self.attention(self.qkv(h), x.shape[2:]))
        return x + h.reshape(x.shape)


def count_heads(channels: int, num_heads: int, num_head_channels: int) -> int:
    """Compute the number of heads of an attention block.

    Args:
        channels: channels of the block.
        num_heads: number of heads, where num_head_channels is -1.
        num_head_channels: channels of one head, or -1.

    Raises:
        ArgumentError: if the channels cannot be cut into equal heads as asked.
    """
    name, found, expected = "num_head_channels", num_head_channels, "-1 or a divisor"
    if num_head_channels == -1:
        name, found, expected = "num_heads", num_heads, "a divisor"
    if found < 1 or channels % found:
        expected += f" of the block's {channels} channels"
        raise ArgumentError(name, f"expected {expected}, got {found}")
    return num_heads if num_head_channels == -1 else channels // num_head_channels


class AttentionPool2d(nn.Module):
    """Pool a feature map by letting its mean attend to all of its positions.

    Args:
        spacial_dim: height and width of the feature map.
        embed_dim: channels of the feature map, C.
        num_heads_channels: channels of one head.
        output_dim: channels of the result; C if not given.

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
        self.attention = QKVAttention(self.num_heads)
        positions = torch.randn(embed_dim, spacial_dim**2 + 1) / embed_dim**0.5
        self.positional_embedding = nn.Parameter(positions)
        self.qkv_proj = _PointwiseConv1d(embed_dim, 3 * embed_dim)
        self.c_proj = _PointwiseConv1d(embed_dim, output_dim or embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Pool: [N, C, spacial_dim, spacial_dim] -> [N, output_dim].

        Raises:
            ValueError: if x has another number of positions.
        """
        positions = self.positional_embedding.shape[1] - 1
        if math.prod(x.shape[2:]) != positions:
            side, found = math.isqrt(positions), "x".join(map(str, x.shape[2:]))
            expected = f"expected a feature map of {side}x{side}"
            raise ValueError(f"attention pool: {expected}, got {found}")
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=2, keepdim=True), x], dim=2)  # [N, C, T + 1], the mean first
        x = x + self.positional_embedding.to(x.dtype)
        q, k, v = split_heads(self.qkv_proj(x), self.num_heads, "new")
        pooled = merge_heads(attend(q[:, :, :1], k, v))  # only the mean asks
        return self.c_proj(pooled).squeeze(2)
