"""Upstream's `losses`; the code is in `diffusion/losses.py`."""
# ruff: noqa: F401, F403

import numpy as np
import torch as th

from ._porch import hand_on
from .diffusion import losses as module
from .diffusion.losses import *

hand_on(__name__, module)
