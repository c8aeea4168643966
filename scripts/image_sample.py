"""Draw images from a trained model and save them as one .npz (arr_0 images, arr_1 labels).

Image i depends on --seed and i alone, whatever the batch size and the number of processes.
Flags of network and process are read from the args.json beside the model; those given here win.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from guided_diffusion import bridge, dist_util, flags, logger, options, report, run
from guided_diffusion.checkpoint import Domain, load_domain
from guided_diffusion.flags import UserError
from guided_diffusion.script_util import NUM_CLASSES

NETWORK = (options.ModelOptions, options.DiffusionOptions)
GROUPS = (options.SampleOptions, *NETWORK, options.RunOptions)
GRID_IMAGES = 64


@run.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags and join the other ranks.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    if not args.model_path:
        raise UserError("--model_path: expected a checkpoint or a training run folder, got none")
    dist_util.setup_dist(args.device)
    args.precision = run.settle_precision(args.precision, dist_util.dev())

    # Load the model; flags on the command line go before those of its training.
    asked = flags.args_to_dict(args, flags.defaults(*NETWORK))
    override = {name: value for name, value in asked.items() if name in flags.given_flags(argv)}
    domain = load_domain(args.model_path, override, "", dist_util.dev(), assumed=asked)
    out_dir = Path(args.out_dir or os.getenv("OPENAI_LOGDIR") or "results/samples")
    run.make_folder(out_dir)
    logger.configure(str(out_dir))

    # Draw this rank's batches into an array that the ranks share.
    size, channels = domain.args["image_size"], domain.args["in_channels"]
    shape = (args.num_samples, size, size, channels)
    shared = out_dir / ".samples.partial.npy"
    if dist_util.rank() == 0:
        open_memmap(shared, "w+", np.uint8, shape)
    dist_util.barrier()
    images = open_memmap(shared, "r+")
    batches = bridge.deal(args.num_samples, args.batch_size)
    mine = batches[dist_util.rank() :: dist_util.world_size()]
    for batch in run.progress(mine, unit="batch"):
        images[batch] = report.to_uint8(draw(domain, batch, args))
    images.flush()
    dist_util.barrier()

    # Save all images under upstream's name, and a grid to look at.
    if dist_util.rank() == 0:
        save(out_dir / f"samples_{'x'.join(map(str, shape))}.npz", domain, args, images)
        report.square_grid(images[:GRID_IMAGES]).save(out_dir / "samples.png")
        shared.unlink()
    dist_util.barrier()


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS, sets=options.DEFAULT_SETS)


def draw(domain: Domain, indices: Sequence[int], args: argparse.Namespace) -> torch.Tensor:
    """Return the images [N, C, H, W] of these indices."""
    noise = run.ImageNoise(args.seed, indices)
    domain.diffusion.noise_like = noise
    start = noise.draw((domain.args["in_channels"], *[domain.args["image_size"]] * 2))
    y = torch.from_numpy(labels(args.seed, indices)).to(domain.device)
    loop = domain.diffusion.ddim_sample_loop if args.use_ddim else domain.diffusion.p_sample_loop
    with run.autocast(domain.device, args.precision):
        return loop(
            domain.model,
            start.shape,
            start,
            clip_denoised=args.clip_denoised,
            model_kwargs={"y": y} if domain.args["class_cond"] else None,
        )


def labels(seed: int, indices: Sequence[int]) -> np.ndarray:
    """Return the class that each image is drawn in, for class-conditional models."""
    return np.array([run.generator(seed, 4, i).integers(NUM_CLASSES) for i in indices])


def save(path: Path, domain: Domain, args: argparse.Namespace, images: np.ndarray) -> None:
    """Write images, and labels where there are any, as upstream's .npz."""
    arrays = [images]
    if domain.args["class_cond"]:
        arrays.append(labels(args.seed, range(len(images))))
    with run.atomic_write(path) as file:
        np.savez(file, *arrays)
    logger.log(f"saved {path}")


if __name__ == "__main__":
    main()
