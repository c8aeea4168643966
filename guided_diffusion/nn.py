"""Upstream's `nn`; the code is in `networks/nn.py`."""
# ruff: noqa: F401, F403

import torch as th

from ._porch import hand_on
from .networks import nn as module
from .networks.nn import *

STAR = """
    CheckpointFunction GroupNorm32 SiLU avg_pool_nd checkpoint conv_nd linear math mean_flat nn
    normalization scale_module th timestep_embedding update_ema zero_module
"""
hand_on(__name__, module, STAR)
