"""Upstream's `respace`; the code is in `diffusion/respace.py`."""
# ruff: noqa: F401, F403

import torch as th

from ._porch import hand_on
from .diffusion import respace as module
from .diffusion.respace import *
from .diffusion.respace import _WrappedModel

hand_on(__name__, module)
