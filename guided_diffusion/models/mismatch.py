"""Signs in a state dict of the flags that its network was built from.

The sign of a flag is a function of a state dict. Where two state dicts differ in it, the flag is a
likely cause. A flag stands before other flags whose signs it changes too.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch as th

State = Mapping[str, th.Tensor]
SignsOfFlags = Sequence[tuple[str, Callable[[State], Any]]]


def shape_of(state: State, key: str) -> tuple[int, ...] | str:
    """Return the shape of a tensor of a state dict, or "absent"."""
    return tuple(state[key].shape) if key in state else "absent"


def _shapes(state: State) -> dict[str, tuple[int, ...] | str]:
    return {key: shape_of(state, key) for key in state}


def number_of_classes(state: State) -> int | None:
    """Return the number of classes that a classifier tells apart; None for another network."""
    biases = [key for key in state if re.match(r"out\..*bias$", key)]
    return len(state[biases[-1]]) if biases else None


def _keys(state: State, pattern: str) -> set[str]:
    return {found[0] for found in (re.search(pattern, key) for key in state) if found}


def _embeddings_per_channel(state: State) -> float | None:
    key, norm = "middle_block.0.emb_layers.1.bias", "middle_block.0.out_layers.0.bias"
    return len(state[key]) / len(state[norm]) if key in state and norm in state else None


SIGNS_OF_FLAGS: SignsOfFlags = (
    ("class_cond", lambda state: "label_emb.weight" in state),
    ("num_channels", lambda state: shape_of(state, "time_embed.0.weight")),
    ("in_channels", lambda state: shape_of(state, "input_blocks.0.0.weight")[1:2]),
    ("resblock_updown", lambda state: bool(_keys(state, r"\.op\."))),
    ("num_res_blocks or --channel_mult", lambda state: _keys(state, r"^input_blocks\.\d+\.")),
    ("num_res_blocks", lambda state: _keys(state, r"^input_blocks\.1\.\d+\.in_")),  # for points
    ("attention_resolutions", lambda state: _keys(state, r"^input_blocks\.\d+\.1\.qkv")),
    ("attention_kind", lambda state: bool(_keys(state, r"\.blend$"))),
    ("attention_priority", lambda state: shape_of(state, "middle_block.1.attention.blend")[:1]),
    ("use_scale_shift_norm", _embeddings_per_channel),
    ("learn_sigma", lambda state: shape_of(state, "out.2.weight")[:1]),
    ("channel_mult", _shapes),  # where no other sign differs
)
CLASSIFIER_SIGNS: SignsOfFlags = (
    ("classifier_path", lambda state: bool(_keys(state, r"^output_blocks\."))),
    ("classifier_width", lambda state: shape_of(state, "time_embed.0.weight")),
    ("in_channels", lambda state: shape_of(state, "input_blocks.0.0.weight")[1:2]),
    ("classifier_resblock_updown", lambda state: bool(_keys(state, r"\.op\."))),
    ("classifier_pool", lambda state: _keys(state, r"^out\..*")),
    ("classifier_depth or --image_size", lambda state: _keys(state, r"^input_blocks\.\d+\.")),
    ("classifier_attention_resolutions", lambda state: _keys(state, r"^input_blocks.*\.qkv")),
    ("classifier_use_scale_shift_norm", _embeddings_per_channel),
    ("num_classes", number_of_classes),
    ("image_size", _shapes),
)
