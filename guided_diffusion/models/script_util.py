"""Build networks and processes from settings.

`build` takes typed settings. Upstream's `create_*` functions have the published parameters, in
their order and with their defaults, and other settings as keywords (see `faces`).
"""

from collections.abc import Callable
from typing import Any

import torch as th

from ..config.network_settings import (
    NUM_CLASSES,
    ClassifierSettings,
    ModelSettings,
    NetworkSettings,
    PointNetworkSettings,
    SuperResSettings,
)
from ..config.settings import Settings, defaults
from ..diffusion import gaussian_diffusion as gd
from ..diffusion.respace import SpacedDiffusion, space_timesteps
from ..diffusion.schedules import betas_of_flags
from ..diffusion.settings import ProcessSettings
from ..errors import ArgumentError
from ..networks.synthetic import SyntheticModel
from ..networks.unet import EncoderUNetModel, SuperResModel, UNetModel
from .faces import by_two, defaults_for, face
from .network_arguments import (
    SUPER_RES_CHANNEL_MULT,
    attention_factors,
    channel_mults,
    warn_of_sides,
    width,
)

CLASSIFIER_HEAD_CHANNELS = 64


def build(
    network: Settings, process: ProcessSettings, num_classes: int = NUM_CLASSES
) -> tuple[th.nn.Module, SpacedDiffusion]:
    """Build a network and the process that it is trained for.

    Args:
        network: settings of the network, whose type selects the network.
        process: settings of the process.
        num_classes: number of classes that a classifier tells apart, or that a class-conditional
            network knows.

    Raises:
        ArgumentError: if a size, a width or an attention resolution does not fit.
    """
    model = build_network(network, process.learn_sigma, num_classes)
    for flag in ("attention_resolutions", "classifier_attention_resolutions"):
        if (sides := getattr(network, flag, "")) and hasattr(model, "channel_mult"):
            warn_of_sides(flag, sides, model.image_size, len(model.channel_mult))
    return model, build_process(process)


