"""Upstream's `train_util`; the code is in `training/train_util.py`."""
# ruff: noqa: F401, F403

import functools

import torch.distributed as dist

from ._porch import hand_on
from .runtime.lazy import bf
from .training import train_util as module
from .training.fp16_util import INITIAL_LOG_LOSS_SCALE
from .training.train_util import *

STAR = """
    AdamW DDP INITIAL_LOG_LOSS_SCALE LossAwareSampler MixedPrecisionTrainer TrainLoop
    UniformSampler bf copy dist dist_util find_ema_checkpoint find_resume_checkpoint functools
    get_blob_logdir log_loss_dict logger os parse_resume_step_from_filename th update_ema
"""
hand_on(__name__, module, STAR)
