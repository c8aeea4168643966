"""The groups of flags, one dataclass each; see `flags` for what follows from them."""

import argparse
import dataclasses
from collections.abc import Set
from typing import Any

from .flags import option

CHANNELS = "image channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA"
NUM_CLASSES = 1000  # of upstream's class-conditional networks

# Where ADD's sampler differs from guided-diffusion: its network and its process.
ADD_DEFAULTS = {
    "image_size": 256, "num_channels": 256, "num_head_channels": 64, "learn_sigma": True,
    "attention_resolutions": "32,16,8", "resblock_updown": True, "use_fp16": True,
}  # fmt: skip

# What --defaults chooses from: where the flags of an upstream differ from those of
# guided-diffusion. Neither improved-diffusion nor ADD flips images in training.
DEFAULT_SETS = {
    "guided": {},
    "improved": {"rescale_timesteps": True, "rescale_learned_sigmas": True, "augment": "none"},
    "ddib": {},
    "add": {**ADD_DEFAULTS, "augment": "none"},
}


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """What every U-Net here has; with its checkpoint these rebuild the model."""

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
        "", "width of each level in units of --num_channels, as 1,2,4; empty: by the image size"
    )
    dropout: float = option(0.0, "dropout probability, 0..1", minimum=0, maximum=1)
    class_cond: bool = option(False, "condition on a class label, see --labels of the training")
    use_checkpoint: bool = option(False, "recompute activations to save memory")
    use_scale_shift_norm: bool = option(True, "time embedding scales and shifts the norms")
    resblock_updown: bool = option(False, "resample inside residual blocks")
    use_fp16: bool = option(False, "float16 network body, as upstream's recipe")
    in_channels: int = option(3, CHANNELS, choices=(1, 2, 3, 4))


@dataclasses.dataclass(frozen=True)
class ModelOptions(NetworkOptions):
    """The network of one domain; with its checkpoint these rebuild the model."""

    image_size: int = option(64, "side of the square images, pixels", minimum=1)
    use_new_attention_order: bool = option(
        False, "channel order of the qkv projection: False q,k,v per head; True heads per q,k,v"
    )
    attention_kind: str = option(
        "standard",
        "standard: between all positions; hybrid: blended, head by head, with attention in windows",
        choices=("standard", "hybrid"),
    )
    attention_window: int = option(
        4, "side of the windows of hybrid attention, positions of the feature map", minimum=1
    )
    attention_priority: str = option(
        "global",
        "where hybrid attention starts; global: with all positions, as a source; local: with "
        "windows, as a target; both: weights for each, so that one model serves as either",
        choices=("global", "local", "both"),
    )


@dataclasses.dataclass(frozen=True)
class SuperResOptions(NetworkOptions):
    """The network that enlarges images; with its checkpoint these rebuild the model."""

    large_size: int = option(256, "side of the images it draws, pixels", minimum=1)
    small_size: int = option(64, "side of the images it enlarges, pixels", minimum=1)


