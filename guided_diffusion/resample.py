"""Upstream's `resample`; the code is in `diffusion/resample.py`."""
# ruff: noqa: F401, F403

import torch as th

from ._porch import hand_on
from .diffusion import resample as module
from .diffusion.resample import *

hand_on(__name__, module)
