"""Settings of networks; with a checkpoint they rebuild the network."""

import dataclasses

from ..networks.attention import KINDS, STARTS
from ..networks.unet import ENCODER_POOLS
from .settings import Settings, setting

CHANNELS = "image channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA"
NUM_CLASSES = 1000  # of upstream's class-conditional networks
WIDEST = 2**14  # side in pixels, or width in channels, beyond which nothing can be computed
DEEPEST = 1000  # blocks per level
MOST_CLASSES = 10**6


@dataclasses.dataclass(frozen=True)
class NetworkSettings(Settings):
    """The settings that every U-Net has."""

    num_channels: int = setting(
        128, "width of the first level, channels (a multiple of 32)", most=WIDEST
    )
    num_res_blocks: int = setting(
        2,
        "residual blocks per level, beside those that --resblock_updown resamples in",
        minimum=0,
        most=DEEPEST,
    )
    num_heads: int = setting(
        4, "attention heads, where --num_head_channels is -1", minimum=1, most=WIDEST
    )
    num_heads_upsample: int = setting(
        -1, "attention heads in the decoder; -1: as --num_heads", minimum=1, most=WIDEST, also=(-1,)
    )
    num_head_channels: int = setting(
        -1, "channels per attention head; -1: use --num_heads", minimum=1, most=WIDEST, also=(-1,)
    )
    attention_resolutions: str = setting(
        "16,8", "sides of the feature maps with attention, pixels, as 16,8; empty: none"
    )
    channel_mult: str = setting(
        "", "width of each level in units of --num_channels, as 1,2,4; empty: by the image size"
    )
    dropout: float = setting(0.0, "dropout probability", minimum=0, below=1)
    class_cond: bool = setting(False, "condition on a class label, see --labels of train")
    use_checkpoint: bool = setting(False, "recompute activations to save memory", free=True)
    use_scale_shift_norm: bool = setting(True, "time embedding scales and shifts the norms")
    resblock_updown: bool = setting(False, "resample inside residual blocks")
    use_fp16: bool = setting(False, "float16 network body, as upstream's recipe")
    in_channels: int = setting(3, CHANNELS, choices=(1, 2, 3, 4), minimum=1, most=WIDEST)


@dataclasses.dataclass(frozen=True)
class ModelSettings(NetworkSettings):
    """The network of one domain; with a checkpoint these settings rebuild it."""

    image_size: int = setting(64, "side of the square images, pixels", minimum=1, most=WIDEST)
    use_new_attention_order: bool = setting(
        False, "channel order of the qkv projection; False: q,k,v per head; True: heads per q,k,v"
    )
    attention_kind: str = setting(
        "standard",
        "standard: between all positions; hybrid: blended, head by head, with attention in windows",
        choices=KINDS,
    )
    attention_window: int = setting(
        4,
        "side of the windows of hybrid attention, positions of the feature map",
        minimum=1,
        most=WIDEST,
    )
    attention_priority: str = setting(
        "global",
        "start of hybrid attention; global: all positions, as for a source; local: windows, as for "
        "a target; both: weights for each, so that one model serves as source and target",
        choices=STARTS,
    )


@dataclasses.dataclass(frozen=True)
class SuperResSettings(NetworkSettings):
    """The network that enlarges images; with a checkpoint these settings rebuild it."""

    large_size: int = setting(256, "side of the enlarged images, pixels", minimum=1, most=WIDEST)
    small_size: int = setting(64, "side of the small images, pixels", minimum=1, most=WIDEST)


@dataclasses.dataclass(frozen=True)
class ClassifierSettings(Settings):
    """The noisy-image classifier of classifier guidance."""

    image_size: int = setting(64, "side of the square images, pixels", minimum=1, most=WIDEST)
    classifier_use_fp16: bool = setting(False, "float16 classifier body")
    classifier_width: int = setting(
        128, "width of the first level, channels", minimum=1, most=WIDEST
    )
    classifier_depth: int = setting(2, "residual blocks per level", minimum=1, most=DEEPEST)
    classifier_attention_resolutions: str = setting("32,16,8", "map sides with attention, pixels")
    classifier_use_scale_shift_norm: bool = setting(True, "time embedding scales and shifts norms")
    classifier_resblock_updown: bool = setting(True, "resample inside residual blocks")
    classifier_pool: str = setting("attention", "pooling of the features", choices=ENCODER_POOLS)
    classifier_channel_mult: str = setting(
        "", "width of each level in units of --classifier_width; empty: by --image_size"
    )
    classifier_use_new_attention_order: bool = setting(
        False, "channel order of the classifier's qkv projections, as --use_new_attention_order"
    )
    in_channels: int = setting(3, CHANNELS, choices=(1, 2, 3, 4), minimum=1, most=WIDEST)


@dataclasses.dataclass(frozen=True)
class PointNetworkSettings(Settings):
    """The network of points in the plane."""

    in_channels: int = setting(2, "coordinates of a point", choices=(2,), minimum=1, most=WIDEST)
    num_channels: int = setting(256, "width, channels (a multiple of 32)", minimum=32, most=WIDEST)
    num_res_blocks: int = setting(
        2, "residual blocks before and after the middle one", minimum=0, most=DEEPEST
    )
    dropout: float = setting(0.2, "dropout probability", minimum=0, below=1)
    use_checkpoint: bool = setting(False, "recompute activations to save memory", free=True)
    use_fp16: bool = setting(False, "float16 network body, as upstream's recipe")
