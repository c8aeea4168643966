"""Train the diffusion model of one domain on a folder of images.

Running the same command again resumes from the newest whole checkpoint in --out_dir.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from PIL import Image

from ..config import flags, options
from ..config.flags import args_to_dict
from ..data import pictures
from ..data.image_datasets import load_data
from ..models.script_util import NUM_CLASSES, create_model_and_diffusion
from ..runtime import command, run_folder
from ..training import training_run
from ..training.train_util import TrainLoop

NETWORK = (options.ModelOptions, options.DiffusionOptions)
GROUPS = (options.TrainOptions, *NETWORK, options.RunOptions)
GRID_IMAGES = 16
DATA_FLAGS = (
    "data_dir batch_size image_size class_cond labels in_channels random_crop augment seed".split()
)


@command.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, join the other ranks, and see whether the run folder can be ours.
    args = create_argparser().parse_args(argv)
    default = training_run.default_folder("train", args.data_dir)
    identity = training_run.begin("image_train", args, GROUPS, default)

    # Build everything that a wrong flag or a broken file can stop.
    network = create_model_and_diffusion(**args_to_dict(args, flags.defaults(*NETWORK)))
    loop = training_run.create_loop(*network, args, identity[0])
    loop.data = load_data(start_step=loop.resume_step, **args_to_dict(args, DATA_FLAGS))

    # Claim the run folder and train, with a grid of samples every so often.
    run_folder.claim(*identity)
    training_run.train(loop, args, partial(draw_grid, loop, args))


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS, sets=options.DEFAULT_SETS)


def draw_grid(loop: TrainLoop, args: argparse.Namespace) -> Image.Image:
    """Return a grid of samples."""
    shape = (GRID_IMAGES, args.in_channels, args.image_size, args.image_size)
    classes = {"y": torch.arange(GRID_IMAGES) % NUM_CLASSES} if args.class_cond else {}
    return pictures.square_grid(
        pictures.to_uint8(training_run.draw_samples(loop, args, shape, classes))
    )
