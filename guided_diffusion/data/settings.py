"""Settings of images and points to learn from."""

import dataclasses
from typing import Any

from ..config.network_settings import WIDEST
from ..config.settings import Settings, setting
from .augmentations import AUGMENTATIONS
from .class_labels import LABEL_SOURCES
from .reading import ReadingSettings


@dataclasses.dataclass(frozen=True)
class FolderSettings(ReadingSettings):
    """Images to learn from."""

    data_dir: str = setting("", "folder of training images, searched recursively", required=True)
    labels: str = setting(
        "prefix",
        "source of the class of an image; prefix: its file name up to the first _; folder: the "
        "folder right below --data_dir",
        choices=LABEL_SOURCES,
    )
    augment: str = setting(
        "flip",
        "flip: left-right half of the time; dihedral: right-angle rotations and flips, for tissue",
        choices=AUGMENTATIONS,
    )
    random_crop: bool = setting(False, "random instead of centre crops")

    @property
    def loading(self) -> dict[str, Any]:
        """{name: value} of the keywords of `load_data`: crops at native scale are random."""
        native = self.crop == "native" and "random_crop" not in self.given
        return self.values() | {"random_crop": self.random_crop or native}


def task(default: int, help: str) -> Any:
    """Declare the setting for a distribution of points by its number in DDIB."""
    return setting(
        default,
        f"{help}: 0 moons, 1 checkerboard, 2 concentric rings, 3 concentric squares, 4 olympic "
        "(parallel) rings, 5 olympic squares",
        choices=range(6),
    )


@dataclasses.dataclass(frozen=True)
class PointDataSettings(Settings):
    """Points to learn from."""

    task: int = task(0, "distribution")


@dataclasses.dataclass(frozen=True)
class TissueSettings(Settings):
    """Drawn tissue."""

    out_dir: str = setting("", "folder to write to, made where absent", required=True)
    severity: float = setting(
        0.1, "middle of the severities, without --stages", minimum=0, maximum=1
    )
    severity_spread: float = setting(
        0.05, "half width of the severities, cut off at 0 and 1", minimum=0, maximum=1
    )
    stages: str = setting("", "a subfolder for each stage, as NAME=SEVERITY,NAME=SEVERITY")
    num_images: int = setting(500, "tiles per stage", minimum=1)
    image_size: int = setting(64, "side of a tile, pixels", minimum=16, most=WIDEST)
    seed: int = setting(0, "seed of the first tile; the others count up", minimum=0, most=2**63)
