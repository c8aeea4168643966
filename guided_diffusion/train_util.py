"""Upstream's `train_util`; the code is in `training/train_util.py`."""
# ruff: noqa: F401, F403

import functools

import torch.distributed as dist

from ._porch import hand_on
from .runtime.lazy import bf
from .training import train_util as module
from .training.fp16_util import INITIAL_LOG_LOSS_SCALE
from .training.train_util import *

hand_on(__name__, module)
