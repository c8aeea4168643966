"""Upstream's `resample`; the code is in `diffusion/resample.py`."""
# ruff: noqa: F401, F403

import torch as th

from ._porch import hand_on
from .diffusion import resample as module
from .diffusion.resample import *

STAR = """
    ABC LossAwareSampler LossSecondMomentResampler ScheduleSampler UniformSampler abstractmethod
    create_named_schedule_sampler dist np th
"""
hand_on(__name__, module, STAR)
