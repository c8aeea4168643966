"""Arrays of .npy files, whose header is checked before memory is taken for them.

Reference: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import math
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from .reading import ReadingSettings

MOST_CHANNELS = 4
KINDS = "iuf"  # whole numbers and fractions
READERS: dict[Any, Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Header(NamedTuple):
    """Shape, order of the axes in memory, and type of an array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    def __str__(self) -> str:
        order = " in Fortran order" if self.fortran_order else ""
        return f"{list(self.shape)} {self.dtype.name}{order}"

    @property
    def bytes(self) -> int:
        """Size of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Read the header of an array; the file stands at its numbers then.

    Raises:
        ValueError: if the header is none.
    """
    # numpy parses the header as Python, which fails in many ways.
    try:
        version = npy.read_magic(file)
        header = Header(*READERS[version](file)) if version in READERS else None
    except Exception as error:
        raise ValueError(f"no .npy, or a damaged header ({type(error).__name__})") from None
    if header is None:
        raise ValueError(f"version {version} of the .npy format")
    if any(type(side) is not int or side < 0 for side in header.shape):
        raise ValueError(f"a damaged .npy header (shape {header.shape})")
    return header


def why_no_image(header: Header, asked: ReadingSettings) -> str:
    """Say why an array is no image: [H, W] or [H, W, C], uint8 or uint16; "" if it is one.

    Other kinds of numbers are images only if the user says which ones are black and white.
    """
    shape, numbers = header.shape, header.dtype
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or not 1 <= channels <= MOST_CHANNELS or min(shape) == 0:
        return f"of shape {list(shape)}, not [H, W] or [H, W, C]"
    if numbers.name in ("uint8", "uint16") or (asked.span and numbers.kind in KINDS):
        return ""
    return f"of {numbers.name} numbers{' (see --intensity_range)' * (numbers.kind in KINDS)}"


def read_image_header(file: IO[bytes], asked: ReadingSettings) -> Header:
    """Read the header of an array that is an image.

    Raises:
        ValueError: if it is none, or is too large.
    """
    header = read_header(file)
    if reason := why_no_image(header, asked):
        expected = "expected [H, W] or [H, W, C] uint8 or uint16"
        raise ValueError(f"an array {header}, so {reason}; {expected}")
    if math.prod(header.shape[:2]) > asked.max_pixels:
        raise ValueError(f"an array {header}, of more than --max_pixels {asked.max_pixels}")
    return header


def read_image(file: IO[bytes], asked: ReadingSettings) -> np.ndarray:
    """Read an image [H, W] or [H, W, C] of uint8 or more bits.

    Raises:
        ValueError: if it is none, is too large, or is cut off.
    """
    header = read_image_header(file, asked)
    content = file.read(header.bytes)
    if len(content) != header.bytes:
        raise ValueError(f"an array {header} that is cut off")
    values = np.frombuffer(content, header.dtype)
    values = values.astype(header.dtype.newbyteorder("="), copy=False)
    if header.fortran_order:
        return values.reshape(header.shape[::-1]).T
    return values.reshape(header.shape)
