"""improved-diffusion's flags, their defaults, and what they build."""

import argparse
import inspect
from collections.abc import Callable
from typing import Any

from .. import gaussian_diffusion as gd
from .. import script_util
from ..config.flags import defaults
from ..config.options import (
    DEFAULT_SETS,
    DiffusionOptions,
    ModelOptions,
    SuperResOptions,
)
from ..respace import SpacedDiffusion, space_timesteps
from ..script_util import (
    NUM_CLASSES,
    add_dict_to_argparser,
    args_to_dict,
    create_gaussian_diffusion,
    str2bool,
)
from ..unet import SuperResModel, UNetModel


def _defaults_for(create: Callable, *groups: type) -> dict[str, Any]:
    return script_util.defaults_for(create, defaults(*groups) | DEFAULT_SETS["improved"])


def model_and_diffusion_defaults() -> dict[str, Any]:
    """Return improved-diffusion's defaults of the network and diffusion flags."""
    return _defaults_for(create_model_and_diffusion, ModelOptions, DiffusionOptions)


def create_model_and_diffusion(
    image_size: int,
    class_cond: bool,
    learn_sigma: bool,
    sigma_small: bool,
    num_channels: int,
    num_res_blocks: int,
    num_heads: int,
    num_heads_upsample: int,
    attention_resolutions: str,
    dropout: float,
    diffusion_steps: int,
    noise_schedule: str,
    timestep_respacing: str,
    use_kl: bool,
    predict_xstart: bool,
    rescale_timesteps: bool,
    rescale_learned_sigmas: bool,
    use_checkpoint: bool,
    use_scale_shift_norm: bool,
) -> tuple[UNetModel, SpacedDiffusion]:
    """Return the network and the process that the flags describe."""
    flags = dict(locals())
    others = script_util.model_and_diffusion_defaults()
    return script_util.create_model_and_diffusion(**others | flags)


def create_model(
    image_size: int,
    num_channels: int,
    num_res_blocks: int,
    learn_sigma: bool,
    class_cond: bool,
    use_checkpoint: bool,
    attention_resolutions: str,
    num_heads: int,
    num_heads_upsample: int,
    use_scale_shift_norm: bool,
    dropout: float,
) -> UNetModel:
    """Return the network of one domain."""
    return script_util.create_model(**locals())


def sr_model_and_diffusion_defaults() -> dict[str, Any]:
    """Return improved-diffusion's defaults of the super-resolution flags."""
    return _defaults_for(sr_create_model_and_diffusion, SuperResOptions, DiffusionOptions)


def sr_create_model_and_diffusion(
    large_size: int,
    small_size: int,
    class_cond: bool,
    learn_sigma: bool,
    num_channels: int,
    num_res_blocks: int,
    num_heads: int,
    num_heads_upsample: int,
    attention_resolutions: str,
    dropout: float,
    diffusion_steps: int,
    noise_schedule: str,
    timestep_respacing: str,
    use_kl: bool,
    predict_xstart: bool,
    rescale_timesteps: bool,
    rescale_learned_sigmas: bool,
    use_checkpoint: bool,
    use_scale_shift_norm: bool,
) -> tuple[SuperResModel, SpacedDiffusion]:
    """Return the super-resolution network and its process."""
    flags = dict(locals())
    others = script_util.sr_model_and_diffusion_defaults()
    return script_util.sr_create_model_and_diffusion(**others | flags)


def sr_create_model(
    large_size: int,
    small_size: int,
    num_channels: int,
    num_res_blocks: int,
    learn_sigma: bool,
    class_cond: bool,
    use_checkpoint: bool,
    attention_resolutions: str,
    num_heads: int,
    num_heads_upsample: int,
    use_scale_shift_norm: bool,
    dropout: float,
) -> SuperResModel:
    """Return the super-resolution network; `small_size` is the side of its low_res input."""
    return script_util.sr_create_model(
        **locals(), num_head_channels=-1, resblock_updown=False, use_fp16=False
    )
