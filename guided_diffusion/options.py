"""Flags as data: one dataclass per group; argparse and upstream's default dicts follow from it.

A field made by `option` carries its help text, its choices and whether a run folder may be
continued with another value of it (`free`: it changes where or how fast, not what, is computed).
"""

import argparse
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(Exception):
    """A mistake in a flag, a file or a folder: reported in one line, exit code 2, no traceback."""


def option(
    default: Any, help: str, *, choices: Iterable[Any] | None = None, free: bool = False
) -> Any:
    """Declare one flag: its default, its help with unit, its choices, and whether it is free."""
    metadata = {"help": help, "choices": tuple(choices) if choices else None, "free": free}
    return dataclasses.field(default=default, metadata=metadata)


def str2bool(v: str | bool) -> bool:
    """Read a boolean flag value.

    Raises:
        argparse.ArgumentTypeError: for anything but yes/no, true/false, t/f, y/n, 1/0.
    """
    if isinstance(v, bool):
        return v
    if v.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if v.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected a boolean such as True or False, got {v!r}")


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The network of one domain; with its checkpoint these rebuild the model."""

    image_size: int = option(64, "side of the square images, pixels")
    num_channels: int = option(128, "width of the first level, channels (a multiple of 32)")
    num_res_blocks: int = option(2, "residual blocks per level")
    num_heads: int = option(4, "attention heads, where --num_head_channels is -1")
    num_heads_upsample: int = option(-1, "heads on the way up; -1: as --num_heads")
    num_head_channels: int = option(-1, "channels per attention head; -1: use --num_heads")
    attention_resolutions: str = option("16,8", "feature map sides with attention, pixels")
    channel_mult: str = option("", "width of each level over --num_channels; empty: by size")
    dropout: float = option(0.0, "dropout probability, 0..1")
    class_cond: bool = option(False, "condition on a class label")
    use_checkpoint: bool = option(False, "recompute activations to save memory")
    use_scale_shift_norm: bool = option(True, "time embedding scales and shifts the norms")
    resblock_updown: bool = option(False, "resample inside residual blocks")
    use_fp16: bool = option(False, "float16 network body, as upstream's recipe")
    use_new_attention_order: bool = option(
        False, "channel order of the qkv projection: False q,k,v per head; True heads per q,k,v"
    )
    in_channels: int = option(3, "image channels: 1, 3 or 4")


@dataclasses.dataclass(frozen=True)
class DiffusionOptions:
    """The noising process and what the network predicts."""

    learn_sigma: bool = option(False, "predict the variance too (twice the output channels)")
    diffusion_steps: int = option(1000, "noise levels of the process that was trained")
    noise_schedule: str = option("linear", "noise schedule", choices=("linear", "cosine"))
    timestep_respacing: str = option("", "steps to keep: a number, 'ddimN' or 'a,b,c'; empty: all")
    use_kl: bool = option(False, "train on the variational bound")
    predict_xstart: bool = option(False, "the network predicts the clean image, not the noise")
    rescale_timesteps: bool = option(False, "scale timesteps to 0..1000 before the network")
    rescale_learned_sigmas: bool = option(False, "rescale the variational term of learned sigmas")


@dataclasses.dataclass(frozen=True)
class ClassifierOptions:
    """The noisy-image classifier of classifier guidance."""

    image_size: int = option(64, "side of the square images, pixels")
    classifier_use_fp16: bool = option(False, "float16 classifier body")
    classifier_width: int = option(128, "width of the first level, channels")
    classifier_depth: int = option(2, "residual blocks per level")
    classifier_attention_resolutions: str = option("32,16,8", "map sides with attention, pixels")
    classifier_use_scale_shift_norm: bool = option(True, "time embedding scales and shifts norms")
    classifier_resblock_updown: bool = option(True, "resample inside residual blocks")
    classifier_pool: str = option(
        "attention",
        "how features are pooled",
        choices=("attention", "adaptive", "spatial", "spatial_v2"),
    )


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where a run lives and how it computes."""

    out_dir: str = option("", "folder of the run; empty: results/<script>", free=True)
    seed: int = option(0, "base seed; every random draw follows from it")
    device: str = option("", "cpu, cuda or cuda:N; empty: cuda where there is one", free=True)
    precision: str = option("fp32", "arithmetic of the network", choices=("fp32", "bf16"))


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Training of one domain."""

    data_dir: str = option("", "folder of training images, searched recursively")
    schedule_sampler: str = option(
        "uniform", "how timesteps are drawn", choices=("uniform", "loss-second-moment")
    )
    lr: float = option(1e-4, "learning rate of AdamW")
    weight_decay: float = option(0.0, "weight decay of AdamW")
    lr_anneal_steps: int = option(0, "steps over which the rate falls to 0, then stop; 0: never")
    batch_size: int = option(1, "images per step and per process")
    microbatch: int = option(-1, "images per forward, to save memory; -1: the whole batch")
    ema_rate: str = option("0.9999", "decay of the averaged weights, comma separated for several")
    log_interval: int = option(10, "steps between log lines", free=True)
    save_interval: int = option(10000, "steps between checkpoints", free=True)
    resume_checkpoint: str = option("", "modelNNNNNN.pt to start from, until --out_dir has its own")
    fp16_scale_growth: float = option(1e-3, "growth of log2 of the float16 loss scale per step")
    max_steps: int = option(0, "stop after this many steps; 0: no end", free=True)
    sample_interval: int = option(
        -1, "steps between grids of samples; -1: as save_interval, 0: none", free=True
    )
    sample_steps: int = option(50, "DDIM steps of a grid of samples", free=True)
    augment: str = option(
        "flip",
        "none; flip: left-right; dihedral: right-angle rotations and flips, for tissue",
        choices=("none", "flip", "dihedral"),
    )
    random_crop: bool = option(False, "random instead of centre crops")


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Drawing new images from one model."""

    clip_denoised: bool = option(True, "clip predicted images to [-1, 1]")
    num_samples: int = option(10000, "images to draw")
    batch_size: int = option(16, "images per forward and per process")
    use_ddim: bool = option(False, "deterministic DDIM instead of ancestral sampling")
    model_path: str = option("", "checkpoint file or training run folder")


