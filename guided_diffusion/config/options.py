"""The groups of flags, one dataclass each; see `flags` for what follows from them."""

import dataclasses

from .flags import option

CHANNELS = "image channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA"
NUM_CLASSES = 1000  # of upstream's class-conditional networks

# Where ADD's sampler differs from guided-diffusion: its network and its process.
ADD_DEFAULTS = {
    "image_size": 256,
    "num_channels": 256,
    "num_head_channels": 64,
    "learn_sigma": True,
    "attention_resolutions": "32,16,8",
    "resblock_updown": True,
    "use_fp16": True,
}

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
        "",
        "checkpoint or training run folder whose weights to start from, at step 0; its "
        "attention may be standard where this model's is hybrid",
    )
    lr_anneal_steps: int = option(
        0, "steps over which --lr falls to 0, where training stops; 0: --lr stays", minimum=0
    )
    ema_rate: str = option("0.9999", "decay of the averaged weights; several as 0.99,0.999")
    fp16_scale_growth: float = option(
        1e-3, "growth of log2 of the float16 loss scale per step", minimum=0
    )
    max_steps: int = option(
        0,
        "stop after this many steps, earlier ones of a resumed run counted; 0: no end",
        minimum=0,
        free=True,
    )


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
    eval_interval: int = option(5, "steps between batches of --val_data_dir", minimum=1, free=True)
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
class LikelihoodOptions:
    """Bits per dimension of images under one model."""

    data_dir: str = option("", "folder of images, searched recursively")
    clip_denoised: bool = option(True, "clip predicted images to [-1, 1]")
    num_samples: int = option(
        1000, "images to measure, the first by name; all where there are fewer", minimum=1
    )
    batch_size: int = option(1, "images per forward and per process", minimum=1, free=True)
    model_path: str = option("", "checkpoint file or training run folder")
