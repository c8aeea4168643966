"""What training commands share: the run folder, the loop, and a picture of samples every so often.

A command calls `begin`, builds network and process, calls `create_loop` and gives it data, claims
the run folder, and calls `train`. Until the claim nothing is written.
"""

import argparse
import functools
import os
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import torch as th
from PIL import Image

from ..config import flags
from ..config.flags import args_to_dict
from ..config.options import DiffusionOptions
from ..data.class_labels import record_classes
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.resample import create_named_schedule_sampler
from ..diffusion.schedules import betas_of_flags
from ..errors import ArgumentError
from ..models.checkpoint import checkpoint_files
from ..models.script_util import create_gaussian_diffusion
from ..networks.attention import set_priority
from ..runtime import (
    atomic_files,
    command,
    dist_util,
    execution,
    logger,
    progress_bars,
    run_folder,
)
from ..runtime.random_streams import ImageNoise, Stream, generator
from .loop_log import drop_later_rows, open_loop_log
from .resume import remove_unfinished
from .train_util import TrainLoop, ema_rates

Identity = tuple[Path, str, dict[str, Any], set[str], dict[str, Any]]

PER_STEP = "batch_size x processes"
_LOOP_FLAGS = (
    "batch_size microbatch lr ema_rate log_interval save_interval use_fp16 fp16_scale_growth "
    "weight_decay lr_anneal_steps precision seed max_steps resume_checkpoint init_checkpoint"
).split()


def begin(
    script: str, args: argparse.Namespace, groups: Sequence[type], default: str | Path
) -> Identity:
    """Check the flags, join the other ranks, and see whether the run folder can be ours.

    Args:
        script: name of the command.
        args: its flags, of `DenoisingOptions`, `RunOptions` and a network; `precision` is
            settled in place.
        groups: the groups of all its flags.
        default: the run folder where none is named.

    Returns:
        the arguments of `run_folder.claim`, of which the first is the run folder.

    Raises:
        UserError: on flags that cannot work, and if the folder holds a run of other flags.
    """
    refuse_flags(args.ema_rate, args.use_fp16, args.precision)
    if vars(args).get("labels", "prefix") != "prefix" and not args.class_cond:
        raise ArgumentError("labels", "expected together with --class_cond True, got it alone")
    if args.init_checkpoint and args.resume_checkpoint:
        raise ArgumentError(
            "init_checkpoint",
            "expected alone, got --resume_checkpoint too; the first starts a training anew, the "
            "second goes on with one",
        )
    return join(script, args, groups, default)


def refuse_flags(ema_rate: str, use_fp16: bool, precision: str) -> None:
    """Stop on flags that cannot work, before anything is loaded.

    Raises:
        UserError: naming the flag.
    """
    ema_rates(ema_rate)
    if use_fp16 and precision != "fp32":
        raise ArgumentError(
            "precision", f"{precision} and --use_fp16 True exclude each other; choose one"
        )


def join(
    script: str,
    args: argparse.Namespace,
    groups: Sequence[type],
    default: str | Path,
    free: Set[str] = frozenset(),
) -> Identity:
    """Join the other ranks, and see whether the run folder can be ours; see `begin`.

    Args:
        script: name of the command.
        args: its flags; `precision` is settled in place.
        groups: the groups of all its flags.
        default: the run folder where none is named.
        free: names of further flags that may differ when the run is continued.

    Raises:
        UserError: if the folder holds a run of other flags.
    """
    betas_of_flags(args.noise_schedule, args.diffusion_steps, "diffusion_steps", pure_noise=False)
    dist_util.setup_dist(device=args.device)
    folder = args.out_dir or os.getenv("OPENAI_LOGDIR") or default
    # What a step learns from is the batch of all ranks; auto may mean another precision elsewhere.
    asked = {**vars(args), PER_STEP: args.batch_size * dist_util.world_size()}
    free = flags.free_flags(*groups) | {"batch_size"} | free
    identity = (Path(folder), script, asked, free, flags.defaults(*groups))
    run_folder.refuse_other_run(*identity, advice=_how_to_train_on(Path(folder)))
    args.precision = execution.settle_precision(args.precision, dist_util.dev())
    # There is no other way to the generator that the first weights are drawn with.
    th.manual_seed(int(generator(args.seed, Stream.FIRST_WEIGHTS).integers(2**62)))
    return identity


def _how_to_train_on(folder: Path) -> str:
    if not checkpoint_files(folder):
        return ""
    return (
        "; to train on from its newest checkpoint with these flags, add "
        f"--out_dir ANOTHER_FOLDER --resume_checkpoint {folder}"
    )


def default_folder(prefix: str, data_dir: str) -> Path:
    """Return results/<prefix>_<name of the image folder>."""
    return Path("results") / f"{prefix}_{Path(data_dir).resolve().name or 'images'}"


