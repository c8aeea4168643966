"""Upstream's `unet`; the code is in `networks/unet.py`."""
# ruff: noqa: F401, F403

import math
from abc import abstractmethod

import numpy as np
import torch as th

from ._porch import hand_on
from .networks import unet as module
from .networks.attention import (
    AttentionBlock,
    QKVAttention,
    QKVAttentionLegacy,
    count_flops_attn,
)
from .networks.nn import (
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
from .networks.unet import *

STAR = """
    AttentionBlock AttentionPool2d Downsample EncoderUNetModel F QKVAttention QKVAttentionLegacy
    ResBlock SuperResModel TimestepBlock TimestepEmbedSequential UNetModel Upsample
    abstractmethod avg_pool_nd checkpoint conv_nd convert_module_to_f16 convert_module_to_f32
    count_flops_attn linear math nn normalization np th timestep_embedding zero_module
"""
hand_on(__name__, module, STAR)
