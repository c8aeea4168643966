"""Upstream's `train_util`; the code is in `training/train_util.py`."""
# ruff: noqa: F401, F403

from ._porch import bf, dist, functools, hand_on
from .training import train_util as module
from .training.fp16_util import *
from .training.train_util import *

hand_on(__name__, module)
