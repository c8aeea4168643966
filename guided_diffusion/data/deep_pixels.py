"""Pixels of more than 8 bits: which value is white is told by the file or by the user.

A file of 16 bits per pixel often holds 12-bit data, which would be nearly black on the scale of
16. Where neither the file nor the user says, 65535 is white, but only if an image of the same
folder is bright: a hundredth of its numbers reach a quarter of 65535, which single hot pixels and
scale bars do not bring about. Otherwise the images are refused. No scale follows from one image.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

WHITE = 65535
# Data of at most 14 bits stay below; images of bright-field microscopes come close to white.
BRIGHT, BRIGHT_SHARE = 2**14, 0.01
ROWS = 256  # scaled at once, which bounds the memory for float64
BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339  # tags of TIFF
MAX_SAMPLE_VALUE, SMAX_SAMPLE_VALUE = 281, 341
PHOTOMETRIC, WHITE_IS_ZERO, SIGNED = 262, 0, 2
ADVICE = "say which values are black and white by --intensity_range LOW,HIGH"
BESIDE_BRIGHT = f"beside bright ones, on one scale of 0 to {WHITE} (see --intensity_range)"


class Deep(NamedTuple):
    """An image of more than 8 bits.

    Attributes:
        values: numbers [H, W] or [H, W, C]; of 2 or 4 channels the last is opacity, of 16 bits.
        kind: description of the numbers, for messages.
        white: value of white, as the file says; None: it does not say.
        inverted: whether 0 is white.
        guessed: whether 65535 may be white where the file does not say.
    """

    values: np.ndarray
    kind: str
    white: int | None = None
    inverted: bool = False
    guessed: bool = True

    @property
    def bright(self) -> bool:
        """Whether enough of the colours reach a value that data of 14 bits do not have."""
        found = self._colours
        return int(np.count_nonzero(found >= BRIGHT)) >= BRIGHT_SHARE * found.size

    @property
    def is_dark(self) -> bool:
        """Whether the image would be nearly black on the scale that is guessed."""
        return self.guessed and self.white is None and not self.bright

    @property
    def _colours(self) -> np.ndarray:
        opaque = self.values.ndim == 2 or self.values.shape[2] in (1, 3)
        return self.values if opaque else self.values[..., :-1]

    @property
    def _opacity(self) -> np.ndarray:
        found = self.values[..., -1:]
        if 0 < found.max() < BRIGHT:
            raise ValueError(
                f"an opacity of at most {found.max()}, nearly transparent on the scale of 16 bits; "
                "save the image without it"
            )
        return found

    def to_8_bits(
        self, span: tuple[float, float] | None, others_are_bright: Callable[[], bool]
    ) -> np.ndarray:
        """Return the image as uint8 of the same shape.

        Args:
            span: values that become black and white, as the user says; None: not said.
            others_are_bright: function that tells whether an image of the same folder is bright.

        Raises:
            ValueError: if nobody says which value is white, or a number is none.
        """
        colours = self._colours
        if colours.dtype.kind == "f" and not np.isfinite(colours).all():
            raise ValueError("pixels that are not finite numbers")
        found = _scaled(colours, *(span or self._told(others_are_bright)), self.inverted)
        if colours.shape != self.values.shape:
            opacity = _scaled(self._opacity, 0, WHITE, False)
            found = np.concatenate([found, opacity], axis=2)
        return found

    def _told(self, others_are_bright: Callable[[], bool]) -> tuple[float, float]:
        if self.white is not None:
            return 0, self.white
        low, high = self._colours.min(), self._colours.max()
        if not self.guessed or low < 0 or high > WHITE:
            raise ValueError(f"{self.kind} numbers of {low:g} to {high:g}; {ADVICE}")
        if not self.bright and not others_are_bright():
            few = f" ({1 - BRIGHT_SHARE:.0%} of them below {BRIGHT})" if high >= BRIGHT else ""
            raise ValueError(
                f"{self.kind} numbers of {low:g} to {high:g}{few}, nearly black on the scale of 16 "
                f"bits, and no brighter ones beside it; {ADVICE} (12-bit data: 0,4095; as it is: "
                f"0,{WHITE})"
            )
        return 0, WHITE


def _scaled(values: np.ndarray, low: float, high: float, inverted: bool) -> np.ndarray:
    found = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), ROWS):
        share = (values[top : top + ROWS].astype(np.float64) - low) / (high - low)
        share = share.clip(0, 1)
        found[top : top + ROWS] = (1 - share if inverted else share) * 255 + 0.5
    return found


def raw_mode(image: Image.Image) -> str:
    """Return how the pixels of an image that is not loaded yet lie in its file; "" if unknown."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    args = args[0] if isinstance(args, (tuple, list)) and args else args
    return args if isinstance(args, str) else ""


