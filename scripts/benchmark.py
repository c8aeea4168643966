"""How near does each engine come to the converged solution, and at what cost?

Encodes the first images of a folder, decodes them from 30, 60 and 100 percent of full depth, with
the target model and with the source model again, and compares with the converged engine, the
multistep solver of third order on every level. Without models it uses the demo's.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from guided_diffusion import demo, dist_util, flags, logger, run, tool_options
from guided_diffusion.checkpoint import Domain, load_domain
from guided_diffusion.image_datasets import fixed_images
from guided_diffusion.metrics import psnr
from guided_diffusion.walks import Engine, Predictor, decode, encode

GROUPS = (tool_options.BenchmarkOptions,)
SHARES = (0.3, 0.6, 1.0)  # of full depth
CONVERGED = Engine("dpmpp", 3, level_convention="aligned", max_batch=16)
PUBLISHED = Engine(max_batch=16)


@run.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Load the models and the images.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    demo.fill_in(args, set(demo.FLAGS))
    dist_util.setup_dist(args.device)
    places = args.source_model, args.target_model
    source, target = (load_domain(place, device=dist_util.dev()) for place in places)
    size, channels = source.args["image_size"], source.args["in_channels"]
    tiles = fixed_images(args.data_dir, size, in_channels=channels)
    images, _ = tiles.batch(range(min(args.num_images, len(tiles))))

    # Walk there and back with each engine, and print how near the ends come.
    shares = "  ".join(f"{share:>4.0%}" for share in SHARES)
    print(f"{len(images)} images, PSNR in dB: to the converged ones | of the round trip")
    print(f"{'engine':32s} forwards  {shares}  |  {shares}  seconds")
    converged, rows = None, []
    for name, engine in engines(args.grids.split(","), source.diffusion.num_timesteps):
        row, decoded, returned = measure(source, target, images, engine)
        converged = converged or decoded
        rows.append({"engine": name} | row)
        rows[-1]["psnr"] = [psnr(*pair) for pair in zip(decoded, converged, strict=True)]
        rows[-1]["round_trip"] = [psnr(image, images) for image in returned]
        print(line(rows[-1]), flush=True)

    # Keep the table.
    if args.out:
        record = {"images": len(images), "depths": depths_of(source), "rows": rows}
        record |= run.versions()
        with open(args.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        logger.log(f"appended to {args.out}")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS)


def engines(grids: Sequence[str], levels: int) -> Iterator[tuple[str, Engine]]:
    """Yield the engines to compare, by name; the converged one first."""
    yield "converged", CONVERGED
    yield "published", PUBLISHED
    yield "published, bf16", replace(PUBLISHED, precision="bf16")
    yield "aligned", replace(PUBLISHED, level_convention="aligned")
    for grid, order, steps in product(grids, (1, 2, 3), (10, 20, 40, 100)):
        if steps < levels:
            few = replace(CONVERGED, solver_order=order, grid=grid, encode_steps=steps)
            yield f"{grid}, order {order}, {steps} steps", replace(few, decode_steps=steps)


def depths_of(domain: Domain) -> list[int]:
    """Return the depths to decode from."""
    return [max(1, round(share * domain.diffusion.num_timesteps)) for share in SHARES]


def measure(
    source: Domain, target: Domain, images: torch.Tensor, engine: Engine
) -> tuple[dict[str, Any], list[torch.Tensor], list[torch.Tensor]]:
    """Return cost, and the images [N, C, H, W] from each share of full depth, by target and source.

    The cost is that of encoding and of the target's decodings, per image.
    """
    count = len(images)
    depths = [depth for depth in depths_of(source) for _ in range(count)]
    encoder = Predictor(source, engine, "global")
    decoder, returner = (Predictor(domain, engine, "local") for domain in (target, source))
    start = time.perf_counter()
    trajectory, _ = encode(encoder, images, engine)
    latents = torch.cat([trajectory.at(i % count, [d]) for i, d in enumerate(depths)])
    decoded = decode(decoder, latents, depths, engine).split(count)
    seconds = time.perf_counter() - start
    returned = decode(returner, latents, depths, engine).split(count)
    forwards = (encoder.forwards + decoder.forwards) / count
    return {"forwards": forwards, "seconds": seconds}, list(decoded), list(returned)


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    near, back = ("  ".join(f"{v:4.1f}" for v in row[name]) for name in ("psnr", "round_trip"))
    return f"{row['engine']:32s} {row['forwards']:8.0f}  {near}  |  {back}  {row['seconds']:7.1f}"


if __name__ == "__main__":
    main()