@dataclasses.dataclass(frozen=True)
class DiffusionOptions:
    """The noising process and what the network predicts."""

    learn_sigma: bool = option(False, "predict the variance too (twice the output channels)")
    sigma_small: bool = option(
        False, "variance of a step, where not learned: that of the posterior; False: beta"
    )
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
    classifier_channel_mult: str = option(
        "", "width of each level in units of --classifier_width; empty: by --image_size"
    )
    classifier_use_new_attention_order: bool = option(
        False, "channel order of the classifier's qkv projections, as --use_new_attention_order"
    )
    in_channels: int = option(3, CHANNELS, choices=(1, 2, 3, 4))


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
    compile: bool = option(
        False,
        "compile the network by torch.compile, which takes a minute or more for each shape of "
        "input before it saves time; for GPUs and long runs",
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """The training loop."""

    schedule_sampler: str = option(
        "uniform", "how timesteps are drawn", choices=("uniform", "loss-second-moment")
    )
    lr: float = option(1e-4, "learning rate of AdamW", minimum=0)
    weight_decay: float = option(0.0, "weight decay of AdamW", minimum=0)
    batch_size: int = option(1, "examples per step and per process", minimum=1)
    microbatch: int = option(
        -1, "examples per forward, to save memory; -1: the whole batch", minimum=1, also=(-1,)
    )
    log_interval: int = option(10, "steps between log rows", minimum=1, free=True)
    save_interval: int = option(10000, "steps between checkpoints", minimum=1, free=True)
    resume_checkpoint: str = option(
        "", "modelNNNNNN.pt or training run folder to start from, where --out_dir has none"
    )


@dataclasses.dataclass(frozen=True)
class DenoisingOptions(LoopOptions):
    """Training of a diffusion model."""

    init_checkpoint: str = option(
        "", "checkpoint or training run folder whose weights to start from, at step 0; its "
        "attention may be standard where this model's is hybrid",
    )  # fmt: skip
    lr_anneal_steps: int = option(
        0, "steps over which --lr falls to 0, where training stops; 0: --lr stays", minimum=0
    )
    ema_rate: str = option("0.9999", "decay of the averaged weights; several as 0.99,0.999")
    fp16_scale_growth: float = option(
        1e-3, "growth of log2 of the float16 loss scale per step", minimum=0
    )
    max_steps: int = option(
        0, "stop after this many steps, earlier ones of a resumed run counted; 0: no end",
        minimum=0, free=True,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """Images to learn from."""

    data_dir: str = option("", "folder of training images, searched recursively")
    labels: str = option(
        "prefix",
        "what tells the class of an image: prefix: its file name up to the first _; folder: the "
        "folder right below --data_dir",
        choices=("prefix", "folder"),
    )
    augment: str = option(
        "flip",
        "flip: left-right half of the time; dihedral: right-angle rotations and flips, for tissue",
        choices=("none", "flip", "dihedral"),
    )
    random_crop: bool = option(False, "random instead of centre crops")


@dataclasses.dataclass(frozen=True)
class TrainOptions(DenoisingOptions, FolderOptions):
    """Training of one domain."""

    sample_interval: int = option(
        -1,
        "steps between grids of samples; -1: as --save_interval, 0: no grids",
        minimum=-1,
        free=True,
    )
    sample_steps: int = option(50, "DDIM steps of a grid of samples", minimum=1, free=True)


@dataclasses.dataclass(frozen=True)
class ClassifierTrainOptions(LoopOptions, FolderOptions):
    """Training of a classifier."""

    lr: float = option(3e-4, "learning rate of AdamW", minimum=0)
    batch_size: int = option(4, "images per step and per process", minimum=1)
    random_crop: bool = option(True, "random instead of centre crops")
    val_data_dir: str = option("", "folder of images to judge by, of the same classes; empty: none")
    noised: bool = option(True, "show noisy images, as guidance needs it; False: clean ones")
    iterations: int = option(150000, "steps to train", minimum=1)
    anneal_lr: bool = option(False, "let --lr fall to 0 over the --iterations")
    eval_interval: int = option(
        5, "steps between batches of --val_data_dir", minimum=1, free=True
    )
    num_classes: int = option(
        NUM_CLASSES, "classes that the network can tell apart, at least those there are", minimum=2
    )


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Drawing new images from one model."""

    clip_denoised: bool = option(True, "clip predicted images to [-1, 1]")
    num_samples: int = option(10000, "images to draw", minimum=1)
    batch_size: int = option(16, "images per forward and per process", minimum=1, free=True)
    use_ddim: bool = option(False, "deterministic DDIM instead of ancestral sampling")
    model_path: str = option("", "checkpoint file or training run folder")


@dataclasses.dataclass(frozen=True)
class EnlargeOptions:
    """The images to enlarge."""

    base_samples: str = option(
        "", "small images: an .npz as image_sample.py writes it, or a folder, searched recursively"
    )


@dataclasses.dataclass(frozen=True)
class GuidanceOptions:
    """The classifier that steers the sampler."""

    classifier_path: str = option(
        "", "classifier checkpoint or training run folder; empty: no guidance"
    )
    classifier_scale: float = option(
        1.0, "strength of the guidance; above 1: less variety, surer of the class"
    )


@dataclasses.dataclass(frozen=True)
class ClassOptions:
    """Which classes to draw."""

    classes: str = option("", "numbers of the classes to draw from, as 0,3; empty: all")


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


@dataclasses.dataclass(frozen=True)
class LikelihoodOptions:
    """Bits per dimension of images under one model."""

    data_dir: str = option("", "folder of images, searched recursively")
    clip_denoised: bool = option(True, "clip predicted images to [-1, 1]")
    num_samples: int = option(
        1000, "images to measure, the first by name; all where there are fewer", minimum=1
    )
    batch_size: int = option(1, "images per forward and per process", minimum=1, free=True)
    model_path: str = option("", "checkpoint file or training run folder")


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
    max_batch: int = option(32, "images per forward in decoding at most", minimum=1, free=True)
    amount: int = option(10, "images per sequence, besides its source", minimum=1)
    depth_policy: str = option(
        "add",
        "add: the published adaptive search; even: equal changes of the feature; uniform: "
        "evenly spaced (demo: even)",
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
        "ddim", "ddim, or dpmpp: multistep, for few steps",
        choices=("ddim", "dpmpp"),
    )  # fmt: skip
    solver_order: int = option(2, "order of dpmpp", minimum=1, maximum=3)
    encode_steps: int = option(0, "network evaluations of an encoding; 0: every level", minimum=0)
    decode_steps: int = option(
        0, "network evaluations of a decoding from full depth; 0: every level", minimum=0
    )
    grid: str = option(
        "mixed",
        "levels that few steps visit; even in the timestep, its root, the log of the "
        "signal-to-noise ratio, or the sum of the first and the third",
        choices=("time", "quadratic", "logsnr", "mixed"),
    )
    level_convention: str = level_convention()
    trajectory_memory: float = option(
        0.5, "GB of trajectory kept in memory; beyond it, in a temporary file", minimum=0, free=True
    )
    save_npy: bool = option(True, "write source.npy, target.npy and diffway.npy")
    save_latents: bool = option(False, "write latent.npy (float16)")
    dry_run: bool = option(
        False, "print forwards, FLOPs, bytes on disk and time of the run, and make nothing",
        free=True,
    )  # fmt: skip


FEW_STEPS = {"solver": "dpmpp", "level_convention": "aligned"}
PRESETS: dict[str, dict[str, object]] = {
    "published": {},
    "aligned": {"level_convention": "aligned"},
    "fast": {**FEW_STEPS, "solver_order": 3, "encode_steps": 40, "decode_steps": 40},
    "draft": {**FEW_STEPS, "solver_order": 2, "encode_steps": 20, "decode_steps": 20},
}


def apply_preset(args: argparse.Namespace, given: Set[str]) -> None:
    """Set the flags of `args.preset` in `args`, except those given on the command line."""
    for name, value in PRESETS[args.preset].items():
        if name not in given:
            setattr(args, name, value)
