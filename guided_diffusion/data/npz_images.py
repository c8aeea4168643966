"""Images of an .npz as upstream's samplers write it: arr_0 [N, H, W, C] uint8, classes as arr_1.

Images are read one by one, so that the file may be larger than the memory. Before memory is taken
for any array, its header and the size of what is unpacked are compared with bounds.
Statistics of upstream's reference batches may stand beside `arr_0` or in its place: `mu` and
`sigma` of pooled features, `mu_s` and `sigma_s` of spatial ones.
"""

import contextlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from ..config.network_settings import NUM_CLASSES
from ..errors import UserError
from ..runtime import input_files
from .classes import Classes
from .image_decoding import in_mode
from .image_source import ImageSource, Moments
from .npy_arrays import Header, read_header
from .pictures import to_picture
from .reading import READING, ReadingSettings

STATISTICS = {"fid": ("mu", "sigma"), "sfid": ("mu_s", "sigma_s")}
MOST_FEATURES = 8192
# numpy writes no others; some unpack without end.
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What an archive that is damaged, encrypted or of an unknown form raises.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, ValueError, RuntimeError)
MOST_DEFLATED = 1100  # bytes unpacked from one, at most 1032 in a sound file


def is_npz(path: Path) -> bool:
    """Return whether a path is a file that is an .npz by its name or its content."""
    return path.is_file() and (path.suffix == ".npz" or zipfile.is_zipfile(path))


class NpzImages(ImageSource):
    """The array arr_0 of an .npz, of 1 to 4 channels; see `open_images`."""

    def __init__(
        self,
        path: Path,
        image_size: int,
        in_channels: int,
        labels: str,
        reading: ReadingSettings = READING,
    ) -> None:
        super().__init__(path, image_size, in_channels, reading)
        self._shape: tuple[int, ...] = (0, 0, 0, 0)
        self._file: IO[bytes] = io.BytesIO()
        with _one_line_errors(path), zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            self.moments = _read_moments(path, archive, names)
            if "arr_0" in names:
                self._file = _member(archive, "arr_0")  # stays open when the archive is closed
                self._shape = self._read_shape()
            elif not self.moments:
                found = ", ".join(sorted(names)) or "nothing"
                raise UserError(f"{path}: expected an array arr_0 of images, got {found}")
        self._start, self.count = self._file.tell(), self._shape[0]
        if not image_size:
            self.size = self._shape[1], self._shape[2]
        if labels:
            self.labels = _read_classes(path, self.count)
            self.classes = Classes.unnamed(self.labels, f"arr_1 of {path}")

    def number_by(self, known: Classes) -> None:
        """Check the classes of arr_1, which are numbers; see `ImageSource.number_by`."""
        numbers = _read_classes(self.path, self.count)
        known.refuse_unknown(Classes.unnamed(numbers, f"arr_1 of {self.path}"))
        self.labels, self.classes = numbers, known

    def _read_shape(self) -> tuple[int, ...]:
        header = read_header(self._file)
        shape, most = header.shape, self.reading.max_pixels
        images = len(shape) == 4 and 1 <= shape[-1] <= 4 and min(shape) > 0
        if header.dtype != np.uint8 or not images or header.fortran_order:
            raise UserError(
                f"{self.path}: expected arr_0 to be images [N, H, W, C] uint8 of 1 to 4 channels, "
                f"got {header}"
            )
        if math.prod(shape[1:3]) > most:
            raise UserError(
                f"{self.path}: expected images of at most {most} pixels, got "
                f"{shape[1]}x{shape[2]}; give a larger --max_pixels"
            )
        return shape

    def name(self, index: int) -> str:
        """Return the path of the file and the index of an image in it."""
        return f"{self.path}#{index}"

    def picture(self, index: int) -> Image.Image:
        """Read a whole image; see `ImageSource.picture`."""
        length = math.prod(self._shape[1:])
        with _one_line_errors(self.path):
            self._file.seek(self._start + index * length)
            tile = np.frombuffer(self._file.read(length), np.uint8).reshape(self._shape[1:])
        return in_mode(to_picture(tile), self.in_channels, lambda text: self.remark(index, text))


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (*DAMAGE, OverflowError, MemoryError) as error:
        raise UserError(
            f"{path}: expected an .npz with arr_0, images [N, H, W, C] uint8, got a file that "
            f"cannot be read ({_pointer(path) or error})"
        ) from None


def _pointer(path: Path) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return input_files.pointer(file.read(200))
    return ""


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open an array of an archive, unless it cannot be what it says.

    Raises:
        ValueError: if it is no .npy, or if its size is not that of its header.
    """
    about = archive.getinfo(f"{name}.npy")
    if about.compress_type not in COMPRESSIONS:
        raise ValueError(f"{name} is compressed in a way that numpy does not use")
    if about.file_size > MOST_DEFLATED * about.compress_size + MOST_DEFLATED:
        raise ValueError(f"{name} has {about.compress_size} bytes for {about.file_size} unpacked")
    file = archive.open(about)
    try:
        header = read_header(file)
    except ValueError:
        header = None
    if header and header.dtype != object and file.tell() + header.bytes != about.file_size:
        raise ValueError(f"{name} {header} has {about.file_size} bytes, which do not fit its shape")
    file.seek(0)
    return file


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with _member(archive, name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _header(archive: zipfile.ZipFile, name: str) -> Header:
    with _member(archive, name) as file:
        return read_header(file)


def _read_classes(path: Path, count: int) -> list[int]:
    whole, fits, classes = False, False, np.empty(0, int)
    with _one_line_errors(path), zipfile.ZipFile(path) as archive:
        if "arr_1.npy" in archive.namelist():
            header = _header(archive, "arr_1")
            whole = header.shape == (count,) and header.dtype.kind in "iu"
        if whole:
            classes = _read_member(archive, "arr_1")
            fits = bool(((classes >= 0) & (classes < NUM_CLASSES)).all())
    if not fits:
        raise UserError(
            f"expected as arr_1 a class of 0 to {NUM_CLASSES - 1} for each image, "
            f"as the model needs it, found {'other numbers' if whole else 'none'} in {path}"
        )
    return classes.tolist()


def _read_moments(path: Path, archive: zipfile.ZipFile, names: set[str]) -> dict[str, Moments]:
    found = {}
    for distance, pair in STATISTICS.items():
        if not names.issuperset(pair):
            continue
        about = [_header(archive, name) for name in pair]
        (mean_shape, *_), (covariance_shape, *_) = about
        fits = len(mean_shape) == 1 and covariance_shape == mean_shape * 2
        fits = fits and mean_shape[0] <= MOST_FEATURES
        if fits and all(header.dtype.kind == "f" for header in about):
            mean, covariance = (_read_member(archive, name) for name in pair)
            if np.isfinite(mean).all() and np.isfinite(covariance).all():
                found[distance] = mean.astype(np.float64), covariance.astype(np.float64)
                continue
        raise UserError(
            f"{path}: expected {pair[0]} to be a finite mean [D] with its covariance [D, D], of at "
            f"most {MOST_FEATURES} features, got {about[0]} and {about[1]}"
        )
    return found
