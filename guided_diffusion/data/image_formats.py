"""Formats of images: a registry, and functions that open any of them."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from .image_source import KEPT_BYTES, ImageFolder, ImageSource
from .npz_images import NpzImages, is_npz

# Formats: a test of the paths that each takes, and a class made of (path, image_size, in_channels,
# labels). The first format that takes a path opens it.
FORMATS: tuple[tuple[Callable[[Path], bool], Callable[[Path, int, int, str], ImageSource]], ...] = (
    (Path.is_dir, ImageFolder),
    (is_npz, NpzImages),
)


def open_images(
    path: str | os.PathLike,
    image_size: int = 0,
    in_channels: int = 3,
    *,
    labels: str = "",
    patient: str = "",
    keep_bytes: int = KEPT_BYTES,
    expected: str = "a folder of images",
) -> ImageSource:
    """Open the images of a place.

    Args:
        path: folder (searched recursively) or file of images.
        image_size: side of the square that is cut from the centre, pixels; 0: whole images, which
            have one size.
        in_channels: channels of a tile, 1 to 4, see `MODES`.
        labels: source of the classes of image files, a key of `LABEL_SOURCES`; files of many
            images hold the classes themselves; empty: classes are not needed.
        patient: regular expression that finds the patient in the name of a file, as its only
            group; empty: patients are unknown.
        keep_bytes: memory, bytes, for opened tiles; the tiles that fit are opened once.
        expected: description of the path, for messages.

    Raises:
        UserError: if there are no images, or some that cannot be used.
    """
    for takes, format_class in FORMATS:
        if str(path) and takes(Path(path)):
            source = format_class(Path(path), image_size, in_channels, labels)
            source.keep_bytes = keep_bytes
            source.patient_in_name = _patient_expression(patient) if patient else None
            return source
    raise UserError(f"expected {expected}, got {str(path)!r}")


def _patient_expression(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(f"expected a regular expression, got {text!r} ({error})") from None
    if pattern.groups != 1:
        raise UserError(f"expected a regular expression with one group, got {text!r}")
    return pattern


def open_set(path: str | os.PathLike, image_size: int = 0) -> ImageSource:
    """Open a set of RGB images, or its statistics, to compare with another; see `open_images`."""
    expected = "an .npz file or a folder of images"
    return open_images(path, image_size, keep_bytes=0, expected=expected)


def refuse_unequal_sizes(one: ImageSource, other: ImageSource) -> None:
    """Refuse two sets of images of different sizes by a `UserError`: networks see the size."""
    if len(one) and len(other) and one.size != other.size:
        expected, found = ("{}x{}".format(*images.size) for images in (one, other))
        raise UserError(
            f"{other.path}: expected {expected} pixels as in {one.path}, got {found}; give "
            "--image_size to bring all to one size"
        )
