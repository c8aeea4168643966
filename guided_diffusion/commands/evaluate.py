"""Compare a set of images with a reference: KID, precision, recall, FID and sFID.

REF and SAMPLES are each an .npz (arr_0, images [N, H, W, C] uint8), a folder of images, or the run
folder of a generation or of samples, of which just the generated images count. The numbers stand
with N and an interval; --out writes them as JSON.
"""

import json
from typing import Any

from ..config.parser import numbers
from ..data.image_formats import refuse_unequal_sizes
from ..data.image_source import ImageSource
from ..errors import ArgumentError, blame
from ..evaluation import set_distances
from ..evaluation.feature_extractors import create_extractor
from ..evaluation.settings import EvaluateSettings
from ..generation.finished_images import open_results
from ..runtime import atomic_files, dist_util, run_folder
from ..runtime.command import STARTS_ANEW, command

NAMES = {"kid": "KID", "precision": "precision", "recall": "recall", "fid": "FID", "sfid": "sFID"}


@command(interrupted=STARTS_ANEW)
def main(asked: EvaluateSettings) -> None:
    """Compare the two sets."""
    # Open both sets, and the network that extracts their features.
    atomic_files.refuse_unwritable(asked.out)
    device = dist_util.dev()
    steps = numbers("steps", asked.steps) if asked.steps else ()
    sets, parts = [], []
    for path, name in ((asked.reference, "REF"), (asked.samples, "SAMPLES")):
        with blame(name):
            images, part = open_results(path, asked.image_size, steps, asked)
        sets.append(images)
        parts.append(part)
    if steps and not any(parts):
        raise ArgumentError("steps", "expected a folder of generated sequences, got none")
    refuse_unequal_sizes(*sets)
    extractor = create_extractor(asked.features, asked.weights, device)

    # Measure the sets and compare them.
    options = asked.batch_size, device
    measured = [set_distances.measure(images, extractor, *options) for images in sets]
    results = set_distances.evaluate(*measured, replicates=asked.bootstrap, seed=asked.seed)

    # Print the numbers, and write them.
    pairs = list(zip(sets, measured, strict=True))
    remarks = [line for images in sets for line in images.warnings + images.gather_remarks()]
    report = {
        "features": {key: getattr(extractor, key) for key in ("name", "note", "comparable")},
        "reference": describe(*pairs[0], parts[0]),
        "samples": describe(*pairs[1], parts[1]),
        "metrics": results,
        "confidence_percent": set_distances.CONFIDENCE,
        "warnings": [text for p in pairs for text in set_distances.warnings_of(*p, extractor)]
        + remarks,
        "args": asked.values(),
        "versions": run_folder.versions(),
    }
    if dist_util.rank() == 0:
        print("\n".join(lines(report)))
        if asked.out:
            with atomic_files.atomic_write(asked.out, "w") as file:
                json.dump(report, file, indent=2)


def describe(images: ImageSource, measured: set_distances.Measured, part: str) -> dict[str, Any]:
    """Return the report on a set; "statistics" names distances by statistics from its file."""
    given = sorted(measured.given)
    about = {"path": str(images.path), "n": len(images), "statistics": given}
    others = {"part": part, "left_out": images.left_out}
    return about | {name: text for name, text in others.items() if text}


def lines(report: dict[str, Any]) -> list[str]:
    """Return the report as text."""
    found = [f"features: {report['features']['name']} ({report['features']['note']})"]
    for name in ("reference", "samples"):
        given = "".join(f", {NAMES[d]} by its statistics" for d in report[name]["statistics"])
        rest = f"; left out: {report[name]['left_out']}" if "left_out" in report[name] else ""
        part = f" ({report[name]['part']})" if "part" in report[name] else ""
        found.append(f"{name}: {report[name]['path']}, N = {report[name]['n']}{part}{given}{rest}")
    found.append(f"{'metric':<10} {'value':>10}  {report['confidence_percent']}% interval")
    found += [line(NAMES[name], result) for name, result in report["metrics"].items()]
    return found + [f"warning: {text}" for text in report["warnings"]]


def line(name: str, result: dict[str, Any]) -> str:
    """Return a metric as text."""
    text = f"{name:<10} {result['value']:>10.5g}"
    if result["interval"]:
        text += "  [{:.5g}, {:.5g}]".format(*result["interval"])
    if "std" in result:
        text += f"  std {result['std']:.2g} over {result['subsets']} subsets of {result['size']}"
    return text
