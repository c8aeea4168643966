"""Train DDIB's two-dimensional model of one distribution of points.

Running the same command again resumes from the newest whole checkpoint in --out_dir.
"""

import argparse
from collections.abc import Sequence

from ..config import flags, options, synthetic_options
from ..config.flags import args_to_dict
from ..data.synthetic_datasets import load_2d_data, shape_of_task
from ..models.script_util import create_model_and_diffusion_2d
from ..runtime import command, run_folder
from ..training import training_run
from ..translation import point_translation

NETWORK = point_translation.NETWORK
GROUPS = (synthetic_options.SyntheticTrainOptions, *NETWORK, options.RunOptions)


@command.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, join the other ranks, and see whether the run folder can be ours.
    args = create_argparser().parse_args(argv)
    default = point_translation.run_of_task(args.task)
    identity = training_run.begin("synthetic_train", args, GROUPS, default)

    # Build everything that a wrong flag or a broken file can stop.
    network = create_model_and_diffusion_2d(**args_to_dict(args, flags.defaults(*NETWORK)))
    loop = training_run.create_loop(*network, args, identity[0])
    shape = shape_of_task(args.task)
    loop.data = load_2d_data(args.batch_size, shape, seed=args.seed, start_step=loop.resume_step)

    # Claim the run folder and train.
    run_folder.claim(*identity)
    training_run.train(loop, args, unit="point")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS)