@dataclasses.dataclass(frozen=True)
class SequenceOptions:
    """Progressive sequences from a source to a target domain."""

    source_model: str = option("", "source checkpoint or training run folder; empty: the demo")
    target_model: str = option("", "target checkpoint or training run folder; empty: the demo")
    data_dir: str = option("", "folder of source images; empty: drawn demo tiles")
    source: str = option("0", "name of the source domain in files and labels")
    target: str = option("1", "name of the target domain in files and labels")
    num_images: int = option(0, "source images to use, in order of name; 0: all (demo: 2)")
    batch_size: int = option(1, "source images walked together; results do not depend on it")
    max_batch: int = option(32, "images per forward at most", free=True)
    amount: int = option(10, "images per sequence")
    depth_policy: str = option(
        "add",
        "add: the published adaptive search; uniform: evenly spaced",
        choices=("add", "uniform"),
    )
    level_convention: str = option(
        "reference",
        "reference: as published, decoding reads one level too low; aligned: the two joined",
        choices=("reference", "aligned"),
    )
    trajectory_memory: float = option(
        0.5, "GB of trajectory kept in memory; beyond it, in a temporary file", free=True
    )
    save_npy: bool = option(True, "write source.npy, target.npy and diffway.npy")
    save_latents: bool = option(False, "write latent.npy (float16)")


def defaults(*groups: type) -> dict[str, Any]:
    """Return {flag: default} of the groups, in order; a later group wins."""
    return {f.name: f.default for group in groups for f in dataclasses.fields(group)}


def free_flags(*groups: type) -> set[str]:
    """Return the names of flags that may differ when a run is continued."""
    return {f.name for g in groups for f in dataclasses.fields(g) if f.metadata.get("free")}


def add_options(
    parser: argparse.ArgumentParser, *groups: type, overrides: Mapping[str, Any] | None = None
) -> None:
    """Add the flags of each group to a parser, once each, with help, unit and default."""
    overrides = dict(overrides or {})
    seen: set[str] = set()
    for group in groups:
        section = parser.add_argument_group(group.__doc__.splitlines()[0])
        for field in dataclasses.fields(group):
            if field.name not in seen:
                seen.add(field.name)
                default = overrides.pop(field.name, field.default)
                _add_flag(section, field.name, default, **field.metadata)
    if overrides:
        raise ValueError(f"overrides name no flag: {sorted(overrides)}")


def _add_flag(
    parser: Any,
    name: str,
    default: Any,
    help: str,
    choices: tuple | None = None,
    free: bool = False,
) -> None:
    shown = repr(default) if default == "" else default
    keywords: dict[str, Any] = {"default": default, "help": f"{help} (default: {shown})"}
    if isinstance(default, bool):
        keywords |= {"type": str2bool, "nargs": "?", "const": True, "metavar": "BOOL"}
    else:
        keywords |= {"type": type(default), "choices": choices}
        if choices is None:
            keywords["metavar"] = type(default).__name__.upper()
    parser.add_argument(f"--{name}", **keywords)


def add_dict_to_argparser(parser: argparse.ArgumentParser, default_dict: dict[str, Any]) -> None:
    """Add one flag per entry, typed by its default (None means text), as upstream's helper."""
    for name, default in default_dict.items():
        if default is None:
            parser.add_argument(f"--{name}", default=None, type=str)
        else:
            _add_flag(parser, name, default, help="see upstream's documentation")


def args_to_dict(args: Any, keys: Iterable[str]) -> dict[str, Any]:
    """Return {key: args.key}."""
    return {key: getattr(args, key) for key in keys}


def given_flags(argv: Iterable[str]) -> set[str]:
    """Return the names of the flags that stand on a command line, as opposed to defaults."""
    return {word[2:].split("=")[0] for word in argv if word.startswith("--")}
