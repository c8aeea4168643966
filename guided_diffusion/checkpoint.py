"""Load and save checkpoints: plain state dicts under upstream's names, `args.json` beside them.

A file is .pt or, by its suffix, .safetensors. `load_domain` takes a checkpoint file or a training
run folder and rebuilds model and process from the `args.json` that lies beside the weights.
Nothing that is loaded can run code.
"""

import argparse
import hashlib
import pickle
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch as th

from . import dist_util, logger, run
from .flags import UserError, args_to_dict, defaults, given_flags, require
from .options import DiffusionOptions, ModelOptions, SuperResOptions
from .respace import SpacedDiffusion
from .script_util import (
    classifier_and_diffusion_defaults,
    create_classifier_and_diffusion,
    create_model_and_diffusion,
    create_model_and_diffusion_2d,
    sr_create_model_and_diffusion,
)
from .signs import (
    CLASSIFIER_SIGNS,
    SIGNS_OF_FLAGS,
    SignsOfFlags,
    State,
    number_of_classes,
    shape_of,
)
from .synthetic_options import SyntheticModelOptions

SAFETENSORS = ".safetensors"
# Flags that a trained model may be used with at other values.
FREE_OF_TRAINING = {"timestep_respacing", "use_fp16", "use_checkpoint", "dropout", "sigma_small"}


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
    "classifier_train", classifier_and_diffusion_defaults, create_classifier_and_diffusion,
    "classifier_path",
)  # fmt: skip


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


