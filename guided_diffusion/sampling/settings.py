"""Settings of drawing new images, guidance and likelihood."""

import dataclasses

from ..config.settings import Settings, setting
from ..data.classes import Classes
from ..data.reading import ReadingSettings
from ..errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class SampleSettings(Settings):
    """Drawing new images from one model."""

    clip_denoised: bool = setting(True, "clip predicted images to [-1, 1]")
    num_samples: int = setting(10000, "images to draw", minimum=1)
    batch_size: int = setting(16, "images per forward and per process", minimum=1, free=True)
    use_ddim: bool = setting(False, "deterministic DDIM instead of ancestral sampling")
    model_path: str = setting("", "checkpoint file or training run folder", required=True)
    save_images: bool = setting(
        False,
        "save each image as images/NNNNN.png too, listed with class and seed in labels.csv",
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class EnlargeSettings(ReadingSettings):
    """The images to enlarge."""

    base_samples: str = setting(
        "",
        "small images: an .npz file from image_sample.py, or a folder, searched recursively",
        required=True,
    )


@dataclasses.dataclass(frozen=True)
class GuidanceSettings(Settings):
    """The classifier that steers the sampler."""

    classifier_path: str = setting(
        "", "classifier checkpoint or training run folder; empty: no guidance"
    )
    classifier_scale: float = setting(
        1.0, "strength of the guidance; above 1: less variety, clearer classes", most=1e4
    )


@dataclasses.dataclass(frozen=True)
class ClassSettings(Settings):
    """The classes to draw."""

    classes: str = setting(
        "",
        "classes to draw from, names or numbers with commas between; empty: all that the training "
        "recorded in labels.json, else all numbers that the networks know",
    )

    def drawn(self, classes: Classes | None) -> list[int]:
        """Return the numbers of the asked classes, among those that a model knows.

        Raises:
            ArgumentError: if it does not know one of them, or no classes at all.
        """
        if classes is None:
            if self.classes:
                problem = "expected none, as the model knows no classes, got"
                raise ArgumentError("classes", f"{problem} {self.classes!r}")
            return []
        return classes.chosen("classes", self.classes)

    def recorded(self, classes: Classes | None) -> "ClassSettings":
        """Return the settings as a run folder records them: names and numbers mean the same."""
        if not self.classes or classes is None:
            return self
        return self.replace(classes=classes.text_of(self.drawn(classes)))


@dataclasses.dataclass(frozen=True)
class OneClassSettings(ClassSettings):
    """The class to take all images for."""

    classes: str = setting(
        "",
        "class that all images are taken for, its name or number; empty: for each image the class "
        "in its name or folder, as the training recorded in labels.json",
    )

    def one(self, classes: Classes | None) -> list[int]:
        """Return the number of the asked class, alone in a list; empty if none is asked for.

        Raises:
            ArgumentError: if the model does not know it, or several are asked for.
        """
        picked = self.drawn(classes) if self.classes else []
        if len(picked) > 1:
            raise ArgumentError("classes", f"expected one class for all images, got {self.classes}")
        return picked


@dataclasses.dataclass(frozen=True)
class LikelihoodSettings(ReadingSettings):
    """Bits per dimension of images under one model."""

    data_dir: str = setting("", "folder of images, searched recursively", required=True)
    clip_denoised: bool = setting(True, "clip predicted images to [-1, 1]")
    num_samples: int = setting(
        1000, "images to measure, the first by name; all if there are fewer", minimum=1
    )
    batch_size: int = setting(1, "images per forward and per process", minimum=1, free=True)
    model_path: str = setting("", "checkpoint file or training run folder", required=True)
