"""Draw images of asked classes, steered by a classifier, and save them as one .npz.

The .npz holds arr_0, the images, and arr_1, their classes. Image i depends on --seed and i alone,
whatever the batch size and the number of processes. A killed run keeps its finished images, and
the same command draws the others. The diffusion model may be class-conditional or not. Flags of
the networks are read from the args.json beside each; those given here win.
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
from ..runtime import atomic_files, command, dist_util, execution, logger
from ..sampling import new_images
from ..sampling.guidance import Guided, load_guided

GROUPS = (
    options.SampleOptions,
    options.GuidanceOptions,
    options.ClassOptions,
    options.ModelOptions,
    options.ClassifierOptions,
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

    # Load the networks, and see whether they know the classes.
    guided = load_guided(vars(args), flags.given_flags(argv), dist_util.dev())
    classes = flags.numbers("classes", args.classes) if args.classes else range(guided.num_classes)
    guided.check_classes("classes", classes)
    labels = partial(new_images.random_labels, args.seed, classes=classes)
    out_dir = Path(args.out_dir or os.getenv("OPENAI_LOGDIR") or "results/classifier_samples")
    with blame("out_dir"):
        atomic_files.make_folder(out_dir)
    logger.configure(str(out_dir))

    # Draw images on all ranks, and save them under upstream's name.
    size, channels = (guided.domain.args[name] for name in ("image_size", "in_channels"))
    fixed = {name: value for name, value in vars(args).items() if name not in FREE}
    new_images.stream(
        out_dir,
        (args.num_samples, size, size, channels),
        args.batch_size,
        lambda indices: draw(guided, indices, labels(indices), args),
        identity=fixed | guided.identity,
        labels=labels,
    )


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS)


def draw(
    guided: Guided, indices: Sequence[int], y: Sequence[int], args: argparse.Namespace
) -> torch.Tensor:
    """Return the images [N, C, H, W] of these indices, of classes y [N]."""
    domain = guided.domain
    return new_images.draw(
        domain,
        (domain.args["in_channels"], *[domain.args["image_size"]] * 2),
        indices,
        model=guided.model,
        cond_fn=guided.cond_fn,
        model_kwargs={"y": torch.as_tensor(y, device=domain.device)},
        **flags.args_to_dict(args, DRAW_FLAGS),
    )
