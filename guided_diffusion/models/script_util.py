"""Assemble networks and diffusion processes from flags, with upstream's names and defaults."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..config.flags import defaults
from ..config.options import (
    NUM_CLASSES,
    ClassifierOptions,
    DiffusionOptions,
    ModelOptions,
    SuperResOptions,
)
from ..config.synthetic_options import SyntheticModelOptions
from ..diffusion import gaussian_diffusion as gd
from ..diffusion.respace import SpacedDiffusion, space_timesteps
from ..diffusion.schedules import betas_of_flags
from ..errors import ArgumentError
from ..networks.synthetic import SyntheticModel
from ..networks.unet import EncoderUNetModel, SuperResModel, UNetModel
from .network_arguments import (
    SUPER_RES_CHANNEL_MULT,
    attention_factors,
    built,
    channel_mults,
    hybrid,
    width,
)

CLASSIFIER_HEAD_CHANNELS = 64


def defaults_for(create: Callable, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of upstream's parameters of a `create_*`; ours are keyword-only.

    Args:
        create: takes upstream's parameters by place.
        known: {flag: default} of these and of others.
    """
    return {name: known[name] for name in inspect.getfullargspec(create).args}


def diffusion_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the diffusion flags."""
    return {k: v for k, v in defaults(DiffusionOptions).items() if k != "sigma_small"}


def classifier_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the classifier flags."""
    return defaults_for(create_classifier, defaults(ClassifierOptions))


def model_and_diffusion_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the network and diffusion flags."""
    return defaults_for(create_model_and_diffusion, defaults(ModelOptions, DiffusionOptions))


def model_and_diffusion_defaults_2d() -> dict[str, Any]:
    """Return DDIB's defaults of the network and diffusion flags for points."""
    return defaults_for(
        create_model_and_diffusion_2d, defaults(SyntheticModelOptions, DiffusionOptions)
    )


def classifier_and_diffusion_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the classifier and diffusion flags."""
    known = defaults(ClassifierOptions, DiffusionOptions)
    return defaults_for(create_classifier_and_diffusion, known)


def sr_model_and_diffusion_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the super-resolution flags."""
    return defaults_for(sr_create_model_and_diffusion, defaults(SuperResOptions, DiffusionOptions))


def create_model_and_diffusion(
    image_size: int,
    class_cond: bool,
    learn_sigma: bool,
    num_channels: int,
    num_res_blocks: int,
    channel_mult: str,
    num_heads: int,
    num_head_channels: int,
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
    resblock_updown: bool,
    use_fp16: bool,
    use_new_attention_order: bool,
    *,
    in_channels: int = 3,
    num_classes: int = NUM_CLASSES,
    sigma_small: bool = False,
    attention_kind: str = "standard",
    attention_window: int = 4,
    attention_priority: str = "global",
) -> tuple[UNetModel, SpacedDiffusion]:
    """Return the network and the process that the flags describe (see `ModelOptions`)."""
    flags = dict(locals())
    return _call(create_model, flags), _diffusion(flags)


def _call(create: Callable, flags: dict[str, Any]) -> Any:
    return create(**{k: flags[k] for k in inspect.signature(create).parameters if k in flags})


def _diffusion(flags: dict[str, Any]) -> SpacedDiffusion:
    return _call(create_gaussian_diffusion, flags | {"steps": flags["diffusion_steps"]})


