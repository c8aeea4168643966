"""Upstream's `fp16_util`; the code is in `training/fp16_util.py`."""
# ruff: noqa: F401, F403

import numpy as np
import torch as th
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from ._porch import hand_on
from .networks.nn import convert_module_to_f16, convert_module_to_f32
from .training import fp16_util as module
from .training.fp16_util import *

hand_on(__name__, module)
