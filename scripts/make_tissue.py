"""Writes synthetic H&E-like tiles of a chosen severity, or of several stages, as PNG files.

    python scripts/make_tissue.py --out_dir tiles --severity 0.1 --num_images 500
    python scripts/make_tissue.py --out_dir tiles --stages normal=0.1,tumour=0.9

`index.csv` lists every file, its seed and severity. The same command writes the same pictures.
"""

from __future__ import annotations

import argparse
import csv
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NoReturn

import numpy as np
from PIL import Image

from guided_diffusion.tissue import MIN_SIZE, draw_tile

SEVERITY_STREAM = 8  # apart from the streams that draw_tile takes from the same seed


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def fraction(text: str) -> float:
    """A number in [0, 1]."""
    if not re.fullmatch(r"[0-9]*\.?[0-9]+", text) or float(text) > 1.0:
        raise argparse.ArgumentTypeError(f"expected a number in [0, 1] such as 0.25, got {text!r}")
    return float(text)


def at_least(minimum: int, text: str) -> int:
    """A whole number not below `minimum`."""
    if not re.fullmatch(r"[0-9]+", text) or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"expected a whole number >= {minimum}, got {text!r}")
    return int(text)


def stages(text: str) -> dict[str, float]:
    """Severity by stage name, from `normal=0.1,tumour=0.9`."""
    pairs = [part.split("=") for part in text.split(",")]
    pattern = re.compile("[A-Za-z0-9-]+")
    names = {pair[0] for pair in pairs if len(pair) == 2 and pattern.fullmatch(pair[0])}
    if len(names) < len(pairs):
        raise argparse.ArgumentTypeError(
            f"expected NAME=SEVERITY,... with distinct names of letters, digits, -; got {text!r}"
        )
    return {name: fraction(severity) for name, severity in pairs}


def create_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        "make_tissue.py",
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    count, side, seed = (partial(at_least, low) for low in (1, MIN_SIZE, 0))
    flag = parser.add_argument
    flag("--out_dir", required=True, type=pathlib.Path, help="folder to write to, made if missing")
    flag("--severity", default=0.1, type=fraction, help="middle, 0 (healthy) to 1, if not --stages")
    flag("--severity_spread", default=0.05, type=fraction, help="half width, cut off at 0 and 1")
    flag(
        "--stages",
        type=stages,
        metavar="NAME=SEVERITY,...",
        help="one subfolder per stage instead, their middles as given",
    )
    flag("--num_images", default=500, type=count, help="tiles (per stage)")
    flag("--image_size", default=64, type=side, help="side of a tile in pixels")
    flag("--seed", default=0, type=seed, help="first tile's seed (its tissue); the rest count up")
    return parser


def plan(args: argparse.Namespace) -> Iterator[tuple[str, int, float]]:
    """Yields file, seed, severity of each tile; stages take seeds in turn and share no tissue."""
    chosen = args.stages or {f"{args.severity:g}": args.severity}
    for index in range(args.num_images):
        for turn, (name, middle) in enumerate(chosen.items()):
            seed = args.seed + index * len(chosen) + turn
            ends = (middle - args.severity_spread, middle + args.severity_spread)
            rng = np.random.Generator(np.random.PCG64([seed, SEVERITY_STREAM]))
            severity = rng.uniform(max(0.0, ends[0]), min(1.0, ends[1]))
            folder = f"{name}/" if args.stages else ""
            yield f"{folder}{name}_{index:05d}.png", seed, round(severity, 6)


def main(argv: Sequence[str] | None = None) -> None:
    parser = create_parser()
    args = parser.parse_args(argv)
    tiles = list(plan(args))

    # Refuse a folder with other pictures, which would be taken for some of this run.
    found = {path.relative_to(args.out_dir).as_posix() for path in args.out_dir.glob("**/*.png")}
    others = found - {file for file, _, _ in tiles}
    if others:
        parser.error(f"argument --out_dir: expected no other pictures, got {min(others)}")

    # Draw every tile.
    try:
        for file, seed, severity in tiles:
            path = args.out_dir / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_tile(seed, severity, args.image_size)).save(path)
    except OSError as error:
        parser.error(f"argument --out_dir: expected a folder to write to, got {error}")

    # List them last, so that the list stands for a finished run.
    unfinished = args.out_dir / "index.csv.partial"
    with unfinished.open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "seed", "severity"), *tiles])
    os.replace(unfinished, args.out_dir / "index.csv")


if __name__ == "__main__":
    main()
