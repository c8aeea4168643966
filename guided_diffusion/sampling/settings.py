"""Settings of drawing new images, guidance and likelihood."""

import dataclasses

from ..config.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class SampleSettings(Settings):
    """Drawing new images from one model."""

    clip_denoised: bool = setting(True, "clip predicted images to [-1, 1]")
    num_samples: int = setting(10000, "images to draw", minimum=1)
    batch_size: int = setting(16, "images per forward and per process", minimum=1, free=True)
    use_ddim: bool = setting(False, "deterministic DDIM instead of ancestral sampling")
    model_path: str = setting("", "checkpoint file or training run folder")


@dataclasses.dataclass(frozen=True)
class EnlargeSettings(Settings):
    """The images to enlarge."""

    base_samples: str = setting(
        "", "small images: an .npz file from image_sample.py, or a folder, searched recursively"
    )


@dataclasses.dataclass(frozen=True)
class GuidanceSettings(Settings):
    """The classifier that steers the sampler."""

    classifier_path: str = setting(
        "", "classifier checkpoint or training run folder; empty: no guidance"
    )
    classifier_scale: float = setting(
        1.0, "strength of the guidance; above 1: less variety, clearer classes"
    )


@dataclasses.dataclass(frozen=True)
class ClassSettings(Settings):
    """The classes to draw."""

    classes: str = setting("", "numbers of the classes to draw from, as 0,3; empty: all")


@dataclasses.dataclass(frozen=True)
class LikelihoodSettings(Settings):
    """Bits per dimension of images under one model."""

    data_dir: str = setting("", "folder of images, searched recursively")
    clip_denoised: bool = setting(True, "clip predicted images to [-1, 1]")
    num_samples: int = setting(
        1000, "images to measure, the first by name; all if there are fewer", minimum=1
    )
    batch_size: int = setting(1, "images per forward and per process", minimum=1, free=True)
    model_path: str = setting("", "checkpoint file or training run folder")
