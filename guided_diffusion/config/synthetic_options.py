"""Groups of flags of DDIB's commands for points in the plane, see `options`."""

import dataclasses
from typing import Any

from .flags import option
from .options import DenoisingOptions
from .translation_options import level_convention


def _task(default: int, what: str) -> Any:
    return option(
        default,
        f"{what}: 0 moons, 1 checkerboard, 2 concentric rings, 3 concentric squares, 4 olympic "
        "(parallel) rings, 5 olympic squares",
        choices=range(6),
    )


@dataclasses.dataclass(frozen=True)
class SyntheticModelOptions:
    """The network of points in the plane."""

    in_channels: int = option(2, "coordinates of a point", choices=(2,))
    num_channels: int = option(256, "width, channels (a multiple of 32)", minimum=32)
    num_res_blocks: int = option(2, "residual blocks each way", minimum=0)
    dropout: float = option(0.2, "dropout probability, 0..1", minimum=0, maximum=1)
    use_checkpoint: bool = option(False, "recompute activations to save memory")
    use_fp16: bool = option(False, "float16 network body, as upstream's recipe")


@dataclasses.dataclass(frozen=True)
class SyntheticTrainOptions(DenoisingOptions):
    """Training on points of one distribution."""

    task: int = _task(0, "distribution")
    batch_size: int = option(30000, "points per step and per process", minimum=1)


@dataclasses.dataclass(frozen=True)
class SyntheticSampleOptions:
    """Drawing new points from one model."""

    task: int = _task(0, "distribution of the model")
    num_samples: int = option(80000, "points to draw", minimum=1)
    batch_size: int = option(20000, "points per forward and per process", minimum=1, free=True)
    model_path: str = option(
        "",
        "checkpoint, training run folder, or folder of runs by task as log2D0; empty: of the "
        "runs of synthetic_train",
    )


@dataclasses.dataclass(frozen=True)
class SyntheticBridgeOptions:
    """Points of one distribution on their way to another."""

    source: int = _task(0, "distribution of the points")
    target: int = _task(1, "distribution to reach")
    num_samples: int = option(90000, "points to move", minimum=1)
    batch_size: int = option(30000, "points per forward and per process", minimum=1, free=True)
    model_path: str = option(
        "", "folder of training runs by task, as log2D0; empty: that of synthetic_train"
    )
    source_model: str = option(
        "", "source checkpoint or training run folder; empty: by task in --model_path"
    )
    target_model: str = option(
        "", "target checkpoint or training run folder; empty: by task in --model_path"
    )
    level_convention: str = level_convention()
