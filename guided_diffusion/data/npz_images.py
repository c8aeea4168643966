"""Images of an .npz as upstream's samplers write it: arr_0 [N, H, W, C] uint8, classes as arr_1.

Images are read one by one, so that the file may be larger than the memory.
Statistics of upstream's reference batches may stand beside `arr_0` or in its place: `mu` and
`sigma` of pooled features, `mu_s` and `sigma_s` of spatial ones.
"""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from ..config.network_settings import NUM_CLASSES
from ..errors import UserError
from .image_files import MODES
from .image_source import ImageSource, Moments
from .pictures import to_picture

STATISTICS = {"fid": ("mu", "sigma"), "sfid": ("mu_s", "sigma_s")}


def is_npz(path: Path) -> bool:
    """Return whether a path is a file that is an .npz by its name or its content."""
    return path.is_file() and (path.suffix == ".npz" or zipfile.is_zipfile(path))


class NpzImages(ImageSource):
    """The array arr_0 of an .npz, of 1, 3, 4 or `in_channels` channels; see `open_images`."""

    def __init__(self, path: Path, image_size: int, in_channels: int, labels: str) -> None:
        super().__init__(path, image_size, in_channels)
        self._shape: tuple[int, ...] = (0, 0, 0, 0)
        self._file: IO[bytes] = io.BytesIO()
        with _one_line_errors(path), zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            self.moments = _read_moments(path, names)
            if "arr_0" in names:
                self._file = archive.open("arr_0.npy")  # stays open when the archive is closed
                self._shape = _read_shape(self._file, path, in_channels)
            elif not self.moments:
                found = ", ".join(sorted(names)) or "nothing"
                raise UserError(f"{path}: expected an array arr_0 of images, got {found}")
        self._start, self.count = self._file.tell(), self._shape[0]
        if not image_size:
            self.size = self._shape[1], self._shape[2]
        if labels:
            self.labels = _read_classes(path, self.count)

    def name(self, index: int) -> str:
        """Return the path of the file and the index of an image in it."""
        return f"{self.path}#{index}"

    def picture(self, index: int) -> Image.Image:
        """Read a whole image; see `ImageSource.picture`."""
        length = int(np.prod(self._shape[1:]))
        with _one_line_errors(self.path):
            self._file.seek(self._start + index * length)
            tile = np.frombuffer(self._file.read(length), np.uint8).reshape(self._shape[1:])
        return to_picture(tile).convert(MODES[self.in_channels])


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


def _read_shape(file: IO[bytes], path: Path, in_channels: int) -> tuple[int, ...]:
    readers: dict[Any, Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format")
    shape, fortran_order, dtype = readers[version](file)
    images = len(shape) == 4 and shape[-1] in (1, 3, 4, in_channels) and min(shape) > 0
    if dtype != np.uint8 or not images or fortran_order:
        order = " in Fortran order" if fortran_order else ""
        raise UserError(
            f"{path}: expected arr_0 to be images [N, H, W, C] uint8 of 1, 3 or 4 channels, got "
            f"{list(shape)} {dtype}{order}"
        )
    return shape


def _read_classes(path: Path, count: int) -> list[int]:
    with _one_line_errors(path), np.load(path, allow_pickle=False) as arrays:
        classes = arrays.get("arr_1")
    whole = classes is not None and classes.shape == (count,) and classes.dtype.kind in "iu"
    if classes is None or not whole or not ((classes >= 0) & (classes < NUM_CLASSES)).all():
        raise UserError(
            f"expected as arr_1 a class of 0 to {NUM_CLASSES - 1} for each image, "
            f"as the model needs it, found {'other numbers' if whole else 'none'} in {path}"
        )
    return classes.tolist()


def _read_moments(path: Path, names: set[str]) -> dict[str, Moments]:
    found = {}
    with np.load(path, allow_pickle=False) as arrays:
        for distance, pair in STATISTICS.items():
            if not names.issuperset(pair):
                continue
            mean, covariance = (arrays[name] for name in pair)
            fits = mean.ndim == 1 and covariance.shape == (len(mean), len(mean))
            numbers = mean.dtype.kind == covariance.dtype.kind == "f"
            if not (fits and numbers and np.isfinite(mean).all() and np.isfinite(covariance).all()):
                raise UserError(
                    f"{path}: expected {pair[0]} to be a finite mean [D] with its covariance "
                    f"[D, D], got {list(mean.shape)} {mean.dtype} and {list(covariance.shape)} "
                    f"{covariance.dtype}"
                )
            found[distance] = mean.astype(np.float64), covariance.astype(np.float64)
    return found
