"""Groups of flags of translation between domains, see `options`, and the presets of its engine."""

import argparse
import dataclasses
from collections.abc import Set
from typing import Any

from ..errors import ArgumentError
from .flags import option
from .options import NUM_CLASSES

GRIDS = ("time", "quadratic", "logsnr", "mixed")


def level_convention() -> Any:
    return option(
        "reference",
        "level at which decoding reads a latent; reference: as published, one below the one that "
        "encoding left it at; aligned: the same",
        choices=("reference", "aligned"),
    )


@dataclasses.dataclass(frozen=True)
class SequenceOptions:
    """Progressive sequences from a source to a target domain."""

    source_model: str = option("", "source checkpoint or training run folder; empty: the demo")
    target_model: str = option("", "target checkpoint or training run folder; empty: the demo")
    data_dir: str = option(
        "", "folder of source images, with --stages a subfolder of it for each; empty: the demo's"
    )
    target_data_dir: str = option(
        "", "folder of target images, for the way back of --bidirectional; demo: drawn tiles"
    )
    bidirectional: bool = option(
        False, "go back as well, from the target's images to the source (or down the --stages)"
    )
    stages: str = option(
        "",
        "two or more stages in their order, in place of source and target: NAME=RUN,NAME=RUN,..., "
        "each with its checkpoint or training run folder",
    )
    pairs: str = option(
        "adjacent",
        "pairs of --stages to go between; all: also straight past stages, whose share in the soft "
        "labels is then 0",
        choices=("adjacent", "all"),
    )
    source: str = option("0", "name of the source domain in files and labels")
    target: str = option("1", "name of the target domain in files and labels")
    num_images: int = option(
        0, "source images to use, in order of name; 0: all (demo: 2)", minimum=0
    )
    batch_size: int = option(
        1,
        "source images encoded together; results are the same up to rounding",
        minimum=1,
        free=True,
    )
    max_batch: int = option(
        32,
        "images per forward at most; halved whenever a GPU runs out of memory",
        minimum=1,
        free=True,
    )
    amount: int = option(10, "images per sequence, besides its source", minimum=1)
    depth_policy: str = option(
        "add",
        "add: the published adaptive search, evenly spaced where it fails; even: equal changes of "
        "the feature; uniform: evenly spaced (demo: even)",
        choices=("add", "even", "uniform"),
    )
    depth_feature: str = option(
        "magnitude",
        "what even measures; magnitude: the published 18 bins of low horizontal frequencies; "
        "power: log power of all frequencies by radius",
        choices=("magnitude", "power"),
    )
    preset: str = option(
        "published",
        "sets the flags of the engine that are not given; published: DDIM, all steps, reference "
        "levels; aligned: the same at joined levels; fast, draft: few steps of dpmpp",
        choices=("published", "aligned", "fast", "draft"),
    )
    solver: str = option(
        "ddim",
        "ddim, or dpmpp: multistep, for few steps",
        choices=("ddim", "dpmpp"),
    )
    solver_order: int = option(2, "order of dpmpp", minimum=1, maximum=3)
    encode_steps: int = option(0, "network evaluations of an encoding; 0: every level", minimum=0)
    decode_steps: int = option(
        0, "network evaluations of a decoding from full depth; 0: every level", minimum=0
    )
    encode_prediction: str = option(
        "data",
        "what dpmpp follows in an encoding: the predicted clean image, or the noise",
        choices=("data", "noise"),
    )
    grid: str = option(
        "mixed",
        "levels that few steps visit; even in the timestep, its root, the log of the "
        "signal-to-noise ratio, or the sum of the first and the third",
        choices=GRIDS,
    )
    level_convention: str = level_convention()
    trajectory_memory: float = option(
        0.5, "GB of trajectory kept in memory; beyond it, in a temporary file", minimum=0, free=True
    )
    save_npy: bool = option(True, "write source.npy, target.npy and diffway.npy")
    save_latents: bool = option(False, "write latent.npy (float16)")
    dry_run: bool = option(
        False,
        "print forwards, FLOPs, bytes on disk and time of the run, and make nothing",
        free=True,
    )


FEW_STEPS = {"solver": "dpmpp", "solver_order": 2, "level_convention": "aligned"}
PRESETS: dict[str, dict[str, object]] = {
    "published": {},
    "aligned": {"level_convention": "aligned"},
    # One encoding serves all depths, so that its steps cost little.
    "fast": {**FEW_STEPS, "grid": "mixed", "encode_steps": 32, "decode_steps": 24},
    "draft": {**FEW_STEPS, "grid": "logsnr", "encode_steps": 20, "decode_steps": 12},
}


def apply_preset(args: argparse.Namespace, given: Set[str], levels: int) -> None:
    """Set the flags of `args.preset` in `args`, except those given on the command line.

    A preset takes no more steps than the process has `levels`.

    Raises:
        UserError: if a flag is given that has no effect on the engine that results.
    """
    for name, value in PRESETS[args.preset].items():
        if name not in given:
            setattr(args, name, min(value, levels) if name.endswith("_steps") else value)
    for name in sorted({"solver_order", "encode_prediction"} & given):
        if args.solver == "ddim":
            raise ArgumentError(
                name, f"goes with --solver dpmpp (or --preset fast), got {args.solver}"
            )
    if "grid" in given and not args.encode_steps and not args.decode_steps:
        raise ArgumentError("grid", "every level is visited; add --encode_steps or --decode_steps")


@dataclasses.dataclass(frozen=True)
class ClassTranslationOptions:
    """Translation between classes of one model."""

    model_path: str = option(
        "./models/imagenet/256x256_diffusion.pt",
        "checkpoint file or training run folder of a class-conditional model",
    )
    source: str = option("260,261,282,283", "numbers of the classes to translate from")
    target: str = option("261,262,283,284", "for each --source, the class to translate to")
    val_dir: str = option("", "folder of source images, searched recursively")
    label_map: str = option(
        "", "text file with a NAME and a class number a line, of files or of classes; empty: none"
    )
    num_images: int = option(
        0, "images of each pair to translate, in order of name; 0: all", minimum=0
    )
    clip_denoised: bool = option(True, "clip predicted images to [-1, 1]")
    batch_size: int = option(8, "images per forward and per process", minimum=1, free=True)
    eta: float = option(
        0.0, "share of fresh noise in decoding; 0: deterministic", minimum=0, maximum=1
    )
    out_channels: int = option(
        NUM_CLASSES,
        "classes of the classifier; read from its weights, which must agree where this is given",
        minimum=2,
    )
