"""Train the noisy-image classifier that guides a sampler, on a folder of labelled images.

The class of an image is its file name up to the first _, and classes are numbered in alphabetical
order. Running the same command again resumes from the newest whole checkpoint in --out_dir.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..config import flags, options
from ..config.flags import args_to_dict
from ..data.image_datasets import load_data
from ..diffusion.resample import create_named_schedule_sampler
from ..errors import ArgumentError
from ..models.domains import CLASSIFIER
from ..models.script_util import create_classifier_and_diffusion
from ..runtime import command, dist_util, execution, run_folder
from ..training import training_run
from ..training.classifier_training import ClassifierLoop, check_data

GROUPS = (
    options.ClassifierTrainOptions,
    options.ClassifierOptions,
    options.DiffusionOptions,
    options.RunOptions,
)
LOOP_FLAGS = (
    "batch_size microbatch lr log_interval save_interval resume_checkpoint weight_decay precision "
    "seed noised eval_interval"
).split()
DATA_FLAGS = "batch_size image_size in_channels labels seed".split()


@command.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, join the other ranks, and see whether the run folder can be ours.
    args = create_argparser().parse_args(argv)
    if args.classifier_use_fp16 and args.precision != "fp32":
        raise ArgumentError(
            "precision", f"{args.precision} and --classifier_use_fp16 True exclude each other"
        )
    classes = check_data(args.data_dir, args.val_data_dir, args.num_classes, args.labels)
    # More steps of a constant rate go on from where fewer ended.
    free = set() if args.anneal_lr else {"iterations"}
    identity = training_run.join("classifier_train", args, GROUPS, "results/classifier", free)

    # Build everything that a wrong flag or a broken file can stop.
    loop = create_loop(args, identity[0])
    loop.data = load(args, args.data_dir, loop.resume_step, args.augment, args.random_crop)
    if args.val_data_dir:
        seen = loop.resume_step // args.eval_interval
        loop.val_data = load(args, args.val_data_dir, seen, "none", False)

    # Claim the run folder and train.
    run_folder.claim(*identity)
    names = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
    training_run.train(loop, args, note=f"classes: {names}")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS)


def create_loop(args: argparse.Namespace, out_dir: Path) -> ClassifierLoop:
    """Return the loop of a fresh classifier, or of the one to go on with, without data."""
    model, diffusion = create_classifier_and_diffusion(
        **args_to_dict(args, CLASSIFIER.defaults()),
        out_channels=args.num_classes,
    )
    execution.to_train(model, dist_util.dev(), args.precision, args.classifier_use_fp16)
    return ClassifierLoop(
        execution.compiled(model, args.compile),
        diffusion,
        data=(),
        schedule_sampler=create_named_schedule_sampler(args.schedule_sampler, diffusion),
        use_fp16=args.classifier_use_fp16,
        lr_anneal_steps=args.iterations if args.anneal_lr else 0,
        max_steps=args.iterations,
        out_dir=out_dir,
        **args_to_dict(args, LOOP_FLAGS),
    )


def load(args: argparse.Namespace, folder: str, seen: int, augment: str, crop: bool):  # noqa: ANN201
    """Return endless batches of a folder, from that after the batches seen."""
    return load_data(
        data_dir=folder,
        class_cond=True,
        start_step=seen,
        augment=augment,
        random_crop=crop,
        **args_to_dict(args, DATA_FLAGS),
    )
