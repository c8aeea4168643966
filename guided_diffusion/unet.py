"""Upstream's `unet`; the code is in `networks/unet.py`."""
# ruff: noqa: F401, F403

from ._porch import abstractmethod, hand_on, np, th
from .networks import unet as module
from .networks.attention import *
from .networks.nn import *
from .networks.unet import *

hand_on(__name__, module)
