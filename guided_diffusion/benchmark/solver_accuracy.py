"""How near an engine comes to the converged solution, and what it costs.

Images are encoded, and decoded from 30, 60 and 100 percent of full depth with the target model
and with the source model again. The converged engine is the multistep solver of third order on
every level; how far it is from itself on every second level tells what the comparison is worth.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch as th

from ..config.flags import names
from ..config.translation_options import GRIDS, PRESETS
from ..data.image_formats import open_images
from ..errors import blame
from ..evaluation.set_distances import psnr
from ..generation import demo
from ..models.domains import Domain, load_domain
from ..runtime import dist_util, run_folder
from ..translation.walks import Engine, Predictor, decode, encode

SHARES = (0.3, 0.6, 1.0)  # of full depth
CONVERGED = Engine("dpmpp", 3, level_convention="aligned", max_batch=16)
PUBLISHED = Engine(max_batch=16)
STEPS = (10, 20, 40, 100)
HALF = "converged, half the steps"


def quality(args: argparse.Namespace, given: set[str]) -> dict[str, Any]:
    """Walk there and back with each engine, and print how near the ends come.

    Raises:
        UserError: if the flags or the models do not fit.
    """
    grids = names("grids", args.grids, GRIDS) if args.grids else ()
    demo.fill_in(args, set(demo.FLAGS))
    places = args.source_model, args.target_model
    source, target = (load_domain(place, device=dist_util.dev()) for place in places)
    size, channels = source.args["image_size"], source.args["in_channels"]
    with blame("data_dir"):
        tiles = open_images(args.data_dir, size, channels)
    images, _ = tiles.batch(range(min(args.num_images, len(tiles))))
    print("\n".join(_head(len(images))), flush=True)
    converged, rows = None, []
    for name, engine in engines(grids, source.diffusion.num_timesteps):
        row, decoded, returned = measure(source, target, images, engine)
        converged = converged or decoded
        rows.append({"engine": name} | row)
        pairs = list(zip(decoded, converged, strict=True))  # of each depth
        rows[-1]["psnr"] = [psnr(*pair) for pair in pairs]
        rows[-1]["psnr_of_each"] = [list(map(psnr, *pair)) for pair in pairs]
        rows[-1]["round_trip"] = [psnr(image, images) for image in returned]
        print(_line(rows[-1]), flush=True)
    found = {"images": len(images), "depths": depths_of(source), "rows": rows}
    return {"measurement": "quality"} | found | run_folder.versions()


def lines(record: dict[str, Any]) -> list[str]:
    """Return what the table is worth: how far the converged engine is from half its steps."""
    halved = next(row["psnr"] for row in record["rows"] if row["engine"] == HALF)
    near = ", ".join(f"{value:.1f}" for value in halved)
    return [f"the converged solution is {near} dB from the one on half the steps"]


def _head(count: int) -> list[str]:
    shares = "  ".join(f"{share:>4.0%}" for share in SHARES)
    return [
        f"{count} images, PSNR in dB: to the converged ones | of the round trip",
        f"{'engine':38s} forwards  {shares}  |  {shares}  seconds",
    ]


def _line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    near, back = ("  ".join(f"{v:4.1f}" for v in row[name]) for name in ("psnr", "round_trip"))
    return f"{row['engine']:38s} {row['forwards']:8.0f}  {near}  |  {back}  {row['seconds']:7.1f}"


def engines(grids: Sequence[str], levels: int) -> Iterator[tuple[str, Engine]]:
    """Yield the engines to compare, by name; the converged one first."""
    half = max(1, levels // 2)
    yield "converged", CONVERGED
    yield HALF, replace(CONVERGED, grid="time", encode_steps=half, decode_steps=half)
    for name, preset in PRESETS.items():
        engine = replace(PUBLISHED, **preset).within(levels)
        yield name, engine
        yield f"{name}, bf16", replace(engine, precision="bf16")
        if engine.order > 1:
            yield f"{name}, encoding by noise", replace(engine, encode_prediction="noise")
    for grid, order, steps in product(grids, (1, 2, 3), STEPS):
        if steps < levels:
            few = {"solver_order": order, "encode_steps": steps, "decode_steps": steps}
            yield f"{grid}, order {order}, {steps} steps", replace(CONVERGED, grid=grid, **few)


def depths_of(domain: Domain) -> list[int]:
    """Return the depths to decode from."""
    return [max(1, round(share * domain.diffusion.num_timesteps)) for share in SHARES]


def measure(
    source: Domain, target: Domain, images: th.Tensor, engine: Engine
) -> tuple[dict[str, Any], list[th.Tensor], list[th.Tensor]]:
    """Return cost, and the images [N, C, H, W] from each share of full depth, by target and source.

    The cost is that of encoding and of the target's decodings, per image.
    """
    count = len(images)
    depths = [depth for depth in depths_of(source) for _ in range(count)]
    encoder = Predictor(source, engine, "global")
    decoder, returner = (Predictor(domain, engine, "local") for domain in (target, source))
    start = time.perf_counter()
    trajectory, _ = encode(encoder, images, engine)
    latents = th.cat([trajectory.at(i % count, [d]) for i, d in enumerate(depths)])
    decoded = decode(decoder, latents, depths, engine).split(count)
    seconds = time.perf_counter() - start
    returned = decode(returner, latents, depths, engine).split(count)
    forwards = (encoder.forwards + decoder.forwards) / count
    return {"forwards": forwards, "seconds": seconds}, list(decoded), list(returned)
