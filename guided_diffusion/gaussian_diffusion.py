"""Upstream's `gaussian_diffusion`; the code is in `diffusion/gaussian_diffusion.py`."""
# ruff: noqa: F401, F403

import torch as th

from ._porch import hand_on
from .diffusion import gaussian_diffusion as module
from .diffusion.forward_process import _extract_into_tensor
from .diffusion.gaussian_diffusion import *
from .diffusion.schedules import betas_for_alpha_bar, get_named_beta_schedule
from .translation.fourier_trans import image_fourier_trans

STAR = """
    GaussianDiffusion LossType ModelMeanType ModelVarType betas_for_alpha_bar
    discretized_gaussian_log_likelihood enum get_named_beta_schedule image_fourier_trans math
    mean_flat normal_kl np th
"""
hand_on(__name__, module, STAR)
