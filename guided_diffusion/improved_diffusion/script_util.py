"""improved-diffusion's flags and their defaults, and the functions that build from them."""
# ruff: noqa: F401

import argparse
import inspect
from typing import Any

from .._porch import star_of
from ..config.network_settings import ModelSettings, SuperResSettings
from ..config.settings import Settings, defaults
from ..config.upstream import DEFAULT_SETS
from ..diffusion import gaussian_diffusion as gd
from ..diffusion.respace import SpacedDiffusion, space_timesteps
from ..diffusion.settings import ProcessSettings
from ..models.faces import by_two, defaults_for, face
from ..models.script_util import build_network, create_gaussian_diffusion
from ..networks.unet import SuperResModel, UNetModel
from ..script_util import NUM_CLASSES, add_dict_to_argparser, args_to_dict, str2bool

__all__ = star_of(__name__)

_SIZES = "num_channels num_res_blocks"
_REST = (
    f"{_SIZES} num_heads num_heads_upsample attention_resolutions dropout diffusion_steps "
    "noise_schedule timestep_respacing use_kl predict_xstart rescale_timesteps "
    "rescale_learned_sigmas use_checkpoint use_scale_shift_norm"
)
_ALONE = (
    f"{_SIZES} learn_sigma class_cond use_checkpoint attention_resolutions num_heads "
    "num_heads_upsample use_scale_shift_norm dropout"
)

_doc, _names = "Build the network of images.", f"image_size {_ALONE}"
create_model = face("create_model", _doc, build_network, (ModelSettings,), _names)
_doc = "Build the network of images and its process."
_names = f"image_size class_cond learn_sigma sigma_small {_REST}"
_make = by_two("create_model", 3, _names)
create_model_and_diffusion = face(
    "create_model_and_diffusion", _doc, _make, (ModelSettings, ProcessSettings), _names
)
_doc = "Build the super-resolution network; `small_size` is the side of its low_res input."
_names = f"large_size small_size {_ALONE}"
sr_create_model = face("sr_create_model", _doc, build_network, (SuperResSettings,), _names)
_doc = "Build the super-resolution network and its process."
_names = f"large_size small_size class_cond learn_sigma {_REST}"
_make = by_two("sr_create_model", 4, _names)
sr_create_model_and_diffusion = face(
    "sr_create_model_and_diffusion", _doc, _make, (SuperResSettings, ProcessSettings), _names
)


def model_and_diffusion_defaults() -> dict[str, Any]:
    """Return improved-diffusion's defaults of the network and diffusion flags."""
    known = defaults(ModelSettings, ProcessSettings) | DEFAULT_SETS["improved"]
    return defaults_for(create_model_and_diffusion, known)


def sr_model_and_diffusion_defaults() -> dict[str, Any]:
    """Return improved-diffusion's defaults of the super-resolution flags."""
    known = defaults(SuperResSettings, ProcessSettings) | DEFAULT_SETS["improved"]
    return defaults_for(sr_create_model_and_diffusion, known)
