"""Rewrite checkpoints of one network into another attention order or number format.

The two channel orders of the qkv projections (see `attention`) differ by a permutation of rows.
The order and the number of heads do not show in a state dict: they come from the `args.json` beside
it, or from the user.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch as th

from ..config.network_settings import ClassifierSettings, ModelSettings
from ..errors import ArgumentError
from ..networks.attention import QKVOrder, count_heads, reorder_rows
from .mismatch import State
from .script_util import CLASSIFIER_HEAD_CHANNELS

Record = dict[str, Any]


@dataclass(frozen=True)
class AttentionLayout:
    """Order and heads of a network's qkv projections, which their shapes do not tell.

    Attributes:
        order: order of the channels of a projection, see `attention`.
        num_heads: number of heads of a block, where num_head_channels is -1.
        num_heads_upsample: number of heads of an output block; -1: num_heads.
        num_head_channels: number of channels of a head, or -1.
    """

    order: QKVOrder
    num_heads: int = 1
    num_heads_upsample: int = -1
    num_head_channels: int = -1

    def heads(self, key: str, channels: int) -> int:
        """Return the number of heads of the attention block that a key belongs to."""
        upsample = key.startswith("output_blocks.") and self.num_heads_upsample != -1
        heads = self.num_heads_upsample if upsample else self.num_heads
        return count_heads(channels, heads, self.num_head_channels)


def swap_attention_order(state: State, layout: AttentionLayout) -> dict[str, th.Tensor]:
    """Rewrite every attention block to the other channel order; the network computes the same.

    The attention pool of a classifier has one order only and stays as it is.

    Raises:
        UserError: if there is no attention block, or its channels are not equal heads.
    """
    keys = [key for key in state if re.search(r"\.qkv\.(weight|bias)$", key)]
    if not keys:
        raise ArgumentError("attention_order", "the checkpoint has no attention block to rewrite")
    swapped = dict(state)
    for key in keys:
        try:
            heads = layout.heads(key, len(state[key]) // 3)
        except ArgumentError as error:
            raise ArgumentError(error.name, f"{error.problem} ({key})") from None
        swapped[key] = reorder_rows(state[key], heads, layout.order)
    return swapped


def cast(state: State, dtype: th.dtype) -> dict[str, th.Tensor]:
    """Return a state dict with its floating-point tensors in another number format.

    Raises:
        UserError: if a number is beyond the format's range.
    """
    converted = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    for key, value in converted.items():
        if not th.equal(value.isfinite(), state[key].isfinite()):
            raise ArgumentError("dtype", f"{key!r} holds numbers beyond the range of {dtype}")
    return converted


def recorded_layout(args: Record) -> AttentionLayout:
    """Return the layout that the recorded flags of a training describe, also of a classifier's.

    Raises:
        ArgumentError: if a value in the record is not allowed.
    """
    group = ClassifierSettings if "classifier_width" in args else ModelSettings
    flag, heads = _order_flag(args), ("num_heads", "num_heads_upsample", "num_head_channels")
    known = group(**{name: args[name] for name in (flag, *heads) if name in args}).values()
    order = "new" if known[flag] else "legacy"
    if group is ClassifierSettings:
        return AttentionLayout(order, num_head_channels=CLASSIFIER_HEAD_CHANNELS)
    return AttentionLayout(order, *(known[name] for name in heads))


def record_order(args: Record, order: QKVOrder) -> dict[str, Any]:
    """Return the recorded flags of a training, with another attention order."""
    return {**args, _order_flag(args): order == "new"}


def _order_flag(args: Record) -> str:
    return f"{'classifier_' if 'classifier_width' in args else ''}use_new_attention_order"
