"""The small models and drawn tiles of `assets/demo`, on which the sampler runs by default."""

import argparse
from pathlib import Path

from ..errors import ArgumentError

# Where the package is installed, it holds the folder; in a checkout, the folder lies beside it.
_INSTALLED, _BESIDE = (place / "assets" / "demo" for place in Path(__file__).resolve().parents[1:3])
FOLDER = _INSTALLED if _INSTALLED.exists() else _BESIDE
PLACES = {
    "source_model": FOLDER / "gland",
    "target_model": FOLDER / "carcinoma",
    "data_dir": FOLDER / "source",
}
WAY_BACK = FOLDER / "target"  # tiles from which --bidirectional goes back
FLAGS = {
    "source": "gland",
    "target": "carcinoma",
    "num_images": 2,
    "batch_size": 2,
    "precision": "auto",
    "depth_policy": "even",
}


def fill_in(args: argparse.Namespace, given: set[str]) -> None:
    """Name the demo's models and tiles where no model and no data is named.

    Args:
        args: the sampler's flags, changed in place.
        given: names of the flags on the command line, which stay.

    Raises:
        UserError: if only a part of the three is named.
    """
    named = {name for name in PLACES if getattr(args, name)}
    if named == set(PLACES):
        return
    if named:
        missing = set(PLACES) - named
        raise ArgumentError(
            min(missing),
            f"expected together with --{min(named)}, got none; give all of "
            "--source_model, --target_model and --data_dir, or none for the demo",
        )
    for name, value in (FLAGS | PLACES).items():
        if name not in given or name in PLACES:
            setattr(args, name, str(value) if name in PLACES else value)
    if getattr(args, "bidirectional", False) and not args.target_data_dir:
        args.target_data_dir = str(WAY_BACK)
