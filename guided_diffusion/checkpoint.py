"""Load and save checkpoints: plain state dicts under upstream's names, `args.json` beside them.

`load_domain` takes a checkpoint file or a training run folder and rebuilds model and process
from the `args.json` that lies beside the weights. Nothing that is loaded can run code.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th

from . import dist_util, logger, run
from .options import UserError
from .respace import SpacedDiffusion
from .script_util import create_model_and_diffusion, model_and_diffusion_defaults

# Which flag decides the shape of a parameter, by pattern of its name, most telling first.
FLAG_OF_KEY = (
    (r"^label_emb", "class_cond"),
    (r"^time_embed|^input_blocks\.0\.0\.bias", "num_channels"),
    (r"^input_blocks\.0\.0\.weight", "num_channels"),
    (r"^out\.2", "learn_sigma"),
    (r"\.qkv\.|\.proj_out\.|\.norm\.", "attention_resolutions"),
    (r"\.emb_layers\.", "use_scale_shift_norm"),
    (r"\.op\.|\.conv\.", "resblock_updown"),
)


@dataclass
class Domain:
    """A class of images with its trained model.

    Attributes:
        model: the network, in eval mode, on its device.
        diffusion: the process it was trained for, respaced as asked.
        label: name of the domain.
        origin: the checkpoint file.
        args: the flags that model and diffusion were built from.
    """

    model: th.nn.Module
    diffusion: SpacedDiffusion
    label: str
    origin: Path
    args: dict[str, Any]

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
    try:
        state = dist_util.load_state_dict(path, map_location="cpu")
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: expected a checkpoint of plain tensors: {reason}") from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: expected a whole checkpoint, got a file that cannot be read "
            f"({str(error).splitlines()[0]})"
        ) from None
    if not isinstance(state, dict) or not all(th.is_tensor(v) for v in state.values()):
        raise UserError(f"{path}: expected a state dict of tensors, got {type(state).__name__}")
    return state


def save_state(state: Any, path: Path) -> None:
    """Save a state dict so that it is there whole or not at all."""
    with run.atomic_write(path) as file:
        th.save(state, file)


def load_weights(model: th.nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a model of exactly its keys and shapes.

    Raises:
        UserError: naming the first differing key and the flag that likely causes it.
    """
    state = load_state(path)
    _refuse_mismatch(model.state_dict(), state, path)
    model.load_state_dict(state, strict=True)


def _refuse_mismatch(
    expected: Mapping[str, th.Tensor], found: Mapping[str, th.Tensor], path: str | Path
) -> None:
    for key in [*expected, *(key for key in found if key not in expected)]:
        shapes = [tuple(s[key].shape) if key in s else "absent" for s in (expected, found)]
        if shapes[0] != shapes[1]:
            flag = next((f for pattern, f in FLAG_OF_KEY if re.search(pattern, key)), None)
            hint = f"--{flag}" if flag else "--num_res_blocks or --channel_mult"
            raise UserError(
                f"{path}: checkpoint and flags describe different networks; first at {key!r}: "
                f"the flags ask for {shapes[0]}, the file holds {shapes[1]} (check {hint})"
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

    Raises:
        UserError: if the folder holds no checkpoint.
    """
    for model_file in checkpoint_files(folder):
        step = model_file.stem.removeprefix("model")
        averaged = sorted(folder.glob(f"ema_*_{step}.pt"), key=lambda path: path.name)
        return averaged[-1] if averaged else model_file
    loose = sorted(folder.glob("ema_*.pt"))
    if loose:
        return loose[-1]
    raise UserError(f"{folder}: expected a training run with modelNNNNNN.pt or ema_*.pt, got none")


def load_domain(
    path: str | Path,
    flags: Mapping[str, Any] | None = None,
    label: str = "",
    device: th.device | str = "cpu",
    assumed: Mapping[str, Any] | None = None,
) -> Domain:
    """Load a domain from a checkpoint file or a training run folder.

    Args:
        path: file, or folder of which the newest averaged weights are taken.
        flags: model and diffusion flags that override those of `args.json`.
        label: name of the domain; empty: the name of the run folder.
        device: where the model goes.
        assumed: flags of a checkpoint without `args.json`; None: upstream's defaults.

    Raises:
        UserError: if the path, the file or the flags do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: expected a checkpoint or a training run folder, found nothing")
    file = newest_weights(path) if path.is_dir() else path
    args = _recorded_args(file, assumed or {}) | dict(flags or {})
    model, diffusion = create_model_and_diffusion(**args)
    load_weights(model, file)
    model.to(device)
    if args["use_fp16"] and th.device(device).type != "cpu":
        model.convert_to_fp16()
    elif args["use_fp16"]:
        model.dtype = th.float32  # half precision convolutions on a CPU are slower than float32
    model.eval().requires_grad_(False)
    return Domain(model, diffusion, label or file.parent.name, file, args)


def _recorded_args(file: Path, assumed: Mapping[str, Any]) -> dict[str, Any]:
    known = model_and_diffusion_defaults()
    record = file.parent / "args.json"
    if record.exists():
        return known | {k: v for k, v in run.read_args(record)["args"].items() if k in known}
    args = known | {k: v for k, v in assumed.items() if k in known}
    logger.log(f"{file}: no args.json beside it; assuming these flags, which the command line can "
               f"change: {' '.join(f'--{k} {v!r}' for k, v in args.items())}")  # fmt: skip
    return args
