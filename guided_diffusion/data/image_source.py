"""Images of one place by index: training, sampling, enlarging and evaluation read them from here.

A format of images is a class that counts, names and opens them, and one entry in `image_formats`.
All have tiles [H, W, C] uint8, patients, and a bounded memory of opened tiles.
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

from ..errors import ArgumentError, UserError
from ..runtime import dist_util, logger, progress_bars
from . import image_files
from .class_labels import classes_of_files, known_classes_of_files
from .classes import Classes
from .image_decoding import pages_of, size_of
from .image_folders import list_folder, report
from .reading import READING, ReadingSettings

Batch = tuple[th.Tensor, dict[str, th.Tensor]]
Moments = tuple[np.ndarray, np.ndarray]  # mean [D], covariance [D, D]

KEPT_BYTES = 2**28
ENLARGED = ", enlarged"  # end of the remark on an image that is smaller than its crop
MUCH_SMALLER = 4  # times, from which on training says that it resizes
MOST_OBLONG = 100  # ratio of the sides; a network sees one square of a picture


class ImageSource(ABC):
    """Images by index; `len` is their number.

    Args:
        path: folder or file of the images.
        image_size: side of the square that is cut from the centre, pixels; 0: whole images.
        in_channels: channels of a tile, 1 to 4, see `MODES`.
        reading: settings of how files are read.

    Attributes:
        count: number of images.
        size: height and width of every tile, pixels.
        labels: number of each image's class; None: unknown.
        classes: names and numbers of these classes; None: unknown.
        patient_in_name: finds the patient in a file's name, as its only group; None: unknown.
        moments: {name of a distance: mean and covariance of features} that the file holds.
        crop: function that makes a tile [H, W(, C)] uint8 of an opened image.
        kept: {name of an image: its tile} of tiles opened before.
        keep_bytes: memory, bytes, left for more of them; other tiles are opened every time.
        left_out: counts of the files of the place that are no images; empty: none.
        warnings: lines on the images that the user should see.
        sides_seen: shortest and longest side of opened images, pixels; None: none was opened.
        remarks: {remark: images that it holds for}, by name, of what was done to fit them.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        image_size: int,
        in_channels: int,
        reading: ReadingSettings = READING,
    ) -> None:
        self.path, self.count, self.size = Path(path), 0, (image_size, image_size)
        self.in_channels, self.reading = in_channels, reading
        self.left_out, self.warnings = "", list[str]()
        self.sides_seen: tuple[int, int] | None = None
        self.remarks: dict[str, dict[str, None]] = {}
        self.labels: Sequence[int] | None = None
        self.classes: Classes | None = None
        self.patient_in_name: re.Pattern[str] | None = None
        self.moments: dict[str, Moments] = {}
        self.crop: Callable[[Image.Image], np.ndarray] = self.centre if image_size else np.array
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

    def number_by(self, known: Classes) -> None:
        """Set `labels` to the numbers that the classes of the images have in a model.

        Raises:
            UserError: if there are images of other classes, or their classes cannot be known.
        """
        raise UserError(f"{self.path}: expected images with classes, found none")

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
        tile = self.cut(index)
        tile = tile.reshape(*tile.shape[:2], self.in_channels)
        if tile.nbytes <= self.keep_bytes:
            self.keep_bytes -= tile.nbytes
            self.kept[name] = tile
        return tile

    def cut(self, index: int) -> np.ndarray:
        """Open an image and cut its part, [H, W(, C)] uint8."""
        picture, side = self.picture(index), self.size[0] if self.crop != np.array else 0
        shortest, longest = sorted(picture.size)
        before = self.sides_seen or (shortest, longest)
        self.sides_seen = min(before[0], shortest), max(before[1], longest)
        if side and longest > MOST_OBLONG * shortest:
            raise UserError(
                f"{self.name(index)}: expected sides of a ratio of at most {MOST_OBLONG}, got "
                f"{picture.height}x{picture.width} pixels; cut it into tiles, or leave it out by "
                "--exclude"
            )
        if shortest < side and self.reading.crop == "fit":
            self.remark(index, f"smaller than {side}x{side} pixels{ENLARGED}")
        try:
            return self.crop(picture)
        except ArgumentError as error:
            raise ArgumentError(error.name, f"{self.name(index)}: {error.problem}") from None

    def centre(self, picture: Image.Image) -> np.ndarray:
        """Cut the centre of a picture, [H, W(, C)] uint8, as the settings say."""
        if self.reading.crop == "native":
            return image_files.native_centre(picture, self.size[0])
        return image_files.center_crop_arr(picture, self.size[0])

    def remark(self, index: int, remark: str) -> None:
        """Note what was done to an image so that it fits."""
        self.remarks.setdefault(remark, {})[self.name(index)] = None

    @property
    def report(self) -> str:
        """One line on the number of images, and on what is left out."""
        return report(self.path, len(self), self.left_out)

    def gather_remarks(self) -> list[str]:
        """Return lines on what was done to how many images, on every rank after opening them."""
        together: dict[str, dict[str, None]] = {}
        for remarks in dist_util.Ranks().gather(self.remarks):
            for remark, found in remarks.items():
                together.setdefault(remark, {}).update(found)
        lines = []
        for remark, found in sorted(together.items()):
            place, images = f"{self.path}: " * bool(self.path.name), sorted(found)
            count = f"{len(images)} image{'s' * (len(images) != 1)}"
            lines.append(f"{place}{count} {remark}, such as {images[0]}")
        return lines

    def told_sides(self) -> str:
        """Say how large the images are, on every rank after opening them; "" if none was opened."""
        ranks = dist_util.Ranks().gather((self.sides_seen, self.remarks))
        known = [sides for sides, _ in ranks if sides]
        if not known:
            return ""
        shortest, longest = min(one for one, _ in known), max(other for _, other in known)
        remarks = [(remark, names) for _, found in ranks for remark, names in found.items()]
        small = set().union(*(names for remark, names in remarks if remark.endswith(ENLARGED)))
        enlarged = f"; {len(small)} of them enlarged to the size asked for" if small else ""
        side = self.size[0] if self.reading.crop == "fit" else 0
        shrunk = ""
        if side and shortest >= MUCH_SMALLER * side:
            shrunk = f"; resized to {side} (--crop native cuts {side}x{side} without resizing)"
        sides = f"sides of {shortest}{f' to {longest}' * (shortest != longest)} pixels"
        return f"{sides}{enlarged}{shrunk}"

    def log_remarks(self) -> None:
        """Log what was done to how many images; call it on every rank, after opening them."""
        lines = self.gather_remarks()
        if dist_util.rank() == 0:
            for line in lines:
                logger.log(line)

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
        """Open every image now, each on one rank, and log what was done to fit them.

        Raises:
            UserError: on every rank, if an image cannot be read.
        """
        mine = range(dist_util.rank(), len(self), dist_util.world_size())
        bar = progress_bars.progress(mine, desc="checking", unit="image", leave=False)
        dist_util.everywhere(lambda: [self.tile(index).size for index in bar])
        self.log_remarks()


