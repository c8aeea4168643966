"""Where does each policy put the depths, and what comes of it? Two pictures.

depths.png has a row for each image and policy (add, even, uniform), captioned with the depths;
curves.png the feature along each image's encoding with those depths marked. An image is encoded
once for all policies. Without models and data it uses the demo's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..config import flags, tool_options
from ..data import pictures, plots
from ..data.image_formats import open_images
from ..errors import blame
from ..generation import demo
from ..models.domains import load_domain
from ..runtime import atomic_files, command, dist_util, logger, progress_bars
from ..translation.depth_policies import POLICIES, Depths, choose
from ..translation.sequences import refuse_unequal
from ..translation.walks import Engine, Predictor, decode, encode, encode_moves


@command.command(interrupted=command.STARTS_ANEW)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Load the models and the images.
    args = create_argparser().parse_args(argv)
    demo.fill_in(args, set(demo.FLAGS))
    dist_util.setup_dist(device=args.device)
    places = args.source_model, args.target_model
    source, target = (load_domain(place, device=dist_util.dev()) for place in places)
    size, channels = source.args["image_size"], source.args["in_channels"]
    with blame("data_dir"):
        files = open_images(args.data_dir, size, channels)
    images, _ = files.batch(range(min(args.num_images, len(files))))

    # Check everything that can be wrong, before the first forward.
    engine = Engine("dpmpp", 3, args.steps, args.steps, level_convention="aligned")
    refuse_unequal(source, target)
    encode_moves(source.diffusion, engine)
    choose("uniform", np.zeros((source.diffusion.num_timesteps, 1)), args.amount)
    plots.figure_class()
    with blame("out_dir"):
        atomic_files.make_folder(Path(args.out_dir))

    # Encode every image once, and decode it from the depths of each policy.
    trajectory, features = encode(
        Predictor(source, engine, "global"), images, engine, watch=progress_bars.inner_progress
    )
    chosen = [{p: choose(p, curve, args.amount) for p in POLICIES} for curve in features]
    depths = [depth for found in chosen for d in found.values() for depth in d.values]
    latents = [trajectory.at(i, d.values) for i, found in enumerate(chosen) for d in found.values()]
    decoder = Predictor(target, engine, "local")
    decoded = decode(decoder, torch.cat(latents), depths, engine, progress_bars.inner_progress)

    # Draw both pictures.
    sheet, curves = (Path(args.out_dir) / name for name in ("depths.png", "curves.png"))
    with atomic_files.atomic_write(sheet) as file:
        draw_sheet(images, decoded, chosen).save(file, "png")
    panels = {
        f"image {i}": (curve.mean(axis=1), {p: d.values for p, d in found.items()})
        for i, (curve, found) in enumerate(zip(features, chosen, strict=True))
    }
    plots.curve_row(panels, curves, "depth", "magnitude, mean of 18 bins")
    logger.log(f"look at {sheet} and {curves}")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, tool_options.CompareDepthsOptions)


def draw_sheet(
    images: torch.Tensor, decoded: torch.Tensor, chosen: Sequence[dict[str, Depths]]
) -> pictures.Image.Image:
    """Return a row per image [N, C, H, W] and policy: the source image and its sequence."""
    rows, captions = [], []
    each = iter(decoded.split(len(decoded) // (len(images) * len(POLICIES))))
    for image, found in zip(images, chosen, strict=True):
        for policy, depths in found.items():
            rows.append(pictures.to_uint8(torch.cat([image[None], next(each)])))
            name = f"{policy}, fell back" if depths.fallback else policy
            captions.append([name, *(f"d{depth}" for depth in depths.values)])
    return pictures.grid(rows, captions, pictures.scale_of(rows[0][0]))
