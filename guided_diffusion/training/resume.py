"""Checkpoints that a training goes on from: their names, and the newest whole one.

A checkpoint is modelNNNNNN.pt after NNNNNN steps, beside optNNNNNN.pt and ema_RATE_NNNNNN.pt.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, DamagedFileError, UserError
from ..models import averages, checkpoint
from ..models.integrity import digest_file, write_digest
from ..runtime import dist_util, logger, run_folder

# Settings that no shape of a weight tells, and that decide what weights mean.
MEANING = set(
    "num_heads num_heads_upsample num_head_channels use_new_attention_order attention_window "
    "classifier_use_new_attention_order noise_schedule diffusion_steps predict_xstart "
    "rescale_timesteps".split()
)
# Settings that may change in the midst of a training, though seldom on purpose.
TOLD = set("image_size large_size small_size use_kl rescale_learned_sigmas".split())


def parse_resume_step_from_filename(filename: str | os.PathLike) -> int:
    """Return NNNNNN of path/to/modelNNNNNN.pt, 0 for any other name."""
    match = re.search(r"model(\d+)\.pt$", str(filename))
    return int(match[1]) if match else 0


def get_blob_logdir() -> str:
    """Return the folder of checkpoints where none is named: the logger's, else the current one."""
    return logger.get_dir() or "."


def named_checkpoint(path: str) -> str:
    """Return the path of a checkpoint itself, or of the newest whole one of a training run folder.

    Raises:
        UserError: if the folder holds no whole checkpoint.
    """
    # One rank looks for all: whether ranks wait for one another must not depend on their disks.
    found = dist_util.once(lambda: newest_checkpoint(path) if os.path.isdir(path) else path)
    if path and not found:
        raise ArgumentError("resume_checkpoint", f"expected a modelNNNNNN.pt in {path}, found none")
    return found


def find_resume_checkpoint() -> str | None:
    """Return None, as upstream; a program may put a search for a checkpoint in its place.

    The training loop asks it before it takes the checkpoint that it was given.
    """
    return None


def newest_checkpoint(folder: str | os.PathLike) -> str:
    """Return the newest modelNNNNNN.pt of a folder that loads, with its optimizer; "" without one.

    A checkpoint that was damaged after it was written is named in the log and passed over.

    Raises:
        UserError: if a file cannot be read although it may be whole, or if all are damaged.
    """
    files, problems = checkpoint.checkpoint_files(Path(folder)), list[str]()
    for path in files:
        step = path.stem.removeprefix("model")
        optimizer = path.with_name(f"opt{step}.pt")
        ending = f"_{step}.pt"
        averaged = [p for p in checkpoint.average_files(path.parent) if p.name.endswith(ending)]
        try:
            if not os.path.lexists(optimizer):
                raise DamagedFileError(f"{optimizer}: no such file")
            for part in (path, optimizer, *averaged):
                checkpoint.load_file(part)
            return str(path)
        except DamagedFileError as error:
            problems.append(str(error).removeprefix(f"{path.parent}{os.sep}"))
            logger.warn(f"cannot resume from {path}: {problems[-1]}")
    if problems:
        raise UserError(
            f"{folder}: no checkpoint in it can be trained on from, the newest because of "
            f"{problems[0]}; restore one from a copy, or move them away to start anew, or go on in "
            "another folder with --init_checkpoint and a file of weights that is whole"
        )
    return ""


def log_what_is_missing(path: str) -> None:
    """Log what a training cannot take over from a checkpoint: its step, or its optimizer."""
    name, anew = Path(path).name, "its optimizer and averages start anew"
    average = re.fullmatch(averages.NAME, name)
    if average:
        whole = Path(path).with_name(f"model{average[2]}.pt")
        logger.warn(f"{path}: averaged weights; training begins at step 0, {anew}; see {whole}")
    elif not re.fullmatch(checkpoint.MODEL, name):
        expected = "its name tells no step, as modelNNNNNN.pt does"
        logger.log(f"{path}: {expected}: training begins at step 0, {anew}")
    elif not (beside := Path(path).with_name(name.replace("model", "opt", 1))).exists():
        logger.warn(f"{path}: no {beside.name} beside it: the optimizer starts anew")


def refuse_other_training(path: str, folder: Path, asked: Mapping[str, Any]) -> None:
    """Refuse to go on from another training whose weights would mean something else here.

    Args:
        path: the `--resume_checkpoint`.
        folder: run folder; a checkpoint of its own goes first.
        asked: {name: value} of the settings of network and process.

    Raises:
        ArgumentError: if its record has another process or other heads.
    """
    if not path or "://" in path or checkpoint.checkpoint_files(folder):
        return
    file = Path(path, "model.pt") if os.path.isdir(path) else Path(path)
    told = checkpoint.training_record(file).get("args", {})
    differing = [name for name in told if name in asked and told[name] != asked[name]]
    unlike = [run_folder.difference(n, told[n], asked[n]) for n in differing if n in MEANING]
    if unlike:
        raise ArgumentError(
            "resume_checkpoint",
            f"{path} was trained otherwise ({'; '.join(unlike)}); give the same to go on with it, "
            f"or --init_checkpoint {path} in its place to start anew from its weights",
        )
    for name in differing:
        if name in TOLD and dist_util.rank() == 0:
            logger.warn(f"{path}: {run_folder.difference(name, told[name], asked[name])}")


def ema_rates(text: float | str) -> list[float]:
    """Read the decays of averaged weights.

    Raises:
        UserError: if they are not numbers in [0, 1) with commas between.
    """
    try:
        rates = [float(part) for part in str(text).split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 <= rate < 1 for rate in rates):
        raise ArgumentError("ema_rate", f"expected decays in [0, 1), got {text!r}")
    return rates


def find_ema_checkpoint(main_checkpoint: str | None, step: int, rate: float | str) -> str | None:
    """Return the path of the averaged weights beside a checkpoint, or None."""
    if not main_checkpoint:
        return None
    path = Path(main_checkpoint).with_name(f"ema_{rate}_{step:06d}.pt")
    return str(path) if os.path.lexists(path) else None


def remove_unfinished(folder: Path, done: int) -> None:
    """Remove optimizers and averages of later steps than `done` whose model was never saved."""
    for optimizer in folder.glob("opt*.pt"):
        step = optimizer.stem.removeprefix("opt")
        if step.isdecimal() and int(step) > done and not (folder / f"model{step}.pt").exists():
            for part in (*folder.glob(f"ema_*_{step}.pt"), optimizer):
                digest_file(part).unlink(missing_ok=True)
                part.unlink()


def complete_digests(folder: Path, done: int) -> None:
    """Write the digests that a kill kept from the files of a checkpoint, which was just loaded."""
    step = f"{done:06d}.pt"
    parts = folder / f"model{step}", folder / f"opt{step}", *folder.glob(f"ema_*_{step}")
    for path in parts:
        if path.exists() and not digest_file(path).exists():
            write_digest(path, checkpoint.digest(path))
