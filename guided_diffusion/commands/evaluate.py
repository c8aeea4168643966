"""Compare a set of images with a reference: KID, precision, recall, FID and sFID.

REF and SAMPLES are each an .npz (arr_0, images [N, H, W, C] uint8) or a folder of images. The
numbers stand with N and an interval; --out writes them as JSON.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from ..config import flags, tool_options
from ..data.image_formats import open_set, refuse_unequal_sizes
from ..data.image_source import ImageSource
from ..errors import blame
from ..evaluation import set_distances
from ..evaluation.feature_extractors import create_extractor
from ..runtime import atomic_files, command, dist_util, run_folder

NAMES = {"kid": "KID", "precision": "precision", "recall": "recall", "fid": "FID", "sfid": "sFID"}


@command.command(interrupted=command.STARTS_ANEW)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags and join the other ranks.
    args = create_argparser().parse_args(argv)
    tool_options.refuse_unwritable(args.out)
    dist_util.setup_dist(device=args.device)
    device = dist_util.dev()

    # Open both sets and the network that looks at them.
    sets = []
    for path, name in ((args.reference, "REF"), (args.samples, "SAMPLES")):
        with blame(name):
            sets.append(open_set(path, args.image_size))
    refuse_unequal_sizes(*sets)
    extractor = create_extractor(args.features, args.weights, device)

    # Measure the sets and compare them.
    measured = [
        set_distances.measure(images, extractor, args.batch_size, device) for images in sets
    ]
    results = set_distances.evaluate(*measured, replicates=args.bootstrap, seed=args.seed)

    # Print the numbers, and write them.
    pairs = list(zip(sets, measured, strict=True))
    report = {
        "features": {key: getattr(extractor, key) for key in ("name", "note", "comparable")},
        "reference": describe(*pairs[0]),
        "samples": describe(*pairs[1]),
        "metrics": results,
        "confidence_percent": set_distances.CONFIDENCE,
        "warnings": [
            text for pair in pairs for text in set_distances.warnings_of(*pair, extractor)
        ],
        "args": vars(args),
        "versions": run_folder.versions(),
    }
    if dist_util.rank() == 0:
        print("\n".join(lines(report)))
        if args.out:
            with atomic_files.atomic_write(args.out, "w") as file:
                json.dump(report, file, indent=2)


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    parser = flags.create_parser(__doc__, tool_options.EvaluateOptions)
    parser.add_argument("reference", metavar="REF", help="images to be like: .npz or folder")
    parser.add_argument("samples", metavar="SAMPLES", help="images to judge: .npz or folder")
    return parser


def describe(images: ImageSource, measured: set_distances.Measured) -> dict[str, Any]:
    """Return what the report says about a set; "statistics": distances that used the file's."""
    return {"path": str(images.path), "n": len(images), "statistics": sorted(measured.given)}


def lines(report: dict[str, Any]) -> list[str]:
    """Return the report as text."""
    said = [f"features: {report['features']['name']} ({report['features']['note']})"]
    for name in ("reference", "samples"):
        given = "".join(f", {NAMES[d]} by its statistics" for d in report[name]["statistics"])
        said.append(f"{name}: {report[name]['path']}, N = {report[name]['n']}{given}")
    said.append(f"{'metric':<10} {'value':>10}  {report['confidence_percent']}% interval")
    said += [line(NAMES[name], result) for name, result in report["metrics"].items()]
    return said + [f"warning: {text}" for text in report["warnings"]]


def line(name: str, result: dict[str, Any]) -> str:
    """Return a metric as text."""
    text = f"{name:<10} {result['value']:>10.5g}"
    if result["interval"]:
        text += "  [{:.5g}, {:.5g}]".format(*result["interval"])
    if "std" in result:
        text += f"  std {result['std']:.2g} over {result['subsets']} subsets of {result['size']}"
    return text
