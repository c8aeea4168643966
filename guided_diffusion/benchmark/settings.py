"""Settings of measurements of the project itself."""

import dataclasses

from ..config.network_settings import WIDEST
from ..config.settings import setting
from ..data.reading import ReadingSettings
from ..evaluation.feature_extractors import EXTRACTORS
from ..runtime.settings import PRECISIONS, DeviceSettings, SeedSettings


@dataclasses.dataclass(frozen=True)
class MeasurementSettings(DeviceSettings):
    """A measurement."""

    out: str = setting("", "file that a line of JSON is appended to; empty: none")


@dataclasses.dataclass(frozen=True)
class AblationSettings(SeedSettings, DeviceSettings, ReadingSettings):
    """Comparing kinds of attention."""

    data_dir: str = setting("", "folder of source images to train on; empty: drawn tissue")
    target_data_dir: str = setting("", "folder of target images to train on")
    val_data_dir: str = setting("", "folder of source images to measure on, seen by no model")
    val_target_data_dir: str = setting("", "folder of target images to measure on")
    out_dir: str = setting("results/ablation", "folder of models, table and picture")
    num_images: int = setting(60, "images of each folder to measure on at most", minimum=8)
    amount: int = setting(5, "images per sequence", minimum=1)
    image_size: int = setting(32, "side of the images, pixels", minimum=1, most=WIDEST)
    num_channels: int = setting(64, "width of the first level, channels", minimum=32, most=WIDEST)
    attention_resolutions: str = setting("16,8", "sides of the feature maps with attention, pixels")
    attention_window: int = setting(4, "side of the windows, positions", minimum=1, most=WIDEST)
    max_steps: int = setting(1500, "steps of each training", minimum=1)
    batch_size: int = setting(16, "images per step", minimum=1, most=10**6)
    lr: float = setting(1e-3, "learning rate at the start, falling to 0", minimum=0, most=1e6)
    ema_rate: str = setting("0.995", "decay of the averaged weights")
    features: str = setting("small", "network of the KID, as in evaluate.py", choices=EXTRACTORS)
    jobs: int = setting(1, "trainings at once", minimum=1)
    precision: str = setting("auto", "arithmetic of the trainings", choices=PRECISIONS)


@dataclasses.dataclass(frozen=True)
class PairSettings(DeviceSettings, ReadingSettings):
    """A source and a target model, and source images."""

    source_model: str = setting("", "source checkpoint or training run folder; empty: the demo")
    target_model: str = setting("", "target checkpoint or training run folder; empty: the demo")
    data_dir: str = setting("", "folder of source images; empty: drawn demo tiles")


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings(PairSettings, MeasurementSettings):
    """Comparing engines."""

    num_images: int = setting(4, "images, the first by name", minimum=1)
    grids: str = setting("mixed,logsnr,quadratic", "grids of few steps; empty: the presets alone")


@dataclasses.dataclass(frozen=True)
class TimingSettings(MeasurementSettings):
    """Measuring time."""

    against: str = setting(
        "published",
        "baseline of the ratios; published: the procedure of the published code, in eager fp32, "
        "without fused kernels",
        choices=("published",),
    )
    rounds: int = setting(3, "runs of each contestant, in turn with the others", minimum=1)
    budget: float = setting(
        0.0, "seconds to stay within, by timing only parts of long runs; 0: no limit", minimum=0
    )


@dataclasses.dataclass(frozen=True)
class SequenceTimingSettings(TimingSettings):
    """Time of sequences; with a flag of the network, it has fresh weights."""

    data_dir: str = setting("", "folder of source images; empty: drawn demo tiles")
    num_images: int = setting(1, "source images, the first by name", minimum=1)
    amount: int = setting(10, "images per sequence, besides its source", minimum=1)
    batch_size: int = setting(8, "source images that our engines encode together", minimum=1)
    max_batch: int = setting(32, "images per forward of our engines at most", minimum=1)
    engines: str = setting(
        "fp32,bf16,fast,draft",
        "our engines; fp32, bf16: all published steps in that precision; fast, draft: presets",
    )


@dataclasses.dataclass(frozen=True)
class TrainTimingSettings(TimingSettings):
    """Time of training; a network of the demo's shape, unless a flag of the network is given."""

    data_dir: str = setting("", "folder of training images; empty: drawn demo tiles")
    batch_size: int = setting(8, "images per step, no more than there are", minimum=1)
    steps: int = setting(10, "training steps of a run at most", minimum=1)
    profile: bool = setting(False, "also show which operators take most of the time of each")


@dataclasses.dataclass(frozen=True)
class ForwardTimingSettings(TimingSettings):
    """Time of a forward; a network of the demo's shape, unless a flag of the network is given."""

    batch_sizes: str = setting("1,8", "images per forward, several as 1,8")
    repeats: int = setting(10, "forwards of a run at most", minimum=1)
    profile: bool = setting(False, "also show which operators take most of the time of each")


@dataclasses.dataclass(frozen=True)
class ScalingSettings(MeasurementSettings):
    """Memory over the number of images, and time over the number of ranks; demo models."""

    counts: str = setting("8,64", "source images of the runs whose memory is compared")
    rounds: int = setting(3, "runs for each number of images; their median is taken", minimum=1)
    rank_images: int = setting(64, "source images of the runs on one and on two ranks", minimum=2)
    steps: int = setting(10, "network evaluations of each encoding and decoding", minimum=1)
    batch_size: int = setting(4, "source images encoded together", minimum=1)


@dataclasses.dataclass(frozen=True)
class NeighboursSettings(MeasurementSettings):
    """Time beside busy processes; demo models."""

    neighbours: int = setting(0, "busy processes; 0: one for each core", minimum=0)
    preset: str = setting("draft", "preset of the sequences", choices=("fast", "draft"))
    num_images: int = setting(2, "source images, the first by name", minimum=1)
    amount: int = setting(4, "images per sequence, besides its source", minimum=1)
    rounds: int = setting(3, "times that each way of waiting is run, in turn", minimum=1)


@dataclasses.dataclass(frozen=True)
class CompareDepthsSettings(PairSettings):
    """Depth policies side by side."""

    num_images: int = setting(2, "images, the first by name", minimum=1)
    amount: int = setting(5, "images of each sequence", minimum=1)
    depths: str = setting(
        "", "fixed depths to show beside the policies', as 300,600; their number is the --amount"
    )
    steps: int = setting(
        40, "forwards of an encoding, and of a decoding at most; 0: every level", minimum=0
    )
    out_dir: str = setting("results/compare_depths", "folder to write the two pictures to")