def deep_pixels(image: Image.Image, reopened: Callable[[], Image.Image]) -> Deep | None:
    """Load an image that was just opened; return its numbers if they have more than 8 bits.

    Args:
        image: image that is not loaded yet.
        reopened: function that opens the same image once more.

    Raises:
        ValueError: if Pillow cannot give the numbers.
    """
    tags, raw, mode = getattr(image, "tag_v2", {}), raw_mode(image), image.mode
    bits = max(_whole_numbers(tags.get(BITS_PER_SAMPLE, ())), default=0)
    signed = SIGNED in _whole_numbers(tags.get(SAMPLE_FORMAT, ()))
    inverted = mode[:1] in "IF" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if mode == "F":
        image.load()
        return Deep(np.asarray(image), "floating-point", inverted=inverted, guessed=False)
    if not mode.startswith("I") and ";16" not in raw and bits <= 8 and not signed:
        image.load()
        return None
    if "transparency" in image.info:
        raise ValueError("a transparent colour in pixels of 16 bits; save it without")
    if signed and bits == 8:
        image.load()
        return Deep(np.asarray(image).view(np.int8), "signed 8-bit", guessed=False)
    white = _white_of_tags(tags, bits)
    if image.format in ("PPM", "JPEG2000"):  # Pillow scales them by the bits that they name
        white = WHITE
    if mode.startswith("I"):
        kind = f"{'signed ' * signed}{bits or 16}-bit"
        image.load()
        values = np.asarray(image)
        if bits == 32 and not signed:  # Pillow has signed numbers only
            values = values.view(np.uint32)
        return Deep(values, kind, white, inverted, not (signed and bits == 16))
    return Deep(_colours_of_16_bits(image, raw, reopened), "16-bit", white)


def _whole_numbers(value: object) -> tuple[int, ...]:
    found = value if isinstance(value, tuple) else (value,)
    return tuple(number for number in found if isinstance(number, int))


def _white_of_tags(tags: Mapping[int, Any], bits: int) -> int | None:
    if 8 < bits < 16:
        return 2**bits - 1
    told = (tags.get(tag, ()) for tag in (MAX_SAMPLE_VALUE, SMAX_SAMPLE_VALUE))
    top = max((number for value in told for number in _whole_numbers(value)), default=0)
    # Other values are the largest of this one image.
    return top if 255 <= top < WHITE and (top + 1) & top == 0 else None


def _colours_of_16_bits(
    image: Image.Image, raw: str, reopened: Callable[[], Image.Image]
) -> np.ndarray:
    """Return [H, W, C] uint16, where Pillow gives the high bytes alone.

    Read as numbers of the other byte order, an image has its low bytes in their place.
    """
    if raw == "LA;16B":  # two numbers of two bytes lie in the file as four bytes
        parts = np.asarray(_read_as(image, "RGBA")).astype(np.uint16)
        return parts[..., 0::2] * 256 + parts[..., 1::2]
    swapped = {"B": "L", "L": "B", "N": "B"}.get(raw[-1:], "")
    if image.mode not in ("RGB", "RGBA") or not swapped or raw.startswith("RGBa"):
        raise ValueError(f"16-bit pixels in a layout that is not read ({raw}); save them as RGB")
    low = np.asarray(_read_as(reopened(), raw[:-1] + swapped))
    image.load()
    return np.asarray(image).astype(np.uint16) * 256 + low


def _read_as(image: Image.Image, raw: str) -> Image.Image:
    tiles = getattr(image, "tile")  # noqa: B009  (only images of files have it)
    for index, tile in enumerate(tiles):
        args = (raw, *tile[3][1:]) if isinstance(tile[3], (tuple, list)) else raw
        make = getattr(type(tile), "_make", tuple)  # named since Pillow 11
        tiles[index] = make((*tile[:3], args))
    image.load()
    return image
