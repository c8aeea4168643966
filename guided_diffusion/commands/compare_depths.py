"""Draw the depths that each policy chooses, and the images decoded from them.

depths.png has a row for each image and policy (add, even, uniform), captioned with the depths; with
--depths also a row of those, fixed.
curves.png has the feature along the encoding of each image, with the depths marked. An image is
encoded once for all policies. Without models and data it uses the demo's.
"""

from pathlib import Path

import torch

from ..benchmark.settings import CompareDepthsSettings
from ..benchmark.solver_accuracy import CONVERGED, load_pair
from ..data import pictures, plots
from ..errors import blame
from ..runtime import atomic_files, logger, progress_bars, run_folder
from ..runtime.command import STARTS_ANEW, command
from ..translation import encode_decode
from ..translation.depth_policies import POLICIES
from ..translation.predictor import Predictor
from ..translation.sequences import refuse_unequal
from ..translation.settings import DepthSettings


@command(interrupted=STARTS_ANEW)
def main(asked: CompareDepthsSettings) -> None:
    """Draw the two pictures."""
    source, target, images = load_pair(asked)

    # Check everything that can be wrong, before the first forward.
    walk = CONVERGED.replace(encode_steps=asked.steps, decode_steps=asked.steps)
    own = {} if asked.depths and "amount" not in asked.given else {"amount": asked.amount}
    fixed = DepthSettings().replace(depths=asked.depths, **own).resolved()
    policies = {name: DepthSettings(fixed.amount, name) for name in POLICIES}
    policies |= {"fixed": fixed} if asked.depths else {}
    refuse_unequal(source, target)
    levels = source.diffusion.num_timesteps
    walk.check(levels)
    fixed.check(levels)
    plots.figure_class()
    with blame("out_dir"):
        atomic_files.make_folder(Path(asked.out_dir))
    run_folder.hold(Path(asked.out_dir), main.name)

    # Encode every image once, and decode it from the depths of each policy.
    encoder, watch = Predictor(source, priority="global"), progress_bars.inner_progress
    trajectory, features = encode_decode.encode(encoder, images, walk, watch=watch)
    chosen = [
        (i, name, policy.choose(curve))
        for i, curve in enumerate(features)
        for name, policy in policies.items()
    ]
    depths = [depth for *_, found in chosen for depth in found.values]
    latents = torch.cat([trajectory.at(i, found.values) for i, _, found in chosen])
    decoder = Predictor(target, priority="local")
    decoded = encode_decode.decode(decoder, latents, depths, walk, watch)

    # Draw a row for each image and policy: the source image and its sequence.
    rows, captions = [], []
    for (i, name, found), sequence in zip(chosen, decoded.split(fixed.amount), strict=True):
        rows.append(pictures.to_uint8(torch.cat([images[i : i + 1], sequence])))
        title = f"{name}, fell back" if found.fallback else name
        captions.append([title, *(f"d{depth}" for depth in found.values)])
    sheet, curves = (Path(asked.out_dir) / name for name in ("depths.png", "curves.png"))
    with atomic_files.atomic_write(sheet) as file:
        pictures.grid(rows, captions, pictures.scale_of(rows[0][0])).save(file, "png")

    # Draw the curve of each image, with the depths of each policy.
    panels = {}
    for i, curve in enumerate(features):
        marks = {name: found.values for image, name, found in chosen if image == i}
        panels[f"image {i}"] = curve.mean(axis=1), marks
    plots.curve_row(panels, curves, "depth", "magnitude, mean of 18 bins")
    logger.log(f"look at {sheet} and {curves}")
