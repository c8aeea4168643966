"""Upstream's `losses`; the code is in `diffusion/losses.py`."""
# ruff: noqa: F401, F403

import numpy as np
import torch as th

from ._porch import hand_on
from .diffusion import losses as module
from .diffusion.losses import *

STAR = """
    approx_standard_normal_cdf discretized_gaussian_log_likelihood normal_kl np th
"""
hand_on(__name__, module, STAR)
