"""Measure how many bits per dimension a model needs for the images of a folder.

What an image needs depends on --seed, the image and its number alone, whatever the batch size and
the number of processes. A killed run keeps what it measured; the same command measures the rest.
Flags of network and process are read from the args.json beside the model; those given here win.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config import flags, options
from ..data.image_formats import open_images
from ..errors import blame
from ..models.domains import load_asked
from ..runtime import (
    atomic_files,
    command,
    dist_util,
    execution,
    logger,
    partial_results,
    run_folder,
)
from ..sampling import likelihood

GROUPS = (
    options.LikelihoodOptions,
    options.ModelOptions,
    options.DiffusionOptions,
    options.RunOptions,
)
FREE = flags.free_flags(*GROUPS)


@command.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags and join the other ranks.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    dist_util.setup_dist(device=args.device)
    args.precision = execution.settle_precision(args.precision, dist_util.dev())

    # Load the model and list the images.
    domain = load_asked(args, argv)
    size, class_cond, channels = (
        domain.args[name] for name in ("image_size", "class_cond", "in_channels")
    )
    with blame("data_dir"):
        images = open_images(args.data_dir, size, channels, labels="prefix" if class_cond else "")
    out_dir = Path(args.out_dir or os.getenv("OPENAI_LOGDIR") or "results/nll")
    with blame("out_dir"):
        atomic_files.make_folder(out_dir)
    logger.configure(str(out_dir))

    # Measure images on all ranks, with the mean so far.
    count = min(args.num_samples, len(images))
    fixed = {name: value for name, value in vars(args).items() if name not in FREE}
    files = [images.name(index) for index in range(len(images))]
    identity = fixed | domain.args | {"sha256": domain.sha256, "files": files}
    partial = out_dir / f".image_nll_{run_folder.fingerprint(identity)}.partial.npy"
    how = flags.args_to_dict(args, ("seed", "clip_denoised", "precision"))
    for measured in partial_results.fill(
        partial,
        likelihood.fields(domain.diffusion.num_timesteps),
        count,
        args.batch_size,
        lambda indices: likelihood.measure(domain, images, indices, **how),
    ):
        log_mean(measured)

    # Save the terms of each timestep under upstream's names.
    if dist_util.rank() == 0:
        save(out_dir, measured)
        partial.unlink()
    dist_util.barrier()


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS, sets=options.DEFAULT_SETS)


def log_mean(measured: np.ndarray) -> None:
    """Log the mean over the images that are finished on any rank."""
    totals = measured["total_bpd"][measured["finished"]]
    mean, error = likelihood.mean_and_error(totals)
    logger.log(
        f"{len(totals)} of {len(measured)} images: {mean:.4f} bits per dimension, "
        f"standard error {error:.4f}"
    )


def save(out_dir: Path, measured: np.ndarray) -> None:
    """Write the means over the images: a row of the log, and an .npz of each term."""
    mean, error = likelihood.mean_and_error(measured["total_bpd"])
    prior, _ = likelihood.mean_and_error(measured["prior_bpd"])
    logger.logkvs({"images": len(measured), "bpd": mean, "bpd_error": error, "prior_bpd": prior})
    logger.dumpkvs()
    for name in likelihood.TERMS:
        with atomic_files.atomic_write(out_dir / f"{name}_terms.npz") as file:
            np.savez(file, measured[name].mean(axis=0, dtype=np.float64))
    logger.log(f"saved {', '.join(f'{name}_terms.npz' for name in likelihood.TERMS)} in {out_dir}")
