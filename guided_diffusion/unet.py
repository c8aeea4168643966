"""Upstream's `unet`; the code is in `networks/unet.py`."""
# ruff: noqa: F401, F403

import math
from abc import abstractmethod

import numpy as np
import torch as th

from ._porch import hand_on
from .networks import unet as module
from .networks.attention import *
from .networks.nn import TimestepBlock, avg_pool_nd, checkpoint, normalization, zero_module
from .networks.unet import *
from .networks.unet_base import *

hand_on(__name__, module)
