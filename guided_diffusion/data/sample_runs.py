"""Run folders of sampling commands: they stand for the .npz in them, as a source of images."""

from pathlib import Path

from .image_folders import RECORD, is_run_record
from .npz_images import NpzImages
from .reading import READING, ReadingSettings

SAMPLES = "samples_*x*x*x*.npz"


def is_sample_run(path: Path) -> bool:
    """Return whether a path is the run folder of a finished sampling command."""
    return is_run_record(path / RECORD) and len(list(path.glob(SAMPLES))) == 1


class SampleRun(NpzImages):
    """The .npz in the run folder of a sampling command; see `open_images`."""

    def __init__(
        self,
        path: Path,
        image_size: int,
        in_channels: int,
        labels: str,
        reading: ReadingSettings = READING,
    ) -> None:
        (file,) = path.glob(SAMPLES)
        super().__init__(file, image_size, in_channels, labels, reading)
