"""Upstream's `synthetic`; the code is in `networks/synthetic.py`."""
# ruff: noqa: F401, F403

from abc import abstractmethod

import torch as th

from ._porch import hand_on
from .networks import synthetic as room
from .networks.nn import (
    SiLU,
    TimestepBlock,
    TimestepEmbedSequential,
    checkpoint,
    convert_module_to_f16,
    convert_module_to_f32,
    linear,
    normalization,
    timestep_embedding,
    zero_module,
)
from .networks.synthetic import *

hand_on(__name__, room)
