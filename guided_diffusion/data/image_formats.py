"""Formats of images: a registry, and functions that open any of them."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from ..runtime import dist_util, logger
from .classes import Classes
from .image_folders import instead, list_folder
from .image_source import KEPT_BYTES, ImageFolder, ImageSource
from .npz_images import NpzImages, is_npz
from .reading import READING, ReadingSettings
from .sample_runs import is_sample_run, open_sample_run

# Formats: a test of the paths that each takes, and what makes a source of (path, image_size,
# in_channels, labels), and a `ReadingSettings` if it is not at its defaults. The first one that
# takes a path opens it.
FORMATS: tuple[tuple[Callable[[Path], bool], Callable[..., ImageSource]], ...] = (
    (is_sample_run, open_sample_run),
    (Path.is_dir, ImageFolder),
    (is_npz, NpzImages),
)


def open_images(
    path: str | os.PathLike,
    image_size: int = 0,
    in_channels: int = 3,
    *,
    labels: str = "",
    classes: Classes | None = None,
    patient: str = "",
    keep_bytes: int = KEPT_BYTES,
    expected: str = "a folder of images",
    reading: ReadingSettings = READING,
    quiet: bool = False,
) -> ImageSource:
    """Open the images of a place, and log how many there are and what is left out.

    Args:
        path: folder (searched recursively) or file of images.
        image_size: side of the square that is cut from the centre, pixels; 0: whole images, which
            have one size.
        in_channels: channels of a tile, 1 to 4, see `MODES`.
        labels: source of the classes of image files, a key of `LABEL_SOURCES`; files of many
            images hold the classes themselves; empty: classes are not needed.
        classes: classes of a model, by which those of the images are numbered; None: by `labels`.
        patient: regular expression that finds the patient in the name of a file, as its only
            group; empty: patients are unknown.
        keep_bytes: memory, bytes, for opened tiles; the tiles that fit are opened once.
        expected: description of the path, for messages.
        reading: settings of how files are read, alone or in a group with others.
        quiet: whether nothing is logged, as the place was opened before.

    Raises:
        UserError: if there are no images, or some that cannot be used.
    """
    for takes, make in FORMATS:
        if str(path) and takes(Path(path)):
            options = () if reading.reading == READING else (reading.reading,)
            asked = "" if classes else labels
            source = make(Path(path), image_size, in_channels, asked, *options)
            if classes:
                source.number_by(classes)
            source.keep_bytes = keep_bytes
            source.patient_in_name = _patient_expression(patient) if patient else None
            if not quiet and dist_util.rank() == 0:
                logger.log(source.report)
                for line in source.warnings:
                    logger.warn(line)
            return source
    raise UserError(f"expected {expected}, got {str(path)!r}{instead(path)}")


def log_listing(folder: str | os.PathLike, reading: ReadingSettings = READING) -> list[str]:
    """List the image files of a folder, and log how many there are and what is left out."""
    listing = list_folder(folder, reading.reading)
    if dist_util.rank() == 0:
        logger.log(listing.report)
        for line in listing.warnings:
            logger.warn(line)
    return listing.files


def _patient_expression(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(f"expected a regular expression, got {text!r} ({error})") from None
    if pattern.groups != 1:
        raise UserError(f"expected a regular expression with one group, got {text!r}")
    return pattern


def open_set(
    path: str | os.PathLike, image_size: int = 0, reading: ReadingSettings = READING
) -> ImageSource:
    """Open a set of RGB images, or its statistics, to compare with another; logs nothing."""
    expected = "an .npz file or a folder of images"
    return open_images(
        path, image_size, keep_bytes=0, expected=expected, reading=reading, quiet=True
    )


def refuse_unequal_sizes(one: ImageSource, other: ImageSource) -> None:
    """Refuse two sets of images of different sizes by a `UserError`: networks see the size."""
    if len(one) and len(other) and one.size != other.size:
        expected, found = ("{}x{}".format(*images.size) for images in (one, other))
        raise UserError(
            f"{other.path}: expected {expected} pixels as in {one.path}, got {found}; give "
            "--image_size to bring all to one size"
        )
