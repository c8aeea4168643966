"""Domains: a trained network with the process it was trained for, rebuilt from its `args.json`.

`load_domain` takes a checkpoint file or a training run folder; the flags of the training lie
beside the weights, and those of the command line override them.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch as th

from ..config.flags import args_to_dict, defaults, given_flags
from ..config.options import ClassifierOptions, DiffusionOptions, ModelOptions, SuperResOptions
from ..config.synthetic_options import SyntheticModelOptions
from ..diffusion.respace import SpacedDiffusion
from ..diffusion.schedules import betas_of_flags
from ..errors import ArgumentError, UserError
from ..runtime import dist_util, execution, logger, run_folder
from .checkpoint import digest, fill, load_state, load_weights, weights_file
from .mismatch import CLASSIFIER_SIGNS, number_of_classes, shape_of
from .script_util import (
    create_classifier_and_diffusion,
    create_model_and_diffusion,
    create_model_and_diffusion_2d,
    sr_create_model_and_diffusion,
)

# Flags that a trained model may be used with at other values.
FREE_OF_TRAINING = {
    "timestep_respacing",
    "use_fp16",
    "classifier_use_fp16",
    "use_checkpoint",
    "dropout",
    "sigma_small",
}


@dataclass(frozen=True)
class Kind:
    """A family of networks with their processes.

    Attributes:
        script: name of the command that trains them.
        defaults: returns their flags.
        create: returns network and process of such flags.
        flag: that names its path, if it is the same in every command.
    """

    script: str
    defaults: Callable[[], dict[str, Any]]
    create: Callable[..., tuple[th.nn.Module, SpacedDiffusion]]
    flag: str = ""


IMAGE = Kind(
    "image_train", partial(defaults, ModelOptions, DiffusionOptions), create_model_and_diffusion
)
SUPER_RES = Kind(
    "super_res_train",
    partial(defaults, SuperResOptions, DiffusionOptions),
    sr_create_model_and_diffusion,
)
POINTS = Kind(
    "synthetic_train",
    partial(defaults, SyntheticModelOptions, DiffusionOptions),
    create_model_and_diffusion_2d,
)
CLASSIFIER = Kind(
    "classifier_train",
    partial(defaults, ClassifierOptions, DiffusionOptions),
    create_classifier_and_diffusion,
    "classifier_path",
)


@dataclass
class Domain:
    """A class of images with its trained model, or a classifier of many.

    Attributes:
        model: the network, in eval mode, on its device.
        diffusion: the process it was trained for, respaced as asked.
        label: name of the domain.
        origin: the checkpoint file.
        args: the flags that model and diffusion were built from.
        sha256: digest of the checkpoint file, in hexadecimal.
    """

    model: th.nn.Module
    diffusion: SpacedDiffusion
    label: str
    origin: Path
    args: dict[str, Any]
    sha256: str = ""

    @property
    def device(self) -> th.device:
        """Where the network computes; the CPU for one without parameters."""
        first = next(self.model.parameters(), None)
        return th.device("cpu") if first is None else first.device


def load_domain(
    path: str | Path,
    flags: Mapping[str, Any] | None = None,
    label: str = "",
    device: th.device | str = "cpu",
    assumed: Mapping[str, Any] | None = None,
    kind: Kind = IMAGE,
) -> Domain:
    """Load a domain from a checkpoint file or a training run folder.

    Args:
        path: file, or folder of which the newest averaged weights are taken.
        flags: model and diffusion flags that override those of `args.json`.
        label: name of the domain; empty: the name of the run folder.
        device: where the model goes.
        assumed: flags of a checkpoint without `args.json`; None: upstream's defaults.
        kind: what is expected there.

    Raises:
        UserError: if the path, the file or the flags do not fit.
    """
    file = weights_file(Path(path))
    recorded = _recorded_args(file, kind, assumed or {})
    args = recorded | dict(flags or {})
    changed = _changes(file, recorded, args)
    for change in changed.values():
        logger.warn(f"{file}: trained with {change}")
    betas_of_flags(args["noise_schedule"], args["diffusion_steps"], "diffusion_steps", False)
    model, diffusion = kind.create(**args)
    load_weights(model, file, changed=changed)
    _make_ready(model, device, args["use_fp16"])
    return Domain(model, diffusion, label or file.parent.name, file, args, digest(file))


def load_classifier(
    path: str | Path,
    flags: Mapping[str, Any] | None = None,
    device: th.device | str = "cpu",
    assumed: Mapping[str, Any] | None = None,
) -> Domain:
    """Load a noisy-image classifier from a checkpoint file or a training run folder.

    How many classes and image channels it has is read from its weights, and stands in `args` as
    `out_channels` and `in_channels`.

    Args:
        path: file, or folder of which the newest weights are taken.
        flags: classifier and diffusion flags that override those of `args.json`.
        device: where the classifier goes.
        assumed: flags of a checkpoint without `args.json`; None: upstream's defaults.

    Raises:
        UserError: if the path, the file or the flags do not fit.
    """
    file = weights_file(Path(path))
    recorded = _recorded_args(file, CLASSIFIER, assumed or {})
    args = recorded | dict(flags or {})
    changed, state = _changes(file, recorded, args), load_state(file)
    channels = shape_of(state, "input_blocks.0.0.weight")
    classes = number_of_classes(state)
    if classes is None or len(channels) != 4:
        raise UserError(f"{file}: expected a classifier of images, got other weights")
    args |= {"in_channels": channels[1], "out_channels": classes}
    betas_of_flags(args["noise_schedule"], args["diffusion_steps"], "diffusion_steps", False)
    model, diffusion = CLASSIFIER.create(**args)
    fill(model, state, file, CLASSIFIER_SIGNS, changed)
    _make_ready(model, device, args["classifier_use_fp16"])
    return Domain(model, diffusion, file.parent.name, file, args, digest(file))


def _make_ready(model: th.nn.Module, device: th.device | str, use_fp16: bool) -> None:
    model.to(device, memory_format=th.channels_last)
    if use_fp16 and th.device(device).type != "cpu":
        model.convert_to_fp16()
    elif use_fp16:
        model.dtype = th.float32  # half precision convolutions on a CPU are slower than float32
    model.eval().requires_grad_(False)


def _changes(file: Path, trained: Mapping[str, Any], used: Mapping[str, Any]) -> dict[str, str]:
    """Return {flag: its value in training and now} of those that differ, if a record tells."""
    if not (file.parent / "args.json").exists():
        return {}
    return {
        name: f"--{name} {trained[name]!r}, used with {used[name]!r}"
        for name in sorted(trained.keys() - FREE_OF_TRAINING)
        if used[name] != trained[name]
    }


def load_asked(args: argparse.Namespace, argv: Iterable[str], kind: Kind = IMAGE) -> Domain:
    """Load the domain of `--model_path` onto this rank's device.

    Args:
        args: flags of a command, those of `kind` among them.
        argv: its command line; flags that stand there go before those of the training.
        kind: what is expected there.

    Raises:
        UserError: if there is none, or the flags do not fit it.
    """
    if not args.model_path:
        raise ArgumentError(
            "model_path", "expected a checkpoint or a training run folder, got none"
        )
    asked = args_to_dict(args, kind.defaults())
    override = {name: asked[name] for name in asked.keys() & given_flags(argv)}
    domain = load_domain(args.model_path, override, "", dist_util.dev(), asked, kind)
    execution.compiled(domain.model, args.compile)
    return domain


def _recorded_args(file: Path, kind: Kind, assumed: Mapping[str, Any]) -> dict[str, Any]:
    known, path = kind.defaults(), file.parent / "args.json"
    record = run_folder.read_args(path) if path.exists() else {}
    script = str(record.get("script", ""))
    if script == kind.script:
        return known | {k: v for k, v in record["args"].items() if k in known}
    if script.endswith("_train"):
        raise UserError(
            f"{file}: checkpoint and flags describe different networks: those of {script} and "
            f"of {kind.script}{f' (check --{kind.flag})' if kind.flag else ''}"
        )
    # The record of a sampler that wrote into this folder tells nothing of the weights.
    args = known | {k: v for k, v in assumed.items() if k in known}
    logger.log(
        f"{file}: no args.json beside it; assuming these flags, which the command line can "
        f"change: {' '.join(f'--{k} {v!r}' for k, v in args.items())}"
    )
    return args
