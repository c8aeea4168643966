"""Translate images of one class into another with a class-conditional model (DDIB).

Pairs of classes are the n-th of --source and the n-th of --target. Images lie in a folder for
each class, or in one folder with the class before the first _ of their names; classes are
numbered in alphabetical order, as in training, unless --label_map says otherwise. Running the same
command again makes only what is missing. Flags of the networks are read from the args.json beside
each; those given here win.
"""

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..config import flags, options
from ..config.flags import args_to_dict
from ..config.translation_options import ClassTranslationOptions
from ..data.image_folder import ImageFiles
from ..errors import ArgumentError, UserError
from ..runtime import command, dist_util, execution, logger, progress_bars, run_folder
from ..runtime.work_sharing import Dealing
from ..sampling.guidance import Guided, load_guided
from ..translation import class_translation

NETWORKS = (options.ModelOptions, options.ClassifierOptions, options.DiffusionOptions)
GROUPS = (
    ClassTranslationOptions,
    options.GuidanceOptions,
    *NETWORKS,
    options.RunOptions,
)
FREE = flags.free_flags(*GROUPS)
DEFAULTS = {"classifier_path": "./models/imagenet/256x256_classifier.pt"}  # as published
WHICH_FLAGS = "source target label_map num_images".split()
HOW_FLAGS = "clip_denoised eta seed precision".split()


@command.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags and join the other ranks.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    dist_util.setup_dist(device=args.device)
    args.precision = execution.settle_precision(args.precision, dist_util.dev())
    default = run_folder.default_folder("class_translation", vars(args), FREE, GROUPS)
    out_dir = Path(args.out_dir or default)

    # Check everything that can be wrong, before the first forward.
    items = class_translation.list_translations(args.val_dir, **args_to_dict(args, WHICH_FLAGS))
    guided = load(args, flags.given_flags(argv))
    shape = (guided.domain.args[name] for name in ("image_size", "in_channels"))
    sources = ImageFiles([item.source_file for item in items], *shape)
    sources.check()
    identity = (out_dir, "imagenet_translation", record(args, guided), FREE)
    run_folder.refuse_other_run(*identity)

    # Claim the run folder, find out what an earlier run left to do, and deal it to the ranks.
    run_folder.claim(*identity)
    logger.configure(str(out_dir))
    todo = dist_util.once(lambda: [i for i in items if not (out_dir / i.file_name).exists()])
    mine = Dealing(todo, args.batch_size)

    # Translate the images of this rank.
    logger.log(f"{len(todo)} of {len(items)} images to translate in {out_dir}")
    for batch in progress_bars.progress(mine, unit="batch"):
        images = class_translation.translate(
            guided, sources, batch, **args_to_dict(args, HOW_FLAGS)
        )
        for item, image in zip(batch, images, strict=True):
            class_translation.save(out_dir, item, image)

    # List all, and lay out sources and results side by side.
    dist_util.barrier()
    if dist_util.rank() == 0:
        class_translation.save_overview(out_dir, sources, items)
        logger.log(f"look at {out_dir / 'pairs.png'}")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS, overrides=DEFAULTS)


def load(args: argparse.Namespace, given: Collection[str]) -> Guided:
    """Load the networks, and check that they know the classes."""
    guided = load_guided(vars(args), given, dist_util.dev())
    if not guided.domain.args["class_cond"]:
        raise UserError(
            f"{guided.domain.origin}: expected a class-conditional model (--class_cond True)"
        )
    found = guided.classifier and guided.classifier.args["out_channels"]
    if found and "out_channels" in given and args.out_channels != found:
        raise ArgumentError(
            "out_channels",
            f"{guided.classifier.origin} knows {found} classes, got {args.out_channels}",
        )
    for flag in ("source", "target"):
        guided.check_classes(flag, flags.numbers(flag, getattr(args, flag)))
    return guided


def record(args: argparse.Namespace, guided: Guided) -> dict[str, Any]:
    """Return what decides the files of a run: its own flags, and those that its networks have."""
    of_networks = flags.defaults(*NETWORKS)
    return {k: v for k, v in vars(args).items() if k not in of_networks} | guided.identity
