"""Draw points from a trained two-dimensional model; save them as .npz (arr_0) and as a plot.

Point i depends on --seed and i alone, whatever the batch size and the number of processes. Flags
of network and process are read from the args.json beside the model; those given here win.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..config import flags, options, synthetic_options
from ..data import plots
from ..models.domains import Domain
from ..runtime import atomic_files, command, dist_util, execution, logger
from ..runtime.random_streams import ImageNoise
from ..translation import point_translation

GROUPS = (synthetic_options.SyntheticSampleOptions, *point_translation.NETWORK, options.RunOptions)


@command.command(interrupted=command.STARTS_ANEW)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags and join the other ranks.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    plots.figure_class()
    dist_util.setup_dist(device=args.device)
    args.precision = execution.settle_precision(args.precision, dist_util.dev())
    out_dir = Path(args.out_dir or os.getenv("OPENAI_LOGDIR") or f"results/samples_2d_{args.task}")

    # Load the model: a checkpoint or run, or the run of the task in a folder of runs.
    of_task = point_translation.run_of_task(args.task, args.model_path)
    path = of_task if of_task.is_dir() or not args.model_path else Path(args.model_path)
    domain = point_translation.load(path, args, flags.given_flags(argv), args.task)
    atomic_files.make_folder(out_dir)
    logger.configure(str(out_dir))

    # Draw the points, and save them under upstream's name and as a plot.
    (points,) = point_translation.over_ranks(
        args.num_samples, args.batch_size, lambda batch: [draw(domain, batch, args)]
    )
    name = f"samples_{'x'.join(map(str, points.shape))}"
    point_translation.save(out_dir / name, {"arr_0": points}, [domain.label])


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS)


def draw(domain: Domain, indices: Sequence[int], args: argparse.Namespace) -> torch.Tensor:
    """Return the points [N, 2] of these indices."""
    noise = ImageNoise(args.seed, indices)
    start, diffusion = noise.draw((domain.args["in_channels"],)), domain.diffusion.drawing(noise)
    with execution.autocast(domain.device, args.precision):
        # Points reach beyond [-1, 1], to which images would be clipped.
        return diffusion.p_sample_loop(domain.model, start.shape, start, clip_denoised=False)
