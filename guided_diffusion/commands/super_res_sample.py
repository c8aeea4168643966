"""Enlarge images with a super-resolution model and save them as one .npz (arr_0).

The small images are taken in turn, each once where --num_samples is not given. Image i depends on
--seed, i and its small image alone, whatever the batch size and the number of processes. A killed
run keeps its finished images, and the same command draws the others.
Flags of network and process are read from the args.json beside the model; those given here win.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..config import flags, options
from ..data.image_datasets import ImageDataset
from ..data.low_res import BaseSamples, open_base_samples
from ..models.checkpoint import digest
from ..models.domains import SUPER_RES, Domain, load_asked
from ..runtime import atomic_files, command, dist_util, execution, logger
from ..runtime.random_streams import Stream
from ..sampling import new_images

GROUPS = (
    options.SampleOptions,
    options.EnlargeOptions,
    options.SuperResOptions,
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

    # Load the model and the small images.
    domain = load_asked(args, argv, SUPER_RES)
    small, *others = (domain.args[k] for k in ("small_size", "class_cond", "in_channels"))
    base = open_base_samples(args.base_samples, small, *others)
    if "num_samples" not in flags.given_flags(argv):
        args.num_samples = min(args.num_samples, len(base))
    out_dir = Path(args.out_dir or os.getenv("OPENAI_LOGDIR") or "results/super_res_samples")
    atomic_files.make_folder(out_dir)
    logger.configure(str(out_dir))

    # Enlarge images on all ranks, and save them under upstream's name.
    size, channels = domain.args["large_size"], domain.args["in_channels"]
    fixed = {name: value for name, value in vars(args).items() if name not in FREE}
    images = base.local_images if isinstance(base, ImageDataset) else digest(args.base_samples)
    new_images.stream(
        out_dir,
        (args.num_samples, size, size, channels),
        args.batch_size,
        lambda indices: draw(domain, base, indices, args),
        identity=fixed | domain.args | {"sha256": domain.sha256, "images": images},
    )


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS, sets=options.DEFAULT_SETS)


def draw(
    domain: Domain,
    base: BaseSamples | ImageDataset,
    indices: Sequence[int],
    args: argparse.Namespace,
) -> torch.Tensor:
    """Return the images [N, C, H, W] of these indices."""
    low_res, conditions = base.batch([index % len(base) for index in indices])
    conditions = conditions | {"low_res": low_res}
    return new_images.draw(
        domain,
        (domain.args["in_channels"], *[domain.args["large_size"]] * 2),
        indices,
        model_kwargs={name: value.to(domain.device) for name, value in conditions.items()},
        purpose=Stream.ENLARGING_NOISE,
        **flags.args_to_dict(args, DRAW_FLAGS),
    )
