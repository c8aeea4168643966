"""Flags as data: one dataclass per group; argparse and upstream's default dicts follow from it.

A field made by `option` carries its help text, its choices or range, and whether a run folder may
be continued with another value of it (`free`: it changes where or how fast, not what, is computed).
"""

import argparse
import dataclasses
import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

NUM_CLASSES = 1000  # of upstream's class-conditional networks

# Where ADD's sampler differs from guided-diffusion: its network and its process.
ADD_DEFAULTS = {
    "image_size": 256, "num_channels": 256, "num_head_channels": 64, "learn_sigma": True,
    "attention_resolutions": "32,16,8", "resblock_updown": True, "use_fp16": True,
}  # fmt: skip


class UserError(Exception):
    """A mistake in a flag, a file or a folder: reported in one line, exit code 2, no traceback."""


class MissingExtraError(UserError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def require(module: str, extra: str) -> Any:
    """Import a module that an extra of this package installs.

    Raises:
        MissingExtraError: if it is not installed.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)  # parts that are loaded would be found without it
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(
            f"this needs {package}: pip install 'guided-diffusion-add[{extra}]'"
        ) from None


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[Any] | None = None,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    also: Sequence[int] = (),
    free: bool = False,
) -> Any:
    """Declare one flag.

    Args:
        default: its value where it is not given; also tells its type.
        help: what it is, with its unit.
        choices: the values it may have.
        minimum: smallest value of a number.
        maximum: largest value of a number.
        also: values outside that range with a meaning of their own.
        free: whether a run may be continued with another value.
    """
    metadata = {"help": help, "choices": tuple(choices) if choices else None, "free": free,
                "minimum": minimum, "maximum": maximum, "also": also}  # fmt: skip
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

    image_size: int = option(64, "side of the square images, pixels", minimum=1)
    num_channels: int = option(128, "width of the first level, channels (a multiple of 32)")
    num_res_blocks: int = option(
        2, "residual blocks per level, beside those that --resblock_updown resamples in", minimum=0
    )
    num_heads: int = option(4, "attention heads, where --num_head_channels is -1", minimum=1)
    num_heads_upsample: int = option(
        -1, "attention heads on the way up; -1: as --num_heads", minimum=1, also=(-1,)
    )
    num_head_channels: int = option(
        -1, "channels per attention head; -1: use --num_heads", minimum=1, also=(-1,)
    )
    attention_resolutions: str = option(
        "16,8", "sides of the feature maps with attention, pixels, as 16,8; empty: none"
    )
    channel_mult: str = option(
        "", "width of each level in units of --num_channels, as 1,2,4; empty: by --image_size"
    )
    dropout: float = option(0.0, "dropout probability, 0..1", minimum=0, maximum=1)
    class_cond: bool = option(
        False, "condition on a class label: in training, the file name up to its first _"
    )
    use_checkpoint: bool = option(False, "recompute activations to save memory")
    use_scale_shift_norm: bool = option(True, "time embedding scales and shifts the norms")
    resblock_updown: bool = option(False, "resample inside residual blocks")
    use_fp16: bool = option(False, "float16 network body, as upstream's recipe")
    use_new_attention_order: bool = option(
        False, "channel order of the qkv projection: False q,k,v per head; True heads per q,k,v"
    )
    in_channels: int = option(3, "image channels: grey, RGB or RGBA", choices=(1, 3, 4))


@dataclasses.dataclass(frozen=True)
class DiffusionOptions:
    """The noising process and what the network predicts."""

    learn_sigma: bool = option(False, "predict the variance too (twice the output channels)")
    diffusion_steps: int = option(1000, "noise levels of the process in training", minimum=1)
    noise_schedule: str = option("linear", "how noise grows", choices=("linear", "cosine"))
    timestep_respacing: str = option("", "steps to visit: N, ddimN or a,b,c; empty: all")
    use_kl: bool = option(False, "train on the variational bound")
    predict_xstart: bool = option(False, "the network predicts the clean image, not the noise")
    rescale_timesteps: bool = option(False, "scale timesteps to 0..1000 before the network")
    rescale_learned_sigmas: bool = option(False, "rescale the variational term of learned sigmas")


@dataclasses.dataclass(frozen=True)
class ClassifierOptions:
    """The noisy-image classifier of classifier guidance."""

    image_size: int = option(64, "side of the square images, pixels", minimum=1)
    classifier_use_fp16: bool = option(False, "float16 classifier body")
    classifier_width: int = option(128, "width of the first level, channels", minimum=1)
    classifier_depth: int = option(2, "residual blocks per level", minimum=1)
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

    out_dir: str = option("", "folder of the run; empty: one of its own in results/", free=True)
    seed: int = option(0, "base seed; every random draw follows from it", minimum=0)
    device: str = option("", "cpu, cuda or cuda:N; empty: cuda where there is one", free=True)
    precision: str = option(
        "fp32",
        "arithmetic of the network; auto: bf16 where the hardware has it",
        choices=("fp32", "bf16", "auto"),
    )


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Training of one domain."""

    data_dir: str = option("", "folder of training images, searched recursively")
    schedule_sampler: str = option(
        "uniform", "how timesteps are drawn", choices=("uniform", "loss-second-moment")
    )
    lr: float = option(1e-4, "learning rate of AdamW", minimum=0)
    weight_decay: float = option(0.0, "weight decay of AdamW", minimum=0)
    lr_anneal_steps: int = option(
        0, "steps over which --lr falls to 0, where training stops; 0: --lr stays", minimum=0
    )
    batch_size: int = option(1, "images per step and per process", minimum=1)
    microbatch: int = option(
        -1, "images per forward, to save memory; -1: the whole batch", minimum=1, also=(-1,)
    )
    ema_rate: str = option("0.9999", "decay of the averaged weights; several as 0.99,0.999")
    log_interval: int = option(10, "steps between log rows", minimum=1, free=True)
    save_interval: int = option(10000, "steps between checkpoints", minimum=1, free=True)
    resume_checkpoint: str = option("", "modelNNNNNN.pt to start from, where --out_dir has none")
    fp16_scale_growth: float = option(
        1e-3, "growth of log2 of the float16 loss scale per step", minimum=0
    )
    max_steps: int = option(
        0, "stop after this many steps, earlier ones of a resumed run counted; 0: no end",
        minimum=0, free=True,
    )  # fmt: skip
    sample_interval: int = option(
        -1,
        "steps between grids of samples; -1: as --save_interval, 0: no grids",
        minimum=-1,
        free=True,
    )
    sample_steps: int = option(50, "DDIM steps of a grid of samples", minimum=1, free=True)
    augment: str = option(
        "flip",
        "flip: left-right half of the time; dihedral: right-angle rotations and flips, for tissue",
        choices=("none", "flip", "dihedral"),
    )
    random_crop: bool = option(False, "random instead of centre crops")


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Drawing new images from one model."""

    clip_denoised: bool = option(True, "clip predicted images to [-1, 1]")
    num_samples: int = option(10000, "images to draw", minimum=1)
    batch_size: int = option(16, "images per forward and per process", minimum=1)
    use_ddim: bool = option(False, "deterministic DDIM instead of ancestral sampling")
    model_path: str = option("", "checkpoint file or training run folder")


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
class SequenceOptions:
    """Progressive sequences from a source to a target domain."""

    source_model: str = option("", "source checkpoint or training run folder; empty: the demo")
    target_model: str = option("", "target checkpoint or training run folder; empty: the demo")
    data_dir: str = option("", "folder of source images; empty: drawn demo tiles")
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
    max_batch: int = option(32, "images per forward in decoding at most", minimum=1, free=True)
    amount: int = option(10, "images per sequence, besides its source", minimum=1)
    depth_policy: str = option(
        "add",
        "add: the published adaptive search; uniform: evenly spaced",
        choices=("add", "uniform"),
    )
    level_convention: str = option(
        "reference",
        "level at which decoding reads a latent; reference: as published, one below the one that "
        "encoding left it at; aligned: the same",
        choices=("reference", "aligned"),
    )
    trajectory_memory: float = option(
        0.5, "GB of trajectory kept in memory; beyond it, in a temporary file", minimum=0, free=True
    )
    save_npy: bool = option(True, "write source.npy, target.npy and diffway.npy")
    save_latents: bool = option(False, "write latent.npy (float16)")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, as for every user mistake; the usage text would bury it.
        self.exit(2, f"error: {message} (--help lists all flags)\n")


def create_parser(
    description: str, *groups: type, overrides: Mapping[str, Any] | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a command with the flags of each group; see `add_options`."""
    parser = _Parser(
        description=description, usage="%(prog)s [--FLAG VALUE ...]", allow_abbrev=False
    )
    add_options(parser, *groups, overrides=overrides)
    return parser


def defaults(*groups: type) -> dict[str, Any]:
    """Return {flag: default} of the groups, in order; a later group wins."""
    return {f.name: f.default for group in groups for f in dataclasses.fields(group)}


def free_flags(*groups: type) -> set[str]:
    """Return the names of flags that may differ when a run is continued."""
    return {f.name for g in groups for f in dataclasses.fields(g) if f.metadata.get("free")}


def add_options(
    parser: argparse.ArgumentParser, *groups: type, overrides: Mapping[str, Any] | None = None
) -> None:
    """Add the flags of each group to a parser, once each, with help, unit, default and range."""
    overrides = dict(overrides or {})
    seen: set[str] = set()
    for group in groups:
        section = parser.add_argument_group(group.__doc__.splitlines()[0].rstrip("."))
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
    **limits: Any,
) -> None:
    shown = repr(default) if default == "" else default
    text = f"{help} (default: {shown})".replace("%", "%%")
    keywords: dict[str, Any] = {"default": default, "help": text}
    if isinstance(default, bool):
        keywords |= {"type": str2bool, "nargs": "?", "const": True, "metavar": "BOOL"}
    else:
        kind = str if default is None else type(default)
        keywords |= {"type": kind if kind is str else _number(kind, **limits), "choices": choices}
        if choices is None:
            keywords["metavar"] = kind.__name__.upper()
    parser.add_argument(f"--{name}", **keywords)


def _number(
    kind: type,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    also: Sequence[int] = (),
) -> Callable[[str], float]:
    expected = "a whole number" if kind is int else "a number"
    if maximum < math.inf:
        expected += f" from {minimum:g} to {maximum:g}"
    elif minimum > -math.inf:
        expected += f" of at least {minimum:g}"
    expected += "".join(f" or {value}" for value in also)

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and (minimum <= value <= maximum or value in also):
            return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return read


def add_dict_to_argparser(parser: argparse.ArgumentParser, default_dict: dict[str, Any]) -> None:
    """Add one flag per entry, typed by its default (None means text), as upstream's helper."""
    for name, default in default_dict.items():
        _add_flag(parser, name, default, help="see upstream's documentation")


def args_to_dict(args: Any, keys: Iterable[str]) -> dict[str, Any]:
    """Return {key: args.key}."""
    return {key: getattr(args, key) for key in keys}


def given_flags(argv: Iterable[str]) -> set[str]:
    """Return the names of the flags that stand on a command line, as opposed to defaults."""
    return {word[2:].split("=")[0] for word in argv if word.startswith("--")}