class _NoNormalNumbers(th.overrides.TorchFunctionMode):
    """Draw no normal numbers for an embedding, for which torch imports much where none are kept."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is th.nn.init.normal_:
            return kwargs["tensor"]
        return func(*args, **kwargs or {})


def outline(
    network: Settings, process: ProcessSettings, num_classes: int = NUM_CLASSES
) -> dict[str, th.Tensor]:
    """Return the state dict of a network without values, which takes no memory; see `build`."""
    with th.device("meta"), _NoNormalNumbers():
        return build_network(network, process.learn_sigma, num_classes).state_dict()


def build_network(
    network: Settings, learn_sigma: bool = False, num_classes: int = NUM_CLASSES
) -> Any:
    """Build a network from its settings; see `build`.

    Args:
        network: settings of the network, whose type selects the network.
        learn_sigma: whether the network predicts the variance too.
        num_classes: number of classes, see `build`.
    """
    return BUILDERS[type(network)](network, learn_sigma, num_classes)


def _unet(network: ModelSettings, learn_sigma: bool, num_classes: int) -> UNetModel:
    kind, priority = network.attention_kind, network.attention_priority
    if kind != "hybrid" and priority != "global":
        problem = f"{priority} goes with attention_kind hybrid, got {kind}"
        raise ArgumentError("attention_priority", problem)
    hybrid = {"window": network.attention_window, "priority": priority}
    return UNetModel(
        **_common(network, network.image_size, learn_sigma, num_classes),
        channel_mult=channel_mults(network.channel_mult, network.image_size, network.num_channels),
        use_new_attention_order=network.use_new_attention_order,
        hybrid=hybrid if kind == "hybrid" else None,
    )


def _super_res(network: SuperResSettings, learn_sigma: bool, num_classes: int) -> SuperResModel:
    side = network.large_size
    if network.small_size > side:
        problem = f"expected 1 to large_size {side}, got {network.small_size}"
        raise ArgumentError("small_size", problem)
    common = _common(network, side, learn_sigma, num_classes)
    presets, first = SUPER_RES_CHANNEL_MULT, network.num_channels
    mult = channel_mults(network.channel_mult, side, first, presets, size_flag="large_size")
    return SuperResModel(**common, channel_mult=mult)


def _common(
    network: NetworkSettings, side: int, learn_sigma: bool, num_classes: int
) -> dict[str, Any]:
    return {
        "image_size": side,
        "in_channels": network.in_channels,
        "model_channels": width(network.num_channels),
        "out_channels": network.in_channels * (2 if learn_sigma else 1),
        "num_res_blocks": network.num_res_blocks,
        "attention_resolutions": attention_factors(network.attention_resolutions, side),
        "dropout": network.dropout,
        "num_classes": num_classes if network.class_cond else None,
        "use_checkpoint": network.use_checkpoint,
        "use_fp16": network.use_fp16,
        "num_heads": network.num_heads,
        "num_head_channels": network.num_head_channels,
        "num_heads_upsample": network.num_heads_upsample,
        "use_scale_shift_norm": network.use_scale_shift_norm,
        "resblock_updown": network.resblock_updown,
    }


def _classifier(
    network: ClassifierSettings, learn_sigma: bool, num_classes: int
) -> EncoderUNetModel:
    side = network.image_size
    return EncoderUNetModel(
        image_size=side,
        in_channels=network.in_channels,
        model_channels=width(network.classifier_width, "classifier_width"),
        out_channels=num_classes,
        num_res_blocks=network.classifier_depth,
        attention_resolutions=attention_factors(network.classifier_attention_resolutions, side),
        channel_mult=channel_mults(
            network.classifier_channel_mult, side, network.classifier_width, prefix="classifier_"
        ),
        use_fp16=network.classifier_use_fp16,
        num_head_channels=CLASSIFIER_HEAD_CHANNELS,
        use_scale_shift_norm=network.classifier_use_scale_shift_norm,
        resblock_updown=network.classifier_resblock_updown,
        use_new_attention_order=network.classifier_use_new_attention_order,
        pool=network.classifier_pool,
    )


def _points(network: PointNetworkSettings, learn_sigma: bool, num_classes: int) -> SyntheticModel:
    return SyntheticModel(
        network.in_channels,
        width(network.num_channels),
        network.in_channels * (2 if learn_sigma else 1),
        network.num_res_blocks,
        network.dropout,
        network.use_checkpoint,
        network.use_fp16,
    )


BUILDERS: dict[type, Callable[[Any, bool, int], Any]] = {
    ModelSettings: _unet,
    SuperResSettings: _super_res,
    ClassifierSettings: _classifier,
    PointNetworkSettings: _points,
}


def build_process(process: ProcessSettings) -> SpacedDiffusion:
    """Build a process from its settings.

    Raises:
        ArgumentError: if the schedule needs more steps, or the respacing asks for more timesteps
            than there are.
    """
    variance = "FIXED_SMALL" if process.sigma_small else "FIXED_LARGE"
    steps, respacing = process.diffusion_steps, process.timestep_respacing
    betas = betas_of_flags(process.noise_schedule, steps)
    try:
        use_timesteps = space_timesteps(steps, respacing or [steps])
    except ValueError as error:
        reason = str(error).removeprefix("timestep respacing: ")
        raise ArgumentError("timestep_respacing", reason) from None
    return SpacedDiffusion(
        use_timesteps=use_timesteps,
        betas=betas,
        model_mean_type=gd.ModelMeanType["START_X" if process.predict_xstart else "EPSILON"],
        model_var_type=gd.ModelVarType["LEARNED_RANGE" if process.learn_sigma else variance],
        loss_type=process.loss_type,
        rescale_timesteps=process.rescale_timesteps,
    )


def diffusion_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the diffusion flags."""
    known = defaults(ProcessSettings)
    return {name: known[name] for name in f"learn_sigma {_PROCESS}".split()}


_NETWORK = "image_size class_cond learn_sigma num_channels num_res_blocks"
_HEADS = "num_heads num_head_channels num_heads_upsample attention_resolutions dropout"
_PROCESS = (
    "diffusion_steps noise_schedule timestep_respacing use_kl predict_xstart rescale_timesteps "
    "rescale_learned_sigmas"
)
_BODY = "use_checkpoint use_scale_shift_norm resblock_updown use_fp16"
_CLASSES = f"* num_classes={NUM_CLASSES}"
_CLASSIFIER = (
    "image_size classifier_use_fp16 classifier_width classifier_depth "
    "classifier_attention_resolutions classifier_use_scale_shift_norm "
    "classifier_resblock_updown classifier_pool"
)
_OUT = f"* out_channels={NUM_CLASSES}"


