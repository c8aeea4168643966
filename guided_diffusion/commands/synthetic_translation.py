"""Move points of one distribution to another: encode with the source model, decode with the target.

Saves source points, noise and target points as .npz, and a plot of each in which a point keeps its
colour. Flags of network and process are read from the args.json beside each model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config import flags, options, synthetic_options
from ..data import plots
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
    name = f"translation_{args.source}_{args.target}"
    out_dir = Path(args.out_dir or run_folder.default_folder(name, vars(args), free, GROUPS))

    # Load the models and claim the run folder.
    source, target = point_translation.load_pair(args, flags.given_flags(argv))
    run_folder.claim(out_dir, "synthetic_translation", vars(args), free)
    logger.configure(str(out_dir))

    # Move the points to the noise and on to the target.
    points, engine = point_translation.source_points(args), point_translation.create_engine(args)
    ends = [Predictor(domain, engine) for domain in (source, target)]
    latents, moved = point_translation.over_ranks(
        args.num_samples,
        args.batch_size,
        lambda batch: translate(*ends, points[batch], engine, progress_bars.inner_progress),
    )

    # Save the points and their plots.
    point_translation.save(
        out_dir / name,
        {"source": points.numpy(), "latent": latents, "target": moved},
        [source.label, "latent", target.label],
    )


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS)
