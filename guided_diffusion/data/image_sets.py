"""Sets of images to evaluate: a folder of pictures, or an .npz as upstream's samplers write it.

Batches are [N, H, W, 3] uint8. They are read when they are asked for, so that a set may be larger
than the memory. An .npz may hold the statistics of upstream's reference batches beside `arr_0` or
in its place: `mu` and `sigma` of pooled features, `mu_s` and `sigma_s` of spatial ones.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from ..errors import ArgumentError, UserError
from .image_files import UNREADABLE, center_crop_arr, list_image_files, load_tile, open_image

STATISTICS = {"fid": ("mu", "sigma"), "sfid": ("mu_s", "sigma_s")}
Moments = tuple[np.ndarray, np.ndarray]  # mean [D], covariance [D, D]


class ImageSet(Protocol):
    """Images by index.

    Attributes:
        path: where they are.
        size: height and width, pixels.
        moments: statistics that the file holds, by the distance that they are for.
    """

    path: Path
    size: tuple[int, int]
    moments: dict[str, Moments]

    def __len__(self) -> int: ...

    def batches(self, wanted: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
        """Yield the images [N, H, W, 3] uint8 of runs of indices that follow one another."""
        ...


def open_set(path: str | Path, name: str, image_size: int = 0) -> ImageSet:
    """Return the images of a folder or an .npz.

    Args:
        path: the folder or file.
        name: of the argument, for messages.
        image_size: side to resize and centre-crop to, pixels; 0: as they are.

    Raises:
        UserError: if there is nothing, no image, or images of several sizes to keep.
    """
    path = Path(path)
    if path.is_dir():
        return FolderImages(path, name, image_size)
    if path.is_file():
        return NpzImages(path, image_size)
    raise UserError(f"{name}: expected an .npz file or a folder of images, got {str(path)!r}")


class FolderImages:
    """The images in a folder and below it, in order of path; see `ImageSet`."""

    def __init__(self, path: Path, name: str, image_size: int) -> None:
        self.path, self.image_size = path, image_size
        try:
            self.files = list_image_files(path)
        except ArgumentError as error:  # a set is no flag, but an argument by its place
            raise UserError(f"{name}: {error.problem}") from None
        self.size = (image_size, image_size) if image_size else _common_size(self.files)
        self.moments: dict[str, Moments] = {}

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, wanted: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
        """Yield the images [N, H, W, 3] uint8 of runs of indices."""
        for indices in wanted:
            yield np.stack([self._tile(self.files[index]) for index in indices])

    def _tile(self, file: str) -> np.ndarray:
        if self.image_size:
            return load_tile(file, self.image_size)
        return np.asarray(open_image(file))


def _common_size(files: Sequence[str]) -> tuple[int, int]:
    first = _size_of(files[0])
    for file in files:
        if (size := _size_of(file)) != first:
            raise UserError(
                f"{file}: expected {_text(first)} pixels as of {files[0]}, got {_text(size)}; "
                "give --image_size to bring all to one size"
            )
    return first


def _size_of(file: str) -> tuple[int, int]:
    try:
        with Image.open(file) as image:  # reads the header alone
            return image.height, image.width
    except UNREADABLE as error:
        raise UserError(f"{file}: expected a readable image, got {error}") from None


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def refuse_unequal_sizes(one: ImageSet, other: ImageSet) -> None:
    """Stop if two sets of images have different sizes, which the networks would see.

    Raises:
        UserError: naming both.
    """
    if len(one) and len(other) and one.size != other.size:
        raise UserError(
            f"{other.path}: expected {_text(one.size)} pixels as in {one.path}, got "
            f"{_text(other.size)}; give --image_size to bring all to one size"
        )


class NpzImages:
    """The array `arr_0` of an .npz, [N, H, W, C] uint8 of 1, 3 or 4 channels; see `ImageSet`."""

    def __init__(self, path: Path, image_size: int) -> None:
        self.path, self.image_size = path, image_size
        with _one_line_errors(path), zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            self.moments = _read_moments(path, names)
            self.shape = (0, 0, 0, 3)
            if "arr_0" in names:
                with archive.open("arr_0.npy") as file:
                    self.shape = _read_shape(file, path)
            elif not self.moments:
                found = ", ".join(sorted(names)) or "nothing"
                raise UserError(f"{path}: expected an array arr_0 of images, got {found}")
        self.size = (image_size, image_size) if image_size else self.shape[1:3]

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, wanted: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
        """Yield the images [N, H, W, 3] uint8 of runs of indices."""
        with (
            _one_line_errors(self.path),
            zipfile.ZipFile(self.path) as archive,
            archive.open("arr_0.npy") as file,
        ):
            _read_shape(file, self.path)
            start, stride = file.tell(), int(np.prod(self.shape[1:]))
            for indices in wanted:
                file.seek(start + indices[0] * stride)
                data = bytearray(file.read(len(indices) * stride))  # torch wants writable memory
                tiles = np.frombuffer(data, np.uint8).reshape(len(indices), *self.shape[1:])
                yield self._as_asked(tiles)

    def _as_asked(self, tiles: np.ndarray) -> np.ndarray:
        # Grey becomes RGB and transparency is dropped, as for pictures of a folder.
        tiles = tiles[..., [0, 0, 0]] if self.shape[-1] == 1 else tiles[..., :3]
        if not self.image_size:
            return tiles
        return np.stack([center_crop_arr(Image.fromarray(t), self.image_size) for t in tiles])


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected an .npz with arr_0, images [N, H, W, C] uint8, got a file that "
            f"cannot be read ({error})"
        ) from None


def _read_shape(file: IO[bytes], path: Path) -> tuple[int, ...]:
    readers: dict[Any, Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format")
    shape, fortran_order, dtype = readers[version](file)
    images = len(shape) == 4 and shape[-1] in (1, 3, 4) and min(shape) > 0
    if dtype != np.uint8 or not images or fortran_order:
        order = " in Fortran order" if fortran_order else ""
        raise UserError(
            f"{path}: expected arr_0 to be images [N, H, W, C] uint8 of 1, 3 or 4 channels, got "
            f"{list(shape)} {dtype}{order}"
        )
    return shape


def _read_moments(path: Path, names: set[str]) -> dict[str, Moments]:
    found = {}
    with np.load(path, allow_pickle=False) as arrays:
        for distance, (mean, covariance) in STATISTICS.items():
            if mean in names and covariance in names:
                found[distance] = _checked(path, mean, arrays[mean], arrays[covariance])
    return found


def _checked(path: Path, name: str, mean: np.ndarray, covariance: np.ndarray) -> Moments:
    fits = mean.ndim == 1 and covariance.shape == (len(mean), len(mean))
    numbers = mean.dtype.kind == covariance.dtype.kind == "f"
    if fits and numbers and np.isfinite(mean).all() and np.isfinite(covariance).all():
        return mean.astype(np.float64), covariance.astype(np.float64)
    raise UserError(
        f"{path}: expected {name} to be a finite mean [D] with its covariance [D, D], got "
        f"{list(mean.shape)} {mean.dtype} and {list(covariance.shape)} {covariance.dtype}"
    )