class ImageFiles(ImageSource):
    """Image files in the order of a list.

    Args:
        files: paths of the files.
        image_size, in_channels, reading: see `ImageSource`. With all pages, a page of a file of
            several has the name FILE#PAGE.
    """

    def __init__(
        self,
        files: Sequence[str],
        image_size: int,
        in_channels: int = 3,
        reading: ReadingSettings = READING,
    ) -> None:
        super().__init__("", image_size, in_channels, reading)
        self.pages: dict[str, tuple[str, int]] = {}
        self.files = self._paged(files) if reading.pages == "all" else files
        self.count = len(self.files)
        self._bright: bool | None = None  # not known yet

    def _paged(self, files: Sequence[str]) -> list[str]:
        found = []
        for file in files:
            numbers = pages_of(file, self.reading)
            names = [f"{file}#{number}" for number in numbers] if len(numbers) > 1 else [str(file)]
            self.pages |= {name: (file, n) for name, n in zip(names, numbers, strict=True)}
            found += names
        return found

    def name(self, index: int) -> str:
        """Return the path of a file."""
        return self.files[index]

    def picture(self, index: int) -> Image.Image:
        """Open a whole image; see `ImageSource.picture`."""
        file, page = self.pages.get(self.files[index], (self.files[index], 0))
        options = self.reading, page, self._has_bright_images, lambda text: self.remark(index, text)
        return image_files.open_image(file, self.in_channels, *options)

    def _has_bright_images(self) -> bool:
        if self._bright is None:
            places = (self.pages.get(name, (name, 0)) for name in self.files)
            self._bright = any(image_files.is_bright(p, self.reading, page) for p, page in places)
        return self._bright


class ImageFolder(ImageFiles):
    """The images of a folder and the folders below it, by path; see `open_images`."""

    def __init__(
        self,
        path: Path,
        image_size: int,
        in_channels: int,
        labels: str,
        reading: ReadingSettings = READING,
    ) -> None:
        listing = list_folder(path, reading)
        super().__init__(listing.files, image_size, in_channels, reading)
        self.path, self.left_out, self.warnings = path, listing.counts, listing.warnings
        if not image_size:
            self.size = common_size(listing.files, reading)
        if labels:
            self.labels, self.classes = classes_of_files(self._files_of_pages(), path, labels)

    def _files_of_pages(self) -> list[str]:
        return [str(self.pages.get(name, (name, 0))[0]) for name in self.files]

    def number_by(self, known: Classes) -> None:
        """Number the classes of the files as a model does; see `ImageSource.number_by`."""
        files = self._files_of_pages()
        try:
            self.labels, self.classes = known_classes_of_files(files, self.path, known)
        except UserError as error:
            raise UserError(f"{error}; or take all images for one class, by --classes") from None


def common_size(files: Sequence[str], reading: ReadingSettings = READING) -> tuple[int, int]:
    """Return height and width of all files, pixels; files of other sizes are a `UserError`."""
    first: tuple[int, int] | None = None
    for file in files:
        size = size_of(file, reading)
        first = first or size
        if size != first:
            raise UserError(
                f"{file}: expected {first[0]}x{first[1]} pixels as of {files[0]}, got "
                f"{size[0]}x{size[1]}; give --image_size to bring all to one size"
            )
    return first or (0, 0)
