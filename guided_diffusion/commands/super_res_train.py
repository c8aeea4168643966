"""Train a diffusion model that enlarges images, on a folder of large ones.

The small images that it learns to enlarge are the large ones averaged over areas. Running the
same command again resumes from the newest whole checkpoint in --out_dir.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from PIL import Image

from ..config import flags, options
from ..config.flags import args_to_dict
from ..data import low_res, pictures
from ..data.image_datasets import load_data
from ..data.image_formats import open_images
from ..data.image_source import ImageSource
from ..models.script_util import sr_create_model_and_diffusion
from ..runtime import command, run_folder
from ..training import training_run
from ..training.train_util import TrainLoop

NETWORK = (options.SuperResOptions, options.DiffusionOptions)
GROUPS = (options.TrainOptions, *NETWORK, options.RunOptions)
GRID_IMAGES = 8
DATA_FLAGS = "data_dir batch_size class_cond labels in_channels random_crop augment seed".split()


@command.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, join the other ranks, and see whether the run folder can be ours.
    args = create_argparser().parse_args(argv)
    default = training_run.default_folder("super_res_train", args.data_dir)
    identity = training_run.begin("super_res_train", args, GROUPS, default)

    # Build everything that a wrong flag or a broken file can stop.
    network = sr_create_model_and_diffusion(**args_to_dict(args, flags.defaults(*NETWORK)))
    loop = training_run.create_loop(*network, args, identity[0])
    asked = args_to_dict(args, DATA_FLAGS) | {"image_size": args.large_size}
    batches = load_data(start_step=loop.resume_step, **asked)
    loop.data = low_res.with_low_res(batches, args.small_size)
    labels = args.labels if args.class_cond else ""
    shown = open_images(args.data_dir, args.large_size, args.in_channels, labels=labels)

    # Claim the run folder and train, with a grid of samples every so often.
    run_folder.claim(*identity)
    training_run.train(loop, args, partial(draw_grid, loop, args, shown))


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS, sets=options.DEFAULT_SETS)


def draw_grid(loop: TrainLoop, args: argparse.Namespace, images: ImageSource) -> Image.Image:
    """Return a grid with a row for each of the first images: small, enlarged, as it was."""
    first = images.batch(range(min(GRID_IMAGES, len(images))))
    large, conditions = next(low_res.with_low_res([first], args.small_size))
    drawn = training_run.draw_samples(loop, args, large.shape, conditions)
    small = low_res.pixelated(conditions["low_res"], args.large_size)
    return pictures.grid(list(zip(*map(pictures.to_uint8, (small, drawn, large)), strict=True)))
