"""Load and save checkpoints: plain state dicts under upstream's names, `args.json` beside them.

A file is .pt or, by its suffix, .safetensors. Nothing that is loaded can run code.
"""

import hashlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch as th

from ..errors import UserError, require
from ..runtime import atomic_files, dist_util, run_folder
from ..runtime.input_files import unreadable
from ..runtime.writing import room
from . import averages
from .foreign_weights import weights_in
from .integrity import HashingWriter, digest_file, write_digest
from .loading import SAFETENSORS, first_line, read_file
from .mismatch import SIGNS_OF_FLAGS, SignsOfFlags, State, shape_of

MODEL = r"model(\d+)\.pt"
WEIGHTS = th.float32, th.float16, th.bfloat16, th.float64
MOST_TRIED = 10  # earlier files, in search of finite weights


def load_state(path: str | Path) -> dict[str, th.Tensor]:
    """Load a state dict onto the CPU; see `read_state`."""
    return read_state(path)[0]


def read_state(path: str | Path) -> tuple[dict[str, th.Tensor], str]:
    """Load a state dict onto the CPU; return it with the SHA-256 of its file, in hexadecimal.

    Raises:
        UserError: if the file is missing, cut off, or holds anything but the weights of a network.
    """
    found, sha256 = read_file(path)
    return weights_in(found, path), sha256


def load_file(path: str | Path) -> Any:
    """Load tensors, and numbers, text, lists and dicts around them, onto the CPU.

    Raises:
        DamagedFileError: if the file is cut off or its content changed since it was written.
        UserError: if it is missing, cannot be read, or holds anything else.
    """
    return read_file(path)[0]


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


def save_state(state: Any, path: Path) -> None:
    """Save a state dict, and its digest beside it; the file appears whole or not at all.

    Raises:
        OSError: if it cannot be written, as on a full disk, with the path as `filename`.
        UserError: if torch cannot write it for another reason.
    """
    safe = path.suffix == SAFETENSORS and require("safetensors.torch", "safetensors")
    writer = HashingWriter(io.BytesIO())
    try:
        with atomic_files.atomic_write(path) as file:
            writer.file = file
            if safe:
                form = th.contiguous_format
                writer.write(safe.save({k: v.clone(memory_format=form) for k, v in state.items()}))
            else:
                th.save(state, writer)
            digest_file(path).unlink(missing_ok=True)  # the file that it belongs to goes now
        write_digest(path, writer.sha256.hexdigest())
    except RuntimeError as error:  # so torch reports a write that fails
        if found := writer.problem:
            raise OSError(found.errno, found.strerror, str(path)) from None
        problem = f"cannot be written, {room(path)} ({first_line(error)})"
        raise UserError(f"{path}: {problem}") from None


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
    """Load a state dict into a model of exactly its keys and shapes; see `refuse_unlike`."""
    refuse_unlike(model.state_dict(), state, path, signs_of_flags, changed)
    model.load_state_dict(state, strict=True)


def refuse_unlike(
    own: State,
    state: State,
    path: str | Path,
    signs_of_flags: SignsOfFlags,
    changed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse a state dict of other keys or shapes, or of other than finite numbers.

    Args:
        own: state dict of the network that the flags describe, whose values do not matter.
        state: the state dict.
        path: file that the state dict was read from, for messages.
        signs_of_flags: flags and their signs, see `mismatch`.
        changed: {flag: both values in words} of the flags that the training had at other values.

    Raises:
        UserError: naming the first differing key and the flag that likely causes it.
    """
    if state and not own.keys() & state.keys():
        first = next(iter(state))
        raise UserError(
            f"{path}: expected weights of a network of this kind, got none of its tensors: "
            f"{len(state)} others, such as {first!r}"
        )
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
    for key, value in state.items():
        if own[key].is_floating_point() and value.dtype not in WEIGHTS:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in WEIGHTS)
            raise UserError(
                f"{path}: expected weights as {known}, got {value.dtype} at {key!r}; it is no "
                "checkpoint of this network, or was converted by another program"
            )
    # A number that the file's format holds may be too large for the network's.
    refuse_infinite({key: value.to(own[key].dtype) for key, value in state.items()}, path)


def refuse_infinite(state: State, path: str | Path) -> None:
    """Refuse weights that are not finite, and name an earlier file of the same training that is.

    Raises:
        UserError: naming the first tensor with such a number.
    """
    key = first_infinite(state)
    if key:
        raise UserError(
            f"{path}: its numbers are not finite, first at {key!r}: the training diverged; "
            f"{_advice_after_divergence(Path(path))}"
        )


def first_infinite(state: State) -> str:
    """Return the first key whose tensor holds infinities or NaN; "" where all are finite."""
    return next((key for key, value in state.items() if not value.isfinite().all()), "")


def _advice_after_divergence(path: Path) -> str:
    for tried, older in enumerate(earlier_files(path)):
        if tried == MOST_TRIED:
            return f"nor are the numbers of the {MOST_TRIED} files before it"
        try:
            if not first_infinite(load_state(older)):
                return f"the newest file before it with finite numbers is {older}: give that one"
        except UserError:
            continue
    return "train again with a lower --lr"


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    # By the step, the last number of a name, and within a step by the number before it.
    try:
        names = os.listdir(folder)  # Path.glob finds nothing where it may not look
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from None
    found = {name: re.fullmatch(pattern, name) for name in names}
    order = [(*map(float, match.groups()[::-1]), name) for name, match in found.items() if match]
    return [folder / name for *_, name in sorted(order, reverse=True)]


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the modelNNNNNN.pt of a folder, newest first."""
    return _newest_first(folder, MODEL)


def average_files(folder: Path) -> list[Path]:
    """Return the ema_R_NNNNNN.pt of a folder, newest first, and the highest decay of a step."""
    return _newest_first(folder, averages.NAME)


def earlier_files(path: Path) -> list[Path]:
    """Return the files of weights of earlier steps beside a file, of its kind, newest first."""
    step = path.stem.rpartition("_")[2].removeprefix("model")
    for files in (checkpoint_files(path.parent), average_files(path.parent)):
        if path in files:
            later = files[files.index(path) + 1 :]
            return [file for file in later if not file.stem.endswith(step)]
    return []


def newest_weights(folder: Path, told: bool = True) -> Path:
    """Return the file of weights to use from a training run: the newest step, averaged if possible.

    Of several averages the one with the highest decay is taken; see `averages.choose`.

    Args:
        folder: folder of the run.
        told: whether the log says so if an average is too young.

    Raises:
        UserError: if the folder holds no checkpoint.
    """
    averaged = average_files(folder)
    if models := checkpoint_files(folder):
        ending = f"_{models[0].stem.removeprefix('model')}.pt"
        return averages.choose([p for p in averaged if p.name.endswith(ending)], models[0], told)
    if averaged:
        return averaged[0]
    raise UserError(f"{folder}: expected a training run with modelNNNNNN.pt or ema_*.pt, got none")


def weights_file(path: Path, told: bool = True) -> Path:
    """Return a checkpoint file itself, or the newest weights of a training run folder.

    Args:
        path: path of a file or folder.
        told: whether the log says so if an average is too young.

    Raises:
        UserError: if there is none.
    """

    def find() -> Path:
        if not os.path.lexists(path):  # a dangling link is told by who opens it
            problem = "expected a checkpoint or a training run folder, found nothing"
            raise UserError(f"{path}: {problem}")
        return newest_weights(path, told) if path.is_dir() else path

    # One rank looks for all: a training may save its next file between the looks of two ranks.
    return dist_util.once(find)
