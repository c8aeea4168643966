"""Images of one place by index: training, sampling, enlarging and evaluation read them from here.

A format of images says how many there are, what each is called, its class, and how to open it. A
format is one class (`ImageFolder`, `NpzImages`) and one entry in `image_formats`. What all have in
common is here: tiles [H, W, C] uint8, patients, and a bounded memory of what was opened before.
"""

import copy
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
from .image_files import center_crop_arr, to_model_range

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
        patient_in_name: finds the patient in the name of a file, as its only group; None: patients
            are unknown.
        moments: statistics of features that the file holds, by the distance that they are for.
        crop: makes a tile [H, W, C] of an opened image; None: cut by `image_size`.
        kept: tiles that were opened before, by the names of their images.
        keep_bytes: memory for more of them; when it is used up, other tiles are opened every time.
    """

    def __init__(self, path: str | os.PathLike, image_size: int, in_channels: int) -> None:
        self.path, self.in_channels = Path(path), in_channels
        self.image_size, self.size = image_size, (image_size, image_size)
        self.count = 0
        self.labels: Sequence[int] | None = None
        self.patient_in_name: re.Pattern[str] | None = None
        self.moments: dict[str, Moments] = {}
        self.crop: Callable[[Image.Image], np.ndarray] | None = None
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
        """Return the patient whom an image shows, None if patients are unknown.

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
        picture = self.picture(index)
        tile = self.crop(picture) if self.crop else self._centre(picture)
        if tile.nbytes <= self.keep_bytes:
            self.keep_bytes -= tile.nbytes
            self.kept[name] = tile
        return tile

    def _centre(self, picture: Image.Image) -> np.ndarray:
        size = self.image_size
        tile = center_crop_arr(picture, size) if size else np.array(picture)
        return tile.reshape(*tile.shape[:2], self.in_channels)

    def tiles(self, indices: Sequence[int]) -> np.ndarray:
        """Return images of one size, [N, H, W, C] uint8."""
        return np.stack([self.tile(index) for index in indices])

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return ([N, C, H, W] float32 in [-1, 1], {"y": classes [N] int64} if they are known)."""
        labels = {}
        if self.labels is not None:
            labels["y"] = th.tensor([self.label(index) for index in indices])
        return to_model_range(self.tiles(indices)), labels

    def first(self, count: int) -> "ImageSource":
        """Return the first images alone, all of them for 0."""
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


def patient_expression(text: str) -> re.Pattern[str]:
    """Return the regular expression that finds a patient in the name of a file.

    Raises:
        UserError: unless it is one, with one group.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(f"expected a regular expression, got {text!r} ({error})") from None
    if pattern.groups != 1:
        raise UserError(f"expected a regular expression with one group, got {text!r}")
    return pattern
