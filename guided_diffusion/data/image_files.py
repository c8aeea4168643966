"""Image files: listing, opening, cropping.

Tiles are [H, W, C] uint8; a network takes them as [N, C, H, W] float32 in [-1, 1].
"""

import contextlib
import os
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch as th
from PIL import Image

from ..errors import ArgumentError, UserError
from ..runtime import dist_util, logger

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")
UPSTREAMS_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif")
# What Pillow raises for files that are no images or are cut off.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def list_image_files(data_dir: str | os.PathLike) -> list[str]:
    """List the images of a folder and the folders below it, sorted by path.

    Raises:
        UserError: if the folder is missing or holds no image.
    """
    folder = Path(data_dir)
    if not str(data_dir) or not folder.is_dir():
        raise UserError(f"expected a folder of images, got {str(data_dir)!r}")
    found = (path for path in _visible_files(folder) if path.suffix.lower() in EXTENSIONS)
    files = sorted(str(path) for path in found if path.is_file())
    if not files:
        raise UserError(f"no image in {folder} or below it (looked for {', '.join(EXTENSIONS)})")
    for file in files:
        # Undecodable bytes and line breaks, which no manifest can hold.
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in file):
            raise UserError(f"expected file names of printable text, found {file!a}")
    return files


def _visible_files(folder: Path) -> Iterator[Path]:
    # Links to folders are followed, as upstream does; .ipynb_checkpoints and the like are not.
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        # Links may lead back to a folder above, and a run may have written pictures in here.
        skipped = real in seen or (place != str(folder) and Path(place, "args.json").exists())
        seen.add(real)
        folders[:] = [name for name in folders if name[0] != "." and not skipped]
        yield from (Path(place, name) for name in names if name[0] != "." and not skipped)


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


@contextlib.contextmanager
def readable(path: str | os.PathLike) -> Iterator[None]:
    """Report a file that is no whole image, as Pillow finds in the block, by a `UserError`."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: expected a readable image, got none or a damaged one") from None
    except UNREADABLE as error:
        got = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: expected a readable image, got {got}") from None


def open_image(path: str | os.PathLike, in_channels: int = 3) -> Image.Image:
    """Open a whole image in the mode of 1 to 4 channels; 16-bit greys are scaled to 8.

    Raises:
        UserError: if the file is not an image or is cut off.
    """
    if in_channels not in MODES:
        raise ArgumentError("in_channels", f"expected one of {sorted(MODES)}, got {in_channels}")
    with readable(path):
        with dist_util.open_bytes(path) as file:
            image: Image.Image = Image.open(file)
            image.load()
        if image.mode == "F":
            raise ValueError("floating-point numbers of no known range")
        if image.mode.startswith("I"):  # Pillow would clip 0..65535 at 255
            grey = np.asarray(image).clip(0, 65535).astype(np.uint32)
            image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
        return image.convert(MODES[in_channels])


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
