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

from ..errors import UserError, require
from ..runtime import atomic_files, dist_util, run_folder
from . import averages
from .mismatch import SIGNS_OF_FLAGS, SignsOfFlags, State, shape_of

SAFETENSORS = ".safetensors"


def load_state(path: str | Path) -> dict[str, th.Tensor]:
    """Load a state dict onto the CPU.

    Raises:
        UserError: if the file is missing, cut off, or holds anything but named tensors.
    """
    state = load_file(path)
    wrong = [type(state).__name__]
    if isinstance(state, dict):
        wrong = [
            f"{type(value).__name__} at {key!r}"
            for key, value in state.items()
            if not (isinstance(key, str) and th.is_tensor(value))
        ]
    if wrong:
        raise UserError(f"{path}: expected a state dict of tensors, got {wrong[0]}")
    return state


def load_file(path: str | Path) -> Any:
    """Load tensors, and numbers, text, lists and dicts around them, onto the CPU.

    Raises:
        UserError: if the file is missing, cut off, or holds anything else.
    """
    safe = Path(path).suffix == SAFETENSORS and require("safetensors.torch", "safetensors")
    try:
        if not safe:
            return dist_util.load_state_dict(path, map_location="cpu")
        with dist_util.open_bytes(path) as file:
            return safe.load(file.read())
    except FileNotFoundError:
        problem = "no such checkpoint"
    except pickle.UnpicklingError:
        problem = (
            "expected a checkpoint of plain tensors, got text or a pickle of something else, "
            "which is not loaded since it could run code"
        )
    except Exception as error:  # on a damaged file torch.load raises almost anything
        found = f"a file that cannot be read ({first_line(error)})"
        problem = f"expected a whole checkpoint, got {found}"
    raise UserError(f"{path}: {problem}")


def training_record(path: Path) -> dict[str, Any]:
    """Return the `args.json` that a training left beside a checkpoint; {} where there is none.

    The record of a command that made images in that folder says nothing about the weights.
    """
    record = run_folder.read_args(path.with_name(run_folder.RECORD))
    return record if str(record.get("script")).endswith("_train") else {}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has no message."""
    return (str(error) or type(error).__name__).splitlines()[0]


def save_state(state: Any, path: Path) -> None:
    """Save a state dict; the file appears whole or not at all.

    Raises:
        UserError: if it cannot be written, as on a full disk.
    """
    safe = path.suffix == SAFETENSORS and require("safetensors.torch", "safetensors")
    try:
        with atomic_files.atomic_write(path) as file:
            if safe:
                form = th.contiguous_format
                file.write(safe.save({k: v.clone(memory_format=form) for k, v in state.items()}))
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
    """Load a checkpoint into a model of exactly its keys and shapes; see `fill`."""
    fill(model, load_state(path), path, signs_of_flags)


def fill(
    model: th.nn.Module,
    state: State,
    path: str | Path,
    signs_of_flags: SignsOfFlags,
    changed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Load a state dict into a model of exactly its keys and shapes.

    Args:
        model: the network that the flags describe.
        state: the state dict.
        path: file that the state dict was read from, for messages.
        signs_of_flags: flags and their signs, see `mismatch`.
        changed: {flag: both values in words} of the flags that the training had at other values.

    Raises:
        UserError: naming the first differing key and the flag that likely causes it.
    """
    own = model.state_dict()
    for key in {**own, **state}:
        asked, held = shape_of(own, key), shape_of(state, key)
        if asked != held:
            differing = (flag for flag, sign in signs_of_flags if sign(own) != sign(state))
            trained = f"trained with {', '.join(changed.values())}: " if changed else ""
            raise UserError(
                f"{path}: {trained}checkpoint and flags describe different networks; first at "
                f"{key!r}: the flags ask for {asked}, the file holds {held} "
                f"(check --{', --'.join(changed) or next(differing)})"
            )
    model.load_state_dict(state, strict=True)


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    # By the step, the last number of a name, and within a step by the number before it.
    found = {path: re.fullmatch(pattern, path.name) for path in folder.glob("*.pt")}
    order = [(*map(float, match.groups()[::-1]), path) for path, match in found.items() if match]
    return [path for *_, path in sorted(order, reverse=True)]


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the modelNNNNNN.pt of a folder, newest first."""
    return _newest_first(folder, r"model(\d+)\.pt")


def newest_weights(folder: Path) -> Path:
    """Return the file of weights to use from a training run: the newest step, averaged if possible.

    Of several averages the one with the highest decay is taken; see `averages.choose`.

    Raises:
        UserError: if the folder holds no checkpoint.
    """
    averaged = _newest_first(folder, averages.NAME)
    if models := checkpoint_files(folder):
        ending = f"_{models[0].stem.removeprefix('model')}.pt"
        return averages.choose([p for p in averaged if p.name.endswith(ending)], models[0])
    if averaged:
        return averaged[0]
    raise UserError(f"{folder}: expected a training run with modelNNNNNN.pt or ema_*.pt, got none")


def weights_file(path: Path) -> Path:
    """Return a checkpoint file itself, or the newest weights of a training run folder.

    Raises:
        UserError: if there is none.
    """
    if not path.exists():
        raise UserError(f"{path}: expected a checkpoint or a training run folder, found nothing")
    # One rank looks for all: a training may save its next file between the looks of two ranks.
    return dist_util.once(lambda: newest_weights(path)) if path.is_dir() else path
