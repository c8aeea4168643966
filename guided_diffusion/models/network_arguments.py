"""Arguments of a network from the text of its flags.

A mistake is reported under the name of its flag.
"""

from collections.abc import Mapping

from ..config.network_settings import WIDEST
from ..config.parser import numbers
from ..errors import ArgumentError
from ..runtime import logger

# Image size -> width of each level as a multiple of the first (guided-diffusion; 16, 32 are ours).
CHANNEL_MULT = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
    16: (1, 2),
}
SUPER_RES_CHANNEL_MULT = CHANNEL_MULT | {512: CHANNEL_MULT[256]}


def width(channels: int, flag: str = "num_channels") -> int:
    """Check and return the channels of the first level.

    Raises:
        UserError: if the norms cannot divide the channels into their 32 groups.
    """
    if channels % 32 or channels <= 0:
        raise ArgumentError(flag, f"expected a multiple of 32, got {channels}")
    return channels


def channel_mults(
    text: str,
    image_size: int,
    width: int,
    presets: Mapping[int, tuple[float, ...]] = CHANNEL_MULT,
    prefix: str = "",
    size_flag: str = "image_size",
) -> tuple[float, ...]:
    """Return the width of each level as a multiple of the first.

    Args:
        text: value of the flag; empty: the preset of the image size.
        image_size: side of the images, pixels.
        width: channels of the first level.
        presets: {image size: multiples}.
        prefix: beginning of the flag's name.
        size_flag: name of the flag of the image size.

    Raises:
        UserError: if there is no preset, or the levels do not fit the width or the size.
    """
    flag = f"{prefix}channel_mult"
    if text == "" and image_size not in presets:
        known = f"there is a preset for {sorted(presets)}, got {image_size}"
        raise ArgumentError(size_flag, f"{known}; give {flag}, such as 1,2,3,4, for other sizes")
    mult = numbers(flag, text, float) if text else presets[image_size]
    if not all(0 < m <= WIDEST and int(m * width) % 32 == 0 for m in mult):
        got = f"{','.join(map(str, mult))} times {width}"
        raise ArgumentError(flag, f"expected multiples of 32 channels at every level, got {got}")
    if (widest := max(mult) * width) > WIDEST:
        problem = f"expected levels of at most {WIDEST} channels, got {widest:.10g}"
        raise ArgumentError(flag, problem)
    levels, factor = len(mult), 2 ** (len(mult) - 1)
    if image_size % factor:
        shown = factor if factor < 10**6 else f"2**{levels - 1}"
        problem = f"{levels} levels need a multiple of {shown}, got {image_size}"
        raise ArgumentError(size_flag, problem)
    return tuple(int(m) if m == int(m) else m for m in mult)


def attention_factors(resolutions: str, image_size: int) -> tuple[int, ...]:
    """Return the downsampling factors of the feature maps with the sides in a text, as "16,8".

    Raises:
        UserError: if a side is not a whole number above 0.
    """
    # As upstream, factors are rounded down, and a factor that no level has (0, say) has no effect.
    sides = numbers("attention_resolutions", resolutions) if resolutions else ()
    if any(side <= 0 for side in sides):
        raise ArgumentError("attention_resolutions", f"expected sides above 0, got {resolutions!r}")
    return tuple(image_size // side for side in sides)


def warn_of_sides(flag: str, resolutions: str, image_size: int, levels: int) -> None:
    """Log which sides of `--attention_resolutions` no feature map has; upstream passes over them.

    Args:
        flag: name of the flag.
        resolutions: value of the flag.
        image_size: side of the images, pixels.
        levels: number of levels; each halves the side of the one before.
    """
    factors = [2**level for level in range(levels)]
    sides = resolutions.split(",") if resolutions else []
    unmatched = [side for side in sides if image_size // int(side) not in factors]
    if unmatched:
        there = ", ".join(str(image_size // factor) for factor in factors)
        logger.warn(
            f"--{flag} {resolutions}: no feature map has side {' or '.join(unmatched)}, so that "
            f"there is no attention for it; images of {image_size} pixels have maps of {there}"
        )
