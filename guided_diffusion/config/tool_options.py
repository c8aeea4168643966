"""Groups of flags of the tools beside training and sampling, see `options`."""

import dataclasses
import tempfile
from pathlib import Path

from ..errors import ArgumentError
from .flags import option


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """Rewriting a checkpoint."""

    model_path: str = option("", "checkpoint (.pt or .safetensors) or training run folder")
    output: str = option("", "file to write, in the format of its suffix: .pt or .safetensors")
    attention_order: str = option(
        "keep",
        "channel order of the qkv projections in the output: legacy (q,k,v per head), new (heads "
        "per q,k,v) or that of the input",
        choices=("keep", "legacy", "new"),
    )
    dtype: str = option(
        "keep", "number format of the weights", choices=("keep", "float32", "float16", "bfloat16")
    )
    input_order: str = option(
        "", "channel order of the input; empty: by its args.json", choices=("", "legacy", "new")
    )
    num_heads: int = option(
        -1, "attention heads of the input; -1: by its args.json", minimum=1, also=(-1,)
    )
    num_heads_upsample: int = option(
        -1,
        "its heads on the way up; -1: by its args.json, else as --num_heads",
        minimum=1,
        also=(-1,),
    )
    num_head_channels: int = option(
        -1,
        "its channels per head, in place of --num_heads; -1: by its args.json",
        minimum=1,
        also=(-1,),
    )


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Comparing two sets of images."""

    features: str = option(
        "auto",
        "network that sees the images: inception; small: fixed random weights, for a quick look; "
        "auto: inception where it is installed with its weights, else small",
        choices=("auto", "inception", "small"),
    )
    weights: str = option("", "file of Inception's weights; empty: where torch-fidelity keeps them")
    image_size: int = option(
        0, "resize and centre-crop to this side, pixels; 0: as they are, all of one size", minimum=0
    )
    batch_size: int = option(32, "images per forward and per process", minimum=1)
    bootstrap: int = option(
        200, "random halves of the sets that the intervals come from; 0: no intervals", minimum=0
    )
    seed: int = option(0, "base seed; every random draw follows from it", minimum=0)
    device: str = option("", "cpu, cuda or cuda:N; empty: cuda where there is one")
    out: str = option("", "JSON file to write; empty: none")


@dataclasses.dataclass(frozen=True)
class TissueOptions:
    """Drawn tissue."""

    out_dir: str = option("", "folder to write to, made where absent")
    severity: float = option(0.1, "middle of the severities, if not --stages", minimum=0, maximum=1)
    severity_spread: float = option(
        0.05, "half width of the severities, cut off at 0 and 1", minimum=0, maximum=1
    )
    stages: str = option("", "a subfolder for each stage, as NAME=SEVERITY,NAME=SEVERITY")
    num_images: int = option(500, "tiles, of each stage", minimum=1)
    image_size: int = option(64, "side of a tile, pixels", minimum=16)
    seed: int = option(0, "seed of the first tile; the others count up", minimum=0)


@dataclasses.dataclass(frozen=True)
class AblationOptions:
    """Comparing kinds of attention."""

    data_dir: str = option("", "folder of source images to train on; empty: drawn tissue")
    target_data_dir: str = option("", "folder of target images to train on")
    val_data_dir: str = option("", "folder of source images to measure on, seen by no model")
    val_target_data_dir: str = option("", "folder of target images to measure on")
    out_dir: str = option("results/ablation", "folder of models, table and picture")
    num_images: int = option(60, "images of each folder to measure on at most", minimum=8)
    amount: int = option(5, "images per sequence", minimum=1)
    image_size: int = option(32, "side of the images, pixels", minimum=1)
    num_channels: int = option(64, "width of the first level, channels", minimum=32)
    attention_resolutions: str = option("16,8", "sides of the feature maps with attention, pixels")
    attention_window: int = option(4, "side of the windows, positions", minimum=1)
    max_steps: int = option(1500, "steps of each training", minimum=1)
    batch_size: int = option(16, "images per step", minimum=1)
    lr: float = option(1e-3, "learning rate at the start, falling to 0", minimum=0)
    ema_rate: str = option("0.995", "decay of the averaged weights")
    features: str = option(
        "small",
        "network of the KID, as that of evaluate.py",
        choices=("auto", "inception", "small"),
    )
    jobs: int = option(1, "trainings at once", minimum=1)
    precision: str = option("auto", "arithmetic of the trainings", choices=("fp32", "bf16", "auto"))
    seed: int = option(0, "base seed; every random draw follows from it", minimum=0)
    device: str = option("", "cpu, cuda or cuda:N; empty: cuda where there is one")


@dataclasses.dataclass(frozen=True)
class PairOptions:
    """A source and a target model, and images to take there."""

    source_model: str = option("", "source checkpoint or training run folder; empty: the demo")
    target_model: str = option("", "target checkpoint or training run folder; empty: the demo")
    data_dir: str = option("", "folder of source images; empty: drawn demo tiles")
    device: str = option("", "cpu, cuda or cuda:N; empty: cuda where there is one")


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(PairOptions):
    """Comparing engines."""

    num_images: int = option(4, "images, the first by name", minimum=1)
    grids: str = option(
        "mixed,logsnr,quadratic", "grids of few steps to compare; empty: the presets alone"
    )
    out: str = option("", "file that a line of JSON is appended to; empty: none")


@dataclasses.dataclass(frozen=True)
class TimingOptions:
    """Measuring time."""

    against: str = option(
        "published",
        "what the ratios are over; published: the procedure of the published code, "
        "eager, fp32, attention unfused",
        choices=("published",),
    )
    rounds: int = option(3, "times that each contestant is run, in turn with the others", minimum=1)
    budget: float = option(
        0.0,
        "seconds to keep the measurement within, by running less of what is long; 0: run "
        "everything whole",
        minimum=0,
    )
    device: str = option("", "cpu, cuda or cuda:N; empty: cuda where there is one")
    out: str = option("", "file that a line of JSON is appended to; empty: none")


@dataclasses.dataclass(frozen=True)
class SequenceTimingOptions(TimingOptions):
    """Time of sequences; with a flag of the network, it has fresh weights."""

    data_dir: str = option("", "folder of source images; empty: drawn demo tiles")
    num_images: int = option(1, "source images, the first by name", minimum=1)
    amount: int = option(10, "images per sequence, besides its source", minimum=1)
    batch_size: int = option(8, "source images that ours encode together", minimum=1)
    max_batch: int = option(32, "images per forward of ours at most", minimum=1)
    engines: str = option(
        "fp32,bf16,fast,draft",
        "ours; fp32, bf16: the published steps in that precision; fast, draft: the presets",
    )


@dataclasses.dataclass(frozen=True)
class TrainTimingOptions(TimingOptions):
    """Time of training; a network of the demo's shape, unless a flag of the network is given."""

    data_dir: str = option("", "folder of training images; empty: drawn demo tiles")
    batch_size: int = option(8, "images per step, no more than there are", minimum=1)
    steps: int = option(10, "training steps of a run at most", minimum=1)
    profile: bool = option(False, "also show which operators take most of the time of each")


