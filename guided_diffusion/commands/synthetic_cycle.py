"""Move points to another distribution and back, and say how far from their start they end.

Prints mean and largest distance; saves the points of every stage as .npz, and a plot of each in
which a point keeps its colour. Flags of network and process are read from the args.json beside
each model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..config import flags, options, synthetic_options
from ..data import plots
from ..models.domains import Domain
from ..runtime import command, dist_util, execution, logger, progress_bars, run_folder
from ..translation import point_translation
from ..translation.walks import Predictor, translate

GROUPS = (synthetic_options.SyntheticBridgeOptions, *point_translation.NETWORK, options.RunOptions)


@command.command(interrupted=command.STARTS_ANEW)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags and join the other ranks.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    plots.figure_class()
    dist_util.setup_dist(device=args.device)
    args.precision = execution.settle_precision(args.precision, dist_util.dev())
    free = flags.free_flags(*GROUPS)
    name = f"cycle_{args.source}_{args.target}"
    out_dir = Path(args.out_dir or run_folder.default_folder(name, vars(args), free, GROUPS))

    # Load the models and claim the run folder.
    source, target = point_translation.load_pair(args, flags.given_flags(argv))
    run_folder.claim(out_dir, "synthetic_cycle", vars(args), free)
    logger.configure(str(out_dir))

    # Move the points there and back.
    points = point_translation.source_points(args)
    latents, moved, latents_back, returned = point_translation.over_ranks(
        args.num_samples,
        args.batch_size,
        lambda batch: there_and_back(source, target, points[batch], args),
    )

    # Save the points and their plots, and say how far apart start and end are.
    point_translation.save(
        out_dir / name,
        {
            "source": points.numpy(),
            "latent": latents,
            "target": moved,
            "latent_back": latents_back,
            "cycle": returned,
        },
        [source.label, "latent", target.label, "latent back", f"{source.label} back"],
    )
    for key, value in point_translation.round_trip(points.numpy(), returned).items():
        logger.logkv(f"{key}_distance", value)
    logger.logkv("points", args.num_samples)
    logger.logkv("steps", source.diffusion.num_timesteps)
    logger.dumpkvs()


def there_and_back(
    source: Domain, target: Domain, points: torch.Tensor, args: argparse.Namespace
) -> list[torch.Tensor]:
    """Return noise and points at the target, then noise and points back at the source."""
    engine = point_translation.create_engine(args)
    ends = [Predictor(domain, engine) for domain in (source, target)]
    there = translate(*ends, points, engine, progress_bars.inner_progress)
    return [*there, *translate(*ends[::-1], there[1], engine, progress_bars.inner_progress)]


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS)