create_gaussian_diffusion = face(
    "create_gaussian_diffusion",
    "Build a process (see `ProcessSettings`); `steps` is its `diffusion_steps`.",
    lambda process, steps: build_process(process.replace(diffusion_steps=steps)),
    (ProcessSettings,),
    "* steps=1000 learn_sigma=False sigma_small=False noise_schedule='linear' use_kl=False "
    "predict_xstart=False rescale_timesteps=False rescale_learned_sigmas=False "
    "timestep_respacing=''",
    left_out="diffusion_steps",
)
create_model = face(
    "create_model",
    "Build the network of images (see `ModelSettings`).",
    build_network,
    (ModelSettings,),
    "image_size num_channels num_res_blocks channel_mult='' learn_sigma=False class_cond=False "
    "use_checkpoint=False attention_resolutions='16' num_heads=1 num_head_channels=-1 "
    "num_heads_upsample=-1 use_scale_shift_norm=False dropout=0 resblock_updown=False "
    f"use_fp16=False use_new_attention_order=False {_CLASSES}",
)
_names = f"{_NETWORK} channel_mult {_HEADS} {_PROCESS} {_BODY} use_new_attention_order"
create_model_and_diffusion = face(
    "create_model_and_diffusion",
    "Build the network of images and its process (see `ModelSettings` and `ProcessSettings`).",
    by_two("create_model", 3, _names),
    (ModelSettings, ProcessSettings),
    f"{_names} {_CLASSES}",
)
create_classifier = face(
    "create_classifier",
    "Build the noisy-image classifier (see `ClassifierSettings`).",
    lambda network, out_channels: build_network(network, num_classes=out_channels),
    (ClassifierSettings,),
    f"{_CLASSIFIER} {_OUT}",
)
_names = f"{_CLASSIFIER} learn_sigma {_PROCESS}"
create_classifier_and_diffusion = face(
    "create_classifier_and_diffusion",
    "Build the noisy-image classifier and the process whose noise it reads.",
    by_two("create_classifier", 8, _names),
    (ClassifierSettings, ProcessSettings),
    f"{_names} {_OUT}",
)
sr_create_model = face(
    "sr_create_model",
    "Build the super-resolution network; `small_size` is the side of its low_res input.",
    build_network,
    (SuperResSettings,),
    "large_size small_size num_channels num_res_blocks learn_sigma class_cond use_checkpoint "
    "attention_resolutions num_heads num_head_channels num_heads_upsample use_scale_shift_norm "
    f"dropout resblock_updown use_fp16 {_CLASSES}",
)
_names = f"large_size small_size {_NETWORK.removeprefix('image_size ')} {_HEADS} {_PROCESS} {_BODY}"
sr_create_model_and_diffusion = face(
    "sr_create_model_and_diffusion",
    "Build the super-resolution network and its process (see `SuperResSettings`).",
    by_two("sr_create_model", 4, _names),
    (SuperResSettings, ProcessSettings),
    f"{_names} {_CLASSES}",
)
create_model_and_diffusion_2d = face(
    "create_model_and_diffusion_2d",
    "Build the network of points and its process (see `PointNetworkSettings`).",
    build,
    (PointNetworkSettings, ProcessSettings),
    f"learn_sigma num_channels num_res_blocks dropout {_PROCESS} use_checkpoint use_fp16 "
    "in_channels=2",
)


def classifier_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the classifier flags."""
    return defaults_for(create_classifier, defaults(ClassifierSettings))


def model_and_diffusion_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the network and diffusion flags."""
    return defaults_for(create_model_and_diffusion, defaults(ModelSettings, ProcessSettings))


def model_and_diffusion_defaults_2d() -> dict[str, Any]:
    """Return DDIB's defaults of the network and diffusion flags for points."""
    known = defaults(PointNetworkSettings, ProcessSettings)
    return defaults_for(create_model_and_diffusion_2d, known)


def classifier_and_diffusion_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the classifier and diffusion flags."""
    known = defaults(ClassifierSettings, ProcessSettings)
    return defaults_for(create_classifier_and_diffusion, known)


def sr_model_and_diffusion_defaults() -> dict[str, Any]:
    """Return upstream's defaults of the super-resolution flags."""
    return defaults_for(sr_create_model_and_diffusion, defaults(SuperResSettings, ProcessSettings))
