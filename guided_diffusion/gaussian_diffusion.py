"""Upstream's `gaussian_diffusion`; the code is in `diffusion/gaussian_diffusion.py`."""
# ruff: noqa: F401, F403

import torch as th

from ._porch import hand_on
from .diffusion import gaussian_diffusion as module
from .diffusion.forward_process import _extract_into_tensor
from .diffusion.gaussian_diffusion import *
from .diffusion.schedules import betas_for_alpha_bar, get_named_beta_schedule
from .translation.fourier_trans import image_fourier_trans

hand_on(__name__, module)
