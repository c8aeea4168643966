"""Distance of each engine from the converged solution, and its cost.

Images are encoded, and decoded from 30, 60 and 100 percent of full depth with the target model
and with the source model again. The converged engine is the multistep solver of third order on
every level. Its distance from the same solver on every second level is the accuracy of the
comparison itself.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch as th

from ..config.parser import names
from ..diffusion.schedules import GRIDS
from ..evaluation.set_distances import psnr
from ..generation import demo
from ..models.domains import Domain, load_domain
from ..runtime import dist_util, run_folder
from ..runtime.settings import ExecutionSettings
from ..translation.encode_decode import decode, encode
from ..translation.predictor import Predictor
from ..translation.settings import PRESETS, WalkSettings
from .sequence_timing import open_first
from .settings import BenchmarkSettings, CompareDepthsSettings

SHARES = (0.3, 0.6, 1.0)  # of full depth
MAX_BATCH = 16
CONVERGED = WalkSettings(solver="dpmpp", solver_order=3, level_convention="aligned")
STEPS = (10, 20, 40, 100)
HALF = "converged, half the steps"


def quality(asked: BenchmarkSettings) -> dict[str, Any]:
    """Encode and decode with each engine, and print its distance from the converged images."""
    grids = names("grids", asked.grids, GRIDS) if asked.grids else ()
    source, target, images = load_pair(asked)
    shares = "  ".join(f"{share:>4.0%}" for share in SHARES)
    print(f"{len(images)} images, PSNR in dB: to the converged ones | of the round trip")
    print(f"{'engine':38s} forwards  {shares}  |  {shares}  seconds", flush=True)
    converged, rows = None, []
    for name, walk, precision in engines(grids, source.diffusion.num_timesteps):
        row, decoded, returned = measure(source, target, images, walk, precision)
        converged = converged or decoded
        pairs = list(zip(decoded, converged, strict=True))  # of each depth
        row["psnr"] = [psnr(*pair) for pair in pairs]
        row["psnr_of_each"] = [list(map(psnr, *pair)) for pair in pairs]
        row["round_trip"] = [psnr(image, images) for image in returned]
        rows.append({"engine": name} | row)
        near, back = ("  ".join(f"{v:4.1f}" for v in row[key]) for key in ("psnr", "round_trip"))
        cost = f"{row['forwards']:8.0f}  {near}  |  {back}  {row['seconds']:7.1f}"
        print(f"{name:38s} {cost}", flush=True)
    found = {"images": len(images), "depths": depths_of(source), "rows": rows}
    return {"measurement": "quality"} | found | run_folder.versions()


def lines(record: dict[str, Any]) -> list[str]:
    """Return the distance of the converged solution from the same solver on half the steps."""
    halved = next(row["psnr"] for row in record["rows"] if row["engine"] == HALF)
    near = ", ".join(f"{value:.1f}" for value in halved)
    return [f"the converged solution is {near} dB from the one on half the steps"]


def load_pair(asked: BenchmarkSettings | CompareDepthsSettings) -> tuple[Domain, Domain, th.Tensor]:
    """Load source and target domain, and the first images [N, C, H, W]; by default the demo's.

    Raises:
        UserError: if one of them cannot be used.
    """
    asked = demo.with_places(asked)
    places = asked.source_model, asked.target_model
    source, target = (load_domain(place, device=dist_util.dev()) for place in places)
    images = open_first(source, asked.data_dir, asked.num_images, asked)
    return source, target, images.batch(range(len(images)))[0]


def engines(grids: Sequence[str], levels: int) -> Iterator[tuple[str, WalkSettings, str]]:
    """Yield name, walks and precision of the engines to compare, the converged engine first."""
    half = max(1, levels // 2)
    yield "converged", CONVERGED, "fp32"
    halved = CONVERGED.replace(grid="time", encode_steps=half, decode_steps=half)
    yield HALF, halved, "fp32"
    for name in PRESETS:
        walk = WalkSettings(preset=name).resolved(levels)
        yield name, walk, "fp32"
        yield f"{name}, bf16", walk, "bf16"
        if walk.encoding.order > 1:
            yield f"{name}, encoding by noise", walk.replace(encode_prediction="noise"), "fp32"
    for grid, order, steps in product(grids, (1, 2, 3), STEPS):
        if steps < levels:
            few = {"solver_order": order, "encode_steps": steps, "decode_steps": steps}
            walk = CONVERGED.replace(grid=grid, **few)
            yield f"{grid}, order {order}, {steps} steps", walk, "fp32"


def depths_of(domain: Domain) -> list[int]:
    """Return the depths to decode from, one for each of `SHARES`."""
    return [max(1, round(share * domain.diffusion.num_timesteps)) for share in SHARES]


def measure(
    source: Domain, target: Domain, images: th.Tensor, walk: WalkSettings, precision: str
) -> tuple[dict[str, Any], list[th.Tensor], list[th.Tensor]]:
    """Encode images, and decode them from each share of full depth.

    Returns:
        seconds of encoding and of the target's decodings, and their forwards per image; the images
        [N, C, H, W] that the target decoded from each depth; and the images of the source.
    """
    count = len(images)
    depths = [depth for depth in depths_of(source) for _ in range(count)]
    execution = ExecutionSettings(precision=precision)
    encoder = Predictor(source, execution, MAX_BATCH, "global")
    decoder, returner = (Predictor(d, execution, MAX_BATCH, "local") for d in (target, source))
    start = time.perf_counter()
    trajectory, _ = encode(encoder, images, walk)
    latents = th.cat([trajectory.at(i % count, [d]) for i, d in enumerate(depths)])
    decoded = decode(decoder, latents, depths, walk).split(count)
    seconds = time.perf_counter() - start
    returned = decode(returner, latents, depths, walk).split(count)
    forwards = (encoder.forwards + decoder.forwards) / count
    return {"forwards": forwards, "seconds": seconds}, list(decoded), list(returned)
