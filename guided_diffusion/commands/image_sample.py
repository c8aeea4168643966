"""Draw images from a trained model and save them as one .npz (arr_0 images, arr_1 labels).

Image i depends on --seed and i alone, whatever the batch size and the number of processes. A
killed run keeps its finished images, and the same command draws the others.
Flags of network and process are read from the args.json beside the model; those given here win.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from ..config import flags, options
from ..errors import blame
from ..models.domains import Domain, load_asked
from ..runtime import atomic_files, command, dist_util, execution, logger
from ..sampling import new_images

GROUPS = (
    options.SampleOptions,
    options.ModelOptions,
    options.DiffusionOptions,
    options.RunOptions,
)
FREE = flags.free_flags(*GROUPS)
DRAW_FLAGS = "seed use_ddim clip_denoised precision".split()


@command.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags and join the other ranks.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    dist_util.setup_dist(device=args.device)
    args.precision = execution.settle_precision(args.precision, dist_util.dev())

    # Load the model; flags on the command line go before those of its training.
    domain = load_asked(args, argv)
    out_dir = Path(args.out_dir or os.getenv("OPENAI_LOGDIR") or "results/samples")
    with blame("out_dir"):
        atomic_files.make_folder(out_dir)
    logger.configure(str(out_dir))

    # Draw images on all ranks, and save them under upstream's name.
    size, channels = domain.args["image_size"], domain.args["in_channels"]
    fixed = {name: value for name, value in vars(args).items() if name not in FREE}
    new_images.stream(
        out_dir,
        (args.num_samples, size, size, channels),
        args.batch_size,
        lambda indices: draw(domain, indices, args),
        identity=fixed | domain.args | {"sha256": domain.sha256},
        labels=partial(new_images.random_labels, args.seed) if domain.args["class_cond"] else None,
    )


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS, sets=options.DEFAULT_SETS)


def draw(domain: Domain, indices: Sequence[int], args: argparse.Namespace) -> torch.Tensor:
    """Return the images [N, C, H, W] of these indices."""
    y = torch.from_numpy(new_images.random_labels(args.seed, indices)).to(domain.device)
    return new_images.draw(
        domain,
        (domain.args["in_channels"], *[domain.args["image_size"]] * 2),
        indices,
        model_kwargs={"y": y} if domain.args["class_cond"] else None,
        **flags.args_to_dict(args, DRAW_FLAGS),
    )
