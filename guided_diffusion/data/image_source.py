"""Images of one place by index: training, sampling, enlarging and evaluation read them from here.

A format of images is a class that counts, names and opens them, and one entry in `image_formats`.
All have tiles [H, W, C] uint8, patients, and a bounded memory of opened tiles.
"""

import copy
import functools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch as th
from PIL import Image

from ..errors import UserError
from ..runtime import dist_util, progress_bars
from . import image_files
from .class_labels import class_of_each

Batch = tuple[th.Tensor, dict[str, th.Tensor]]
Moments = tuple[np.ndarray, np.ndarray]  # mean [D], covariance [D, D]

KEPT_BYTES = 2**28


class ImageSource(ABC):
    """Images by index; `len` is their number.

    Args:
        path: folder or file of the images.
        image_size: side of the square that is cut from the centre, pixels; 0: whole images.
        in_channels: channels of a tile, 1 to 4, see `MODES`.

    Attributes:
        count: number of images.
        size: height and width of every tile, pixels.
        labels: number of each image's class; None: unknown.
        patient_in_name: finds the patient in a file's name, as its only group; None: unknown.
        moments: {name of a distance: mean and covariance of features} that the file holds.
        crop: function that makes a tile [H, W(, C)] uint8 of an opened image.
        kept: {name of an image: its tile} of tiles opened before.
        keep_bytes: memory, bytes, left for more of them; other tiles are opened every time.
    """

    def __init__(self, path: str | os.PathLike, image_size: int, in_channels: int) -> None:
        self.path, self.count, self.size = Path(path), 0, (image_size, image_size)
        self.in_channels = in_channels
        self.labels: Sequence[int] | None = None
        self.patient_in_name: re.Pattern[str] | None = None
        self.moments: dict[str, Moments] = {}
        centre = functools.partial(image_files.center_crop_arr, image_size=image_size)
        self.crop: Callable[[Image.Image], np.ndarray] = centre if image_size else np.array
        self.kept: dict[str, np.ndarray] = {}
        self.keep_bytes = KEPT_BYTES

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of an image, such as the path of its file."""

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """Open a whole image, with `in_channels` channels of 8 bits.

        Raises:
            UserError: if it cannot be read.
        """

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int | None:
        """Return the number of an image's class, None if it is unknown."""
        return None if self.labels is None else int(self.labels[index])

    def patient(self, index: int) -> str | None:
        """Return the patient of an image, None if patients are unknown.

        Raises:
            UserError: if the name of the file does not tell.
        """
        if self.patient_in_name is None:
            return None
        found = self.patient_in_name.search(os.path.basename(self.name(index)))
        if not found or not found[1]:
            raise UserError(
                f"{self.name(index)}: expected a file name with a patient in it, as "
                f"{self.patient_in_name.pattern!r} finds it"
            )
        return found[1]

    def tile(self, index: int) -> np.ndarray:
        """Return an image [H, W, C] uint8; the array is not to be changed."""
        name = self.name(index)
        if name in self.kept:
            return self.kept[name]
        tile = self.crop(self.picture(index))
        tile = tile.reshape(*tile.shape[:2], self.in_channels)
        if tile.nbytes <= self.keep_bytes:
            self.keep_bytes -= tile.nbytes
            self.kept[name] = tile
        return tile

    def tiles(self, indices: Sequence[int]) -> np.ndarray:
        """Return images of one size, [N, H, W, C] uint8."""
        return np.stack([self.tile(index) for index in indices])

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return ([N, C, H, W] float32 in [-1, 1], {"y": classes [N] int64} if they are known)."""
        known = self.labels is not None
        labels = {"y": th.tensor([self.label(index) for index in indices])} if known else {}
        return image_files.to_model_range(self.tiles(indices)), labels

    def first(self, count: int) -> "ImageSource":
        """Return a source of the first `count` images; 0: of all."""
        part = copy.copy(self)
        part.count = min(self.count, count or self.count)
        return part

    def check(self) -> None:
        """Open every image now, each on one rank.

        Raises:
            UserError: on every rank, if an image cannot be read.
        """
        mine = range(dist_util.rank(), len(self), dist_util.world_size())
        bar = progress_bars.progress(mine, desc="checking", unit="image", leave=False)
        dist_util.everywhere(lambda: [self.tile(index).size for index in bar])


class ImageFiles(ImageSource):
    """Image files in the order of a list."""

    def __init__(self, files: Sequence[str], image_size: int, in_channels: int = 3) -> None:
        super().__init__("", image_size, in_channels)
        self.files, self.count = files, len(files)

    def name(self, index: int) -> str:
        """Return the path of a file."""
        return self.files[index]

    def picture(self, index: int) -> Image.Image:
        """Open a whole image; see `ImageSource.picture`."""
        return image_files.open_image(self.files[index], self.in_channels)


class ImageFolder(ImageFiles):
    """The images of a folder and the folders below it, by path; see `open_images`."""

    def __init__(self, path: Path, image_size: int, in_channels: int, labels: str) -> None:
        super().__init__(image_files.list_image_files(path), image_size, in_channels)
        self.path = path
        if not image_size:
            self.size = _common_size(self.files)
        if labels:
            self.labels = class_of_each(path, self.files, labels)


def _common_size(files: Sequence[str]) -> tuple[int, int]:
    first: tuple[int, int] | None = None
    for file in files:
        with image_files.readable(file), Image.open(file) as image:  # reads the header alone
            size = image.height, image.width
        first = first or size
        if size != first:
            raise UserError(
                f"{file}: expected {first[0]}x{first[1]} pixels as of {files[0]}, got "
                f"{size[0]}x{size[1]}; give --image_size to bring all to one size"
            )
    return first or (0, 0)