def create_model(
    image_size: int,
    num_channels: int,
    num_res_blocks: int,
    channel_mult: str = "",
    learn_sigma: bool = False,
    class_cond: bool = False,
    use_checkpoint: bool = False,
    attention_resolutions: str = "16",
    num_heads: int = 1,
    num_head_channels: int = -1,
    num_heads_upsample: int = -1,
    use_scale_shift_norm: bool = False,
    dropout: float = 0,
    resblock_updown: bool = False,
    use_fp16: bool = False,
    use_new_attention_order: bool = False,
    *,
    in_channels: int = 3,
    num_classes: int = NUM_CLASSES,
    attention_kind: str = "standard",
    attention_window: int = 4,
    attention_priority: str = "global",
) -> UNetModel:
    """Return the network of one domain.

    Raises:
        ValueError: if a size, a width or an attention resolution does not fit, naming the argument.
    """
    return built(
        UNetModel,
        image_size=image_size,
        in_channels=in_channels,
        model_channels=width(num_channels),
        out_channels=in_channels * (2 if learn_sigma else 1),
        num_res_blocks=num_res_blocks,
        attention_resolutions=attention_factors(attention_resolutions, image_size),
        dropout=dropout,
        channel_mult=channel_mults(channel_mult, image_size, num_channels),
        num_classes=num_classes if class_cond else None,
        use_checkpoint=use_checkpoint,
        use_fp16=use_fp16,
        num_heads=num_heads,
        num_head_channels=num_head_channels,
        num_heads_upsample=num_heads_upsample,
        use_scale_shift_norm=use_scale_shift_norm,
        resblock_updown=resblock_updown,
        use_new_attention_order=use_new_attention_order,
        hybrid=hybrid(attention_kind, attention_window, attention_priority),
    )


def create_classifier_and_diffusion(
    image_size: int,
    classifier_use_fp16: bool,
    classifier_width: int,
    classifier_depth: int,
    classifier_attention_resolutions: str,
    classifier_use_scale_shift_norm: bool,
    classifier_resblock_updown: bool,
    classifier_pool: str,
    learn_sigma: bool,
    diffusion_steps: int,
    noise_schedule: str,
    timestep_respacing: str,
    use_kl: bool,
    predict_xstart: bool,
    rescale_timesteps: bool,
    rescale_learned_sigmas: bool,
    *,
    in_channels: int = 3,
    out_channels: int = NUM_CLASSES,
    classifier_channel_mult: str = "",
    classifier_use_new_attention_order: bool = False,
    sigma_small: bool = False,
) -> tuple[EncoderUNetModel, SpacedDiffusion]:
    """Return the noisy-image classifier and the process whose noise it reads."""
    flags = dict(locals())
    return _call(create_classifier, flags), _diffusion(flags)


def create_classifier(
    image_size: int,
    classifier_use_fp16: bool,
    classifier_width: int,
    classifier_depth: int,
    classifier_attention_resolutions: str,
    classifier_use_scale_shift_norm: bool,
    classifier_resblock_updown: bool,
    classifier_pool: str,
    *,
    in_channels: int = 3,
    out_channels: int = NUM_CLASSES,
    classifier_channel_mult: str = "",
    classifier_use_new_attention_order: bool = False,
) -> EncoderUNetModel:
    """Return the noisy-image classifier."""
    return built(
        EncoderUNetModel,
        image_size=image_size,
        in_channels=in_channels,
        model_channels=width(classifier_width, "classifier_width"),
        out_channels=out_channels,
        num_res_blocks=classifier_depth,
        attention_resolutions=attention_factors(classifier_attention_resolutions, image_size),
        channel_mult=channel_mults(
            classifier_channel_mult, image_size, classifier_width, prefix="classifier_"
        ),
        use_fp16=classifier_use_fp16,
        num_head_channels=CLASSIFIER_HEAD_CHANNELS,
        use_scale_shift_norm=classifier_use_scale_shift_norm,
        resblock_updown=classifier_resblock_updown,
        use_new_attention_order=classifier_use_new_attention_order,
        pool=classifier_pool,
    )