def create_loop(
    model: th.nn.Module, diffusion: GaussianDiffusion, args: argparse.Namespace, folder: Path
) -> TrainLoop:
    """Return the loop of a run in this folder, resumed if it holds a checkpoint, without data."""
    execution.to_train(model, dist_util.dev(), args.precision, args.use_fp16)
    return TrainLoop(
        model=execution.compiled(model, args.compile),
        diffusion=diffusion,
        data=(),
        schedule_sampler=create_named_schedule_sampler(args.schedule_sampler, diffusion),
        out_dir=folder,
        **args_to_dict(args, _LOOP_FLAGS),
    )


def train(
    loop: TrainLoop,
    args: argparse.Namespace,
    draw: Callable[[], Image.Image] | None = None,
    unit: str = "image",
    note: str = "",
) -> None:
    """Train to the end in a folder that is claimed; if asked to stop, save and stop.

    A third request ends it without a save; see `command.StopSignal`.

    Args:
        loop: with its data.
        args: flags of the command.
        draw: returns the picture of samples that is saved every --sample_interval steps as
            samples/NNNNNN.png; called on rank 0. None: no pictures.
        unit: what one example is called.
        note: first line of the log.
    """
    dist_util.once(lambda: _forget_what_comes_again(loop))
    open_loop_log(loop.out_dir)
    if note:
        logger.log(note)
    if vars(args).get("class_cond"):
        record_classes(loop.out_dir, args.data_dir, args.labels)
    logger.log(_beginning(loop, vars(args).get("init_checkpoint", "")))
    logger.log(f"arithmetic: {args.precision}")
    picture = functools.partial(_picture_if_due, loop, _interval(args), draw)
    if loop.resume_checkpoint and Path(loop.resume_checkpoint).parent == loop.out_dir:
        picture(missing=True)  # a kill may have come between this checkpoint and its picture
    bar = {"unit": unit, "unit_scale": loop.global_batch, "initial": loop.done}
    with command.StopSignal() as signal:
        for _ in progress_bars.progress(loop.steps(), total=loop.max_steps or None, **bar):
            picture()
            if _to_stop(loop, signal.asked):
                logger.log(f"asked to stop after {loop.done} steps")
                if loop.done % loop.save_interval:  # else it has just been saved
                    loop.save()
                raise KeyboardInterrupt
    logger.log(f"trained {loop.done} steps; the run is in {loop.out_dir}")


def _forget_what_comes_again(loop: TrainLoop) -> None:
    remove_unfinished(loop.out_dir, loop.done)
    drop_later_rows(loop.out_dir, loop.done)


def _beginning(loop: TrainLoop, weights: str) -> str:
    if loop.resume_checkpoint:
        return f"training on from {loop.resume_checkpoint}"
    if weights:
        return f"training from step 0 with the weights of {weights}"
    return "training from scratch"


def _to_stop(loop: TrainLoop, asked: bool) -> bool:
    # The ranks have to agree; they do so where they meet anyway, for the log.
    if dist_util.world_size() == 1:
        return asked
    return loop.done % loop.log_interval == 0 and dist_util.on_any_rank(asked)


def _interval(args: argparse.Namespace) -> int:
    asked = vars(args).get("sample_interval", 0)  # commands without pictures have no such flag
    return args.save_interval if asked == -1 else asked


def _picture_if_due(
    loop: TrainLoop,
    every: int,
    draw: Callable[[], Image.Image] | None,
    missing: bool = False,
) -> None:
    """Save the picture of the present step, if there is to be one; if `missing`, not again."""
    if not (draw and every and (loop.done % every == 0 or loop.done == loop.max_steps)):
        return
    path = loop.out_dir / "samples" / f"{loop.done:06d}.png"
    if dist_util.rank() == 0 and not (missing and path.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = draw()
        with atomic_files.atomic_write(path) as file:
            picture.save(file, "png")
    dist_util.barrier()


def draw_samples(
    loop: TrainLoop,
    args: argparse.Namespace,
    shape: Sequence[int],
    model_kwargs: dict[str, th.Tensor],
) -> th.Tensor:
    """Draw samples with the averaged weights by DDIM in --sample_steps steps.

    Args:
        loop: the training.
        args: flags of the command.
        shape: (N, C, H, W).
        model_kwargs: conditions of the network.

    Returns:
        images of this shape in [-1, 1]; the same noise every time.
    """
    steps = min(args.sample_steps, args.diffusion_steps)
    asked = args_to_dict(args, flags.defaults(DiffusionOptions))
    asked["timestep_respacing"] = str(steps)
    diffusion = create_gaussian_diffusion(steps=asked.pop("diffusion_steps"), **asked)
    noise = ImageNoise(args.seed, range(shape[0])).draw(shape[1:]).to(loop.device)
    conditions = {name: value.to(loop.device) for name, value in model_kwargs.items()}
    with loop.averaged_weights() as model, execution.autocast(loop.device, args.precision):
        set_priority(model, "local")
        return diffusion.ddim_sample_loop(model, noise.shape, noise, model_kwargs=conditions)