def load_state(path: str | Path) -> dict[str, th.Tensor]:
    """Load a state dict onto the CPU.

    Raises:
        UserError: if the file is missing, cut off, or holds anything but named tensors.
    """
    state = load_file(path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: expected a state dict of tensors, got {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str) or not th.is_tensor(value):
            raise UserError(
                f"{path}: expected a state dict of tensors, got {type(value).__name__} at {key!r}"
            )
    return state


def load_file(path: str | Path) -> Any:
    """Load tensors, and numbers, text, lists and dicts around them, onto the CPU.

    Raises:
        UserError: if the file is missing, cut off, or holds anything else.
    """
    if Path(path).suffix == SAFETENSORS:
        require("safetensors.torch", "safetensors")
    try:
        return _read(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: expected a checkpoint of plain tensors, got text or a pickle of something "
            "else, which is not loaded since it could run code"
        ) from None
    except Exception as error:  # on a damaged file torch.load raises almost anything
        raise UserError(
            f"{path}: expected a whole checkpoint, got a file that cannot be read "
            f"({first_line(error)})"
        ) from None


def _read(path: str | Path) -> Any:
    if Path(path).suffix != SAFETENSORS:
        return dist_util.load_state_dict(path, map_location="cpu")
    from safetensors.torch import load

    with dist_util.open_bytes(path) as file:
        return load(file.read())


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, its type where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


def save_state(state: Any, path: Path) -> None:
    """Save a state dict so that it is there whole or not at all.

    Raises:
        UserError: if it cannot be written, as on a full disk.
    """
    if path.suffix == SAFETENSORS:
        content = require("safetensors.torch", "safetensors").save(
            {key: value.clone(memory_format=th.contiguous_format) for key, value in state.items()}
        )
    try:
        with run.atomic_write(path) as file:
            if path.suffix == SAFETENSORS:
                file.write(content)
            else:
                th.save(state, file)
    except RuntimeError as error:  # so torch reports a write that fails
        room = shutil.disk_usage(path.parent).free / 1e9
        raise UserError(
            f"{path}: cannot be written, {room:.3f} GB of disk are free ({first_line(error)})"
        ) from None


def load_weights(
    model: th.nn.Module, path: str | Path, signs_of_flags: SignsOfFlags = SIGNS_OF_FLAGS
) -> None:
    """Load a checkpoint into a model of exactly its keys and shapes.

    Args:
        model: the network that the flags describe.
        path: the checkpoint.
        signs_of_flags: what a state dict tells of each flag, the likeliest first.

    Raises:
        UserError: naming the first differing key and the flag that likely causes it.
    """
    fill(model, load_state(path), path, signs_of_flags)


def fill(
    model: th.nn.Module, state: State, path: str | Path, signs_of_flags: SignsOfFlags
) -> None:
    """Load a state dict that came from `path`; see `load_weights`."""
    _refuse_mismatch(model.state_dict(), state, path, signs_of_flags)
    model.load_state_dict(state, strict=True)


def _refuse_mismatch(
    expected: State, found: State, path: str | Path, signs_of_flags: SignsOfFlags
) -> None:
    for key in [*expected, *(key for key in found if key not in expected)]:
        shapes = [shape_of(state, key) for state in (expected, found)]
        if shapes[0] != shapes[1]:
            differing = (flag for flag, sign in signs_of_flags if sign(expected) != sign(found))
            raise UserError(
                f"{path}: checkpoint and flags describe different networks; first at {key!r}: "
                f"the flags ask for {shapes[0]}, the file holds {shapes[1]} "
                f"(check --{next(differing)})"
            )


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the modelNNNNNN.pt of a folder, newest first."""
    named = [
        (re.fullmatch(r"model(\d+)\.pt", path.name), path) for path in folder.glob("model*.pt")
    ]
    steps = [(int(match[1]), path) for match, path in named if match]
    return [path for _, path in sorted(steps, reverse=True)]


def newest_weights(folder: Path) -> Path:
    """Return the weights to use from a training run: newest step, averaged where there are any.

    Of several averages it is the one with the highest decay.

    Raises:
        UserError: if the folder holds no checkpoint.
    """
    models, averaged = checkpoint_files(folder), _averaged_files(folder)
    if models:
        ending = f"_{models[0].stem.removeprefix('model')}.pt"
        return next((path for path in averaged if path.name.endswith(ending)), models[0])
    if averaged:
        return averaged[0]
    raise UserError(f"{folder}: expected a training run with modelNNNNNN.pt or ema_*.pt, got none")


def _averaged_files(folder: Path) -> list[Path]:
    # Newest first, and of one step the longest average first.
    named = [
        (re.fullmatch(r"ema_([\d.e-]+)_(\d+)\.pt", path.name), path)
        for path in folder.glob("ema_*.pt")
    ]
    order = [(int(match[2]), float(match[1]), path) for match, path in named if match]
    return [path for *_, path in sorted(order, reverse=True)]


def weights_file(path: Path) -> Path:
    """Return a checkpoint file itself, or the newest weights of a training run folder.

    Raises:
        UserError: if there is none.
    """
    if not path.exists():
        raise UserError(f"{path}: expected a checkpoint or a training run folder, found nothing")
    # Asked once: a training beside us may save between the questions of two ranks.
    return dist_util.once(lambda: newest_weights(path)) if path.is_dir() else path


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
    if (file.parent / "args.json").exists():
        _warn_of_changes(file, recorded, args)
    model, diffusion = kind.create(**args)
    load_weights(model, file)
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
    args = _recorded_args(file, CLASSIFIER, assumed or {}) | dict(flags or {})
    state = load_state(file)
    channels = shape_of(state, "input_blocks.0.0.weight")
    classes = number_of_classes(state)
    if classes is None or len(channels) != 4:
        raise UserError(f"{file}: expected a classifier of images, got other weights")
    args |= {"in_channels": channels[1], "out_channels": classes}
    model, diffusion = CLASSIFIER.create(**args)
    fill(model, state, file, CLASSIFIER_SIGNS)
    _make_ready(model, device, args["classifier_use_fp16"])
    return Domain(model, diffusion, file.parent.name, file, args, digest(file))


def _make_ready(model: th.nn.Module, device: th.device | str, use_fp16: bool) -> None:
    model.to(device, memory_format=th.channels_last)
    if use_fp16 and th.device(device).type != "cpu":
        model.convert_to_fp16()
    elif use_fp16:
        model.dtype = th.float32  # half precision convolutions on a CPU are slower than float32
    model.eval().requires_grad_(False)


def _warn_of_changes(file: Path, trained: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    for name in sorted(trained.keys() - FREE_OF_TRAINING):
        if used[name] != trained[name]:
            change = f"--{name} {trained[name]!r}, used with {used[name]!r}"
            logger.warn(f"{file}: trained with {change}")


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
        raise UserError("--model_path: expected a checkpoint or a training run folder, got none")
    asked = args_to_dict(args, kind.defaults())
    override = {name: asked[name] for name in asked.keys() & given_flags(argv)}
    domain = load_domain(args.model_path, override, "", dist_util.dev(), asked, kind)
    run.compiled(domain.model, args.compile)
    return domain


def _recorded_args(file: Path, kind: Kind, assumed: Mapping[str, Any]) -> dict[str, Any]:
    known, path = kind.defaults(), file.parent / "args.json"
    record = run.read_args(path) if path.exists() else {}
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
    logger.log(f"{file}: no args.json beside it; assuming these flags, which the command line can "
               f"change: {' '.join(f'--{k} {v!r}' for k, v in args.items())}")  # fmt: skip
    return args
