"""Upstream's `script_util`; the code is in `models/script_util.py`."""
# ruff: noqa: F401, F403

import argparse
import inspect

from ._porch import hand_on
from .config.parser import add_dict_to_argparser, args_to_dict, str2bool
from .models import script_util as module
from .models.script_util import *

STAR = """
    EncoderUNetModel NUM_CLASSES SpacedDiffusion SuperResModel SyntheticModel UNetModel
    add_dict_to_argparser argparse args_to_dict classifier_and_diffusion_defaults
    classifier_defaults create_classifier create_classifier_and_diffusion
    create_gaussian_diffusion create_model create_model_and_diffusion
    create_model_and_diffusion_2d diffusion_defaults gd inspect model_and_diffusion_defaults
    model_and_diffusion_defaults_2d space_timesteps sr_create_model
    sr_create_model_and_diffusion sr_model_and_diffusion_defaults str2bool
"""
hand_on(__name__, module, STAR)
