"""Run folders of sampling commands: they stand for the .npz in them, as a source of images."""

from pathlib import Path
from typing import Any

from ..runtime.run_folder import RECORD
from .image_folders import is_run_record
from .npz_images import NpzImages

SAMPLES = "samples_*x*x*x*.npz"


def is_sample_run(path: Path) -> bool:
    """Return whether a path is the run folder of a finished sampling command."""
    return is_run_record(path / RECORD) and len(list(path.glob(SAMPLES))) == 1


def open_sample_run(path: Path, *options: Any) -> NpzImages:
    """Open the .npz in the run folder of a sampling command; for the options see `NpzImages`."""
    (file,) = path.glob(SAMPLES)
    return NpzImages(file, *options)
