"""Load and save checkpoints: plain state dicts under upstream's names, `args.json` beside them.

A file is .pt or, by its suffix, .safetensors. Nothing that is loaded can run code.
"""

import hashlib
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch as th

from ..errors import ArgumentError, UserError, require
from ..runtime import atomic_files, dist_util
from .mismatch import SIGNS_OF_FLAGS, SignsOfFlags, State, shape_of

SAFETENSORS = ".safetensors"


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
        with atomic_files.atomic_write(path) as file:
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
    model: th.nn.Module,
    path: str | Path,
    signs_of_flags: SignsOfFlags = SIGNS_OF_FLAGS,
    changed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Load a checkpoint into a model of exactly its keys and shapes.

    Args:
        model: the network that the flags describe.
        path: the checkpoint.
        signs_of_flags: what a state dict tells of each flag, the likeliest first.
        changed: flags that are not those of the training, with both values in words.

    Raises:
        UserError: naming the first differing key and the flag that likely causes it.
    """
    fill(model, load_state(path), path, signs_of_flags, changed)


def fill(
    model: th.nn.Module,
    state: State,
    path: str | Path,
    signs_of_flags: SignsOfFlags,
    changed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Load a state dict that came from `path`; see `load_weights`."""
    _refuse_mismatch(model.state_dict(), state, path, signs_of_flags, changed)
    model.load_state_dict(state, strict=True)


def _refuse_mismatch(
    expected: State,
    found: State,
    path: str | Path,
    signs_of_flags: SignsOfFlags,
    changed: Mapping[str, str],
) -> None:
    for key in [*expected, *(key for key in found if key not in expected)]:
        shapes = [shape_of(state, key) for state in (expected, found)]
        if shapes[0] != shapes[1]:
            differing = (flag for flag, sign in signs_of_flags if sign(expected) != sign(found))
            trained = f"trained with {', '.join(changed.values())}: " if changed else ""
            raise UserError(
                f"{path}: {trained}checkpoint and flags describe different networks; first at "
                f"{key!r}: the flags ask for {shapes[0]}, the file holds {shapes[1]} "
                f"(check --{', --'.join(changed) or next(differing)})"
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


def weights_file(path: Path, flag: str = "") -> Path:
    """Return a checkpoint file itself, or the newest weights of a training run folder.

    Args:
        path: of either.
        flag: that names it, for the message.

    Raises:
        UserError: if there is none.
    """
    if not path.exists():
        problem = f"{path}: expected a checkpoint or a training run folder, found nothing"
        raise ArgumentError(flag, problem) if flag else UserError(problem)
    # Asked once: a training beside us may save between the questions of two ranks.
    return dist_util.once(lambda: newest_weights(path)) if path.is_dir() else path
