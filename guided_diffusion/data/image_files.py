"""Image files: listing, opening, cropping.

Tiles are [H, W, C] uint8; a network takes them as [N, C, H, W] float32 in [-1, 1].
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch as th
from PIL import Image

from ..errors import ArgumentError
from ..runtime import dist_util, logger
from . import image_decoding
from .image_decoding import MODES, Remark, ignore, readable
from .image_folders import list_folder
from .reading import READING, ReadingSettings

UPSTREAMS_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif")


def list_image_files(data_dir: str | os.PathLike) -> list[str]:
    """List the images of a folder and the folders below it, sorted by path.

    Raises:
        UserError: if the folder is missing or holds no image.
    """
    return list_folder(data_dir).files


def _list_image_files_recursively(data_dir: str | os.PathLike) -> list[str]:
    """List the JPEG, PNG and GIF files of a folder and below it in upstream's order, if any."""
    found = []
    for path in sorted(Path(data_dir).iterdir(), key=lambda path: path.name):
        if path.suffix.lower() in UPSTREAMS_EXTENSIONS:
            found.append(str(path))
        elif path.is_dir():
            found += _list_image_files_recursively(path)
    return found


def log_if_fewer(num_images: int, found: int, place: str) -> None:
    """Log if a place has fewer images than `--num_images` asks for."""
    if num_images > found and dist_util.rank() == 0:
        logger.log(f"--num_images {num_images}: there are only {found} in {place}, all are used")


def open_image(
    path: str | os.PathLike,
    in_channels: int = 3,
    reading: ReadingSettings = READING,
    page: int = 0,
    others_are_bright: Callable[[], bool] = lambda: False,
    remark: Remark = ignore,
) -> Image.Image:
    """Open a whole image in the mode of 1 to 4 channels; see `image_decoding.decoded`.

    Raises:
        UserError: if the file is not an image, is damaged or cut off, or does not say what its
            numbers mean.
    """
    if in_channels not in MODES:
        raise ArgumentError("in_channels", f"expected one of {sorted(MODES)}, got {in_channels}")
    place = os.fspath(path)
    with readable(place, reading):
        image_decoding.refuse_irregular(place)
        with dist_util.open_bytes(place) as file:
            return image_decoding.decoded(
                file, place, in_channels, reading, page, others_are_bright, remark
            )


def is_bright(path: str | os.PathLike, reading: ReadingSettings = READING, page: int = 0) -> bool:
    """Return whether a file of more than 8 bits reaches what 14 bits do not; see `Deep`."""
    place = os.fspath(path)
    with readable(place, reading):
        image_decoding.refuse_irregular(place)
        with dist_util.open_bytes(place) as file:
            return image_decoding.is_bright(file, place, reading, page)


def to_model_range(tiles: np.ndarray) -> th.Tensor:
    """Map [N, H, W, C] uint8 in 0..255 to [N, C, H, W] float32 in [-1, 1]."""
    batch = th.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2)
    return batch.contiguous().float() / 127.5 - 1


def center_crop_arr(pil_image: Image.Image, image_size: int) -> np.ndarray:
    """Resize the short side to `image_size` and cut the centre square; [H, W(, C)] uint8."""
    array = _resize_short_side(pil_image, image_size)
    top, left = ((side - image_size) // 2 for side in array.shape[:2])
    return array[top : top + image_size, left : left + image_size]


def random_crop_arr(
    pil_image: Image.Image,
    image_size: int,
    min_crop_frac: float = 0.8,
    max_crop_frac: float = 1.0,
    *,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Resize so that `image_size` is a random fraction of the short side, and cut a random square.

    Without a generator the numbers come from Python's `random`, as in upstream.
    """
    below = random.randrange if rng is None else rng.integers
    smallest, largest = (scaled_side(image_size, f) for f in (max_crop_frac, min_crop_frac))
    array = _resize_short_side(pil_image, smallest + int(below(largest + 1 - smallest)))
    top, left = (int(below(side - image_size + 1)) for side in array.shape[:2])
    return array[top : top + image_size, left : left + image_size]


def scaled_side(image_size: int, crop_frac: float = 0.8) -> int:
    """Return the short side, pixels, whose fraction `crop_frac` is about `image_size`."""
    return int(np.ceil(image_size / crop_frac))


def halved(image: Image.Image, target: int) -> Image.Image:
    """Halve a picture while its short side is at least twice the target.

    Halving for one target and then for a smaller one is the same as for the smaller one at once.
    """
    while min(image.size) >= 2 * target:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image


def _resize_short_side(image: Image.Image, target: int) -> np.ndarray:
    # Halving by box filter first, then bicubic, keeps large photographs free of aliasing.
    image = halved(image, target)
    scale = target / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return np.array(image.resize(size, Image.Resampling.BICUBIC))


def native_centre(picture: Image.Image, image_size: int) -> np.ndarray:
    """Cut the centre square of `image_size` pixels at native scale; [H, W(, C)] uint8.

    Raises:
        ArgumentError: if the picture is smaller.
    """
    refuse_smaller(picture.size, image_size)
    left, top = ((side - image_size) // 2 for side in picture.size)
    return np.array(picture.crop((left, top, left + image_size, top + image_size)))


def native_random(tile: np.ndarray, image_size: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a random square of `image_size` pixels from a tile [H, W, C] at native scale."""
    top, left = (int(rng.integers(side - image_size + 1)) for side in tile.shape[:2])
    return tile[top : top + image_size, left : left + image_size]


def refuse_smaller(size: tuple[int, int], image_size: int) -> None:
    """Raise an `ArgumentError` if (width, height) is too small for a crop at native scale."""
    if min(size) < image_size:
        width, height = size
        raise ArgumentError(
            "crop",
            f"native: expected at least {image_size}x{image_size} pixels, got {height}x{width}; "
            "choose a smaller --image_size, or --crop fit, which enlarges it",
        )
