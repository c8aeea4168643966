"""Upstream's `fp16_util`; the code is in `training/fp16_util.py`."""
# ruff: noqa: F401, F403

import numpy as np
import torch as th
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from ._porch import hand_on
from .networks.nn import convert_module_to_f16, convert_module_to_f32
from .training import fp16_util as module
from .training.fp16_util import *

STAR = """
    INITIAL_LOG_LOSS_SCALE MixedPrecisionTrainer check_overflow convert_module_to_f16
    convert_module_to_f32 get_param_groups_and_shapes logger make_master_params
    master_params_to_model_params master_params_to_state_dict model_grads_to_master_grads nn np
    param_grad_or_zeros state_dict_to_master_params th unflatten_master_params zero_grad
    zero_master_grads
"""
hand_on(__name__, module, STAR)