@dataclasses.dataclass(frozen=True)
class ForwardTimingOptions(TimingOptions):
    """Time of a forward; a network of the demo's shape, unless a flag of the network is given."""

    batch_sizes: str = option("1,8", "images per forward, several as 1,8")
    repeats: int = option(10, "forwards of a run at most", minimum=1)
    profile: bool = option(False, "also show which operators take most of the time of each")


@dataclasses.dataclass(frozen=True)
class ScalingOptions:
    """Memory over the number of images, and time over the number of ranks; demo models."""

    counts: str = option("8,64", "source images of the runs whose memory is compared")
    rounds: int = option(3, "runs of each of these, of which the median is taken", minimum=1)
    rank_images: int = option(64, "source images of the runs on one and on two ranks", minimum=2)
    steps: int = option(10, "network evaluations of each encoding and decoding", minimum=1)
    batch_size: int = option(4, "source images encoded together", minimum=1)
    device: str = option("", "cpu, cuda or cuda:N; empty: cuda where there is one")
    out: str = option("", "file that a line of JSON is appended to; empty: none")


@dataclasses.dataclass(frozen=True)
class NeighboursOptions:
    """Time beside busy processes; demo models."""

    neighbours: int = option(0, "busy processes; 0: one for each core", minimum=0)
    preset: str = option("draft", "engine of the sequences", choices=("fast", "draft"))
    num_images: int = option(2, "source images, the first by name", minimum=1)
    amount: int = option(4, "images per sequence, besides its source", minimum=1)
    rounds: int = option(3, "times that each way of waiting is run, in turn", minimum=1)
    device: str = option("", "cpu, cuda or cuda:N; empty: cuda where there is one")
    out: str = option("", "file that a line of JSON is appended to; empty: none")


@dataclasses.dataclass(frozen=True)
class CompareDepthsOptions(PairOptions):
    """Policies of depth side by side."""

    num_images: int = option(2, "images, the first by name", minimum=1)
    amount: int = option(5, "images of each sequence", minimum=1)
    steps: int = option(
        40,
        "network evaluations of an encoding, and of a decoding at most; 0: every level",
        minimum=0,
    )
    out_dir: str = option("results/compare_depths", "folder to write the two pictures to")


def refuse_unwritable(out: str, replacing: bool = True) -> None:
    """Stop if the file of `--out` could not be written at the end; leaves nothing behind.

    Args:
        out: the file; empty: none.
        replacing: it will be written beside and renamed; else appended to, if it is there.

    Raises:
        UserError: naming the flag.
    """
    path = Path(out)
    try:
        if out and path.exists():
            open(path, "ab").close()
        if out and (replacing or not path.exists()):
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ArgumentError(
            "out",
            f"expected a file in a folder that can be written to, got {out!r} ({error.strerror})",
        ) from None