def sr_create_model_and_diffusion(
    large_size: int,
    small_size: int,
    class_cond: bool,
    learn_sigma: bool,
    num_channels: int,
    num_res_blocks: int,
    num_heads: int,
    num_head_channels: int,
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
    resblock_updown: bool,
    use_fp16: bool,
    *,
    channel_mult: str = "",
    in_channels: int = 3,
    num_classes: int = NUM_CLASSES,
    sigma_small: bool = False,
) -> tuple[SuperResModel, SpacedDiffusion]:
    """Return the super-resolution network and its process (see `SuperResOptions`)."""
    flags = dict(locals())
    return _call(sr_create_model, flags), _diffusion(flags)


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
    num_head_channels: int,
    num_heads_upsample: int,
    use_scale_shift_norm: bool,
    dropout: float,
    resblock_updown: bool,
    use_fp16: bool,
    *,
    num_classes: int = NUM_CLASSES,
    channel_mult: str = "",
    in_channels: int = 3,
) -> SuperResModel:
    """Return the super-resolution network; `small_size` is the side of its low_res input.

    Raises:
        ValueError: if a size, a width or an attention resolution does not fit, naming the argument.
    """
    if not 0 < small_size <= large_size:
        raise ArgumentError(
            "small_size", f"expected 1 to large_size {large_size}, got {small_size}"
        )
    return built(
        SuperResModel,
        image_size=large_size,
        in_channels=in_channels,
        model_channels=width(num_channels),
        out_channels=in_channels * (2 if learn_sigma else 1),
        num_res_blocks=num_res_blocks,
        attention_resolutions=attention_factors(attention_resolutions, large_size),
        dropout=dropout,
        channel_mult=channel_mults(
            channel_mult, large_size, num_channels, SUPER_RES_CHANNEL_MULT, size_flag="large_size"
        ),
        num_classes=num_classes if class_cond else None,
        use_checkpoint=use_checkpoint,
        num_heads=num_heads,
        num_head_channels=num_head_channels,
        num_heads_upsample=num_heads_upsample,
        use_scale_shift_norm=use_scale_shift_norm,
        resblock_updown=resblock_updown,
        use_fp16=use_fp16,
    )


def create_model_and_diffusion_2d(
    learn_sigma: bool,
    num_channels: int,
    num_res_blocks: int,
    dropout: float,
    diffusion_steps: int,
    noise_schedule: str,
    timestep_respacing: str,
    use_kl: bool,
    predict_xstart: bool,
    rescale_timesteps: bool,
    rescale_learned_sigmas: bool,
    use_checkpoint: bool,
    use_fp16: bool,
    in_channels: int = 2,
    *,
    sigma_small: bool = False,
) -> tuple[SyntheticModel, SpacedDiffusion]:
    """Return the network of points and its process."""
    flags = dict(locals())
    out_channels = in_channels * (2 if learn_sigma else 1)
    model = SyntheticModel(
        in_channels,
        width(num_channels),
        out_channels,
        num_res_blocks,
        dropout,
        use_checkpoint,
        use_fp16,
    )
    return model, _diffusion(flags)


def create_gaussian_diffusion(
    *,
    steps: int = 1000,
    learn_sigma: bool = False,
    sigma_small: bool = False,
    noise_schedule: str = "linear",
    use_kl: bool = False,
    predict_xstart: bool = False,
    rescale_timesteps: bool = False,
    rescale_learned_sigmas: bool = False,
    timestep_respacing: str = "",
) -> SpacedDiffusion:
    """Return the process that the flags describe (see `DiffusionOptions`).

    Raises:
        ValueError: if there is no such schedule, not of so few steps, or the respacing asks for
            more steps than there are.
    """
    if use_kl:
        loss_type = gd.LossType.RESCALED_KL
    else:
        loss_type = gd.LossType.RESCALED_MSE if rescale_learned_sigmas else gd.LossType.MSE
    if learn_sigma:
        var_type = gd.ModelVarType.LEARNED_RANGE
    else:
        var_type = gd.ModelVarType.FIXED_SMALL if sigma_small else gd.ModelVarType.FIXED_LARGE
    betas = betas_of_flags(noise_schedule, steps)
    try:
        use_timesteps = space_timesteps(steps, timestep_respacing or [steps])
    except ValueError as error:
        reason = str(error).removeprefix("timestep respacing: ")
        raise ArgumentError("timestep_respacing", reason) from None
    return SpacedDiffusion(
        use_timesteps=use_timesteps,
        betas=betas,
        model_mean_type=gd.ModelMeanType.START_X if predict_xstart else gd.ModelMeanType.EPSILON,
        model_var_type=var_type,
        loss_type=loss_type,
        rescale_timesteps=rescale_timesteps,
    )
