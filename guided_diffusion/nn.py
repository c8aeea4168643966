"""Upstream's `nn`; the code is in `networks/nn.py`."""
# ruff: noqa: F401, F403

import torch as th

from ._porch import hand_on
from .networks import nn as module
from .networks.nn import *

hand_on(__name__, module)
