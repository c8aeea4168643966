"""Settings of comparing sets of images."""

import dataclasses

from ..config.settings import setting
from ..data.reading import ReadingSettings
from ..runtime.settings import DeviceSettings, SeedSettings
from .feature_extractors import EXTRACTORS


@dataclasses.dataclass(frozen=True)
class EvaluateSettings(SeedSettings, DeviceSettings, ReadingSettings):
    """Comparing two sets of images."""

    reference: str = setting("", "images to be like: .npz, folder or run folder", place="REF")
    samples: str = setting("", "images to judge: .npz, folder or run folder", place="SAMPLES")

    steps: str = setting(
        "",
        "of a generation's sequences, the steps to compare, as 5,10; empty: all but 0, which is "
        "the source tile",
    )
    features: str = setting(
        "auto",
        "feature extractor: inception; small: fixed random weights, for a quick look; auto: "
        "inception if it is installed with its weights, else small",
        choices=EXTRACTORS,
    )
    weights: str = setting("", "file of Inception's weights; empty: torch-fidelity's own file")
    image_size: int = setting(
        0, "resize and centre-crop to this side, pixels; 0: as they are, all of one size", minimum=0
    )
    batch_size: int = setting(32, "images per forward and per process", minimum=1)
    bootstrap: int = setting(
        200, "number of random halves of the sets for the intervals; 0: no intervals", minimum=0
    )
    out: str = setting("", "JSON file to write; empty: none")
