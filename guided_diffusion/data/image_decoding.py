"""Image files to pictures of 8 bits: the right way up, on white glass, within bounds of memory.

Formats are named, since Pillow knows some that start other programs (EPS) or read other files.
"""

import contextlib
import functools
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image

from ..errors import UserError
from ..runtime import dist_util, input_files
from ..runtime.input_files import kind_of
from . import jpeg_damage, png_chunks
from .deep_pixels import BESIDE_BRIGHT, Deep, deep_pixels
from .image_pages import first_page, has_pages, page_numbers
from .npy_arrays import read_image, read_image_header
from .pictures import to_picture
from .reading import READING, ReadingSettings

SAFE_FORMATS = "JPEG PNG TIFF WEBP JPEG2000 GIF BMP DIB PPM AVIF TGA QOI".split()
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
MOST_BYTES_PER_PIXEL, MOST_METADATA = 16, 2**26
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
WAY_OUT = "fetch or save it anew, or leave it out by --exclude"
OTHER_TIFF = "a damaged TIFF, or a TIFF of a kind that is not read; save it as 8-bit RGB"
OTHER_JPEG = "a damaged JPEG, or one of a kind that is not read (12 bits, lossless); save it as PNG"
WEB_PAGE = "a web page, as of a download that was refused; fetch it anew"
HEIC = "a HEIC photograph; save it as JPEG or PNG"
# What stands at the beginning of files that Pillow does not know.
BEGINNINGS = {
    b"II*\0": OTHER_TIFF,
    b"MM\0*": OTHER_TIFF,
    b"\xff\xd8\xff": OTHER_JPEG,
    b"<!DOCTYPE html": WEB_PAGE,
    b"<html": WEB_PAGE,
    b"%PDF": "a PDF file; save its pictures as PNG",
    b"\0\0\0\x0cJXL ": "a JPEG XL file; save it as PNG",
    bytes(128) + b"DICM": "a DICOM file; save it as PNG or TIFF",
}

Remark = Callable[[str], None]


def ignore(remark: str) -> None:
    """Take a remark on an image, and do nothing."""


@functools.cache
def formats() -> list[str]:
    """Return the names of the safe formats that this Pillow reads."""
    Image.init()
    return [name for name in SAFE_FORMATS if name in Image.OPEN]


def is_array(path: str | Path) -> bool:
    """Return whether a path names an array, by its ending."""
    return str(path).lower().endswith(".npy")


def refuse_irregular(path: str | Path) -> None:
    """Raise a `UserError` for a path that is no regular file, which could block or never end."""
    if "://" in str(path):
        return
    place = Path(path)
    try:
        kind = kind_of(place.stat().st_mode)
    except FileNotFoundError:
        if place.is_symlink():
            raise UserError(dangling(place)) from None
        return  # opening it will tell
    if kind:
        raise UserError(f"{path}: expected a readable image, got {kind}")


def dangling(path: Path) -> str:
    """Describe a link whose target is missing, and what to do."""
    return f"{input_files.dangling(path)}, or leave the link out by --exclude"


def _too_large(path: str | Path, pixels: Any, reading: ReadingSettings) -> str:
    return (
        f"{path}: expected a readable image of at most {reading.max_pixels} pixels, got {pixels} "
        "pixels; cut it into tiles, or give a larger --max_pixels (a pixel takes about 10 bytes)"
    )


def _unreadable(path: str | Path, found: str) -> str:
    advice = "" if "; " in found else f"; {WAY_OUT}"  # what was found may come with its own
    return f"{path}: expected a readable image, got {found}{advice}"


def _known_beginning(path: str | Path) -> str:
    with contextlib.suppress(OSError), dist_util.open_bytes(path) as file:
        begin = file.read(200)
        if begin[4:11] == b"ftyphei":  # after a length
            return HEIC
        known = (text for sign, text in BEGINNINGS.items() if begin.startswith(sign))
        return input_files.pointer(begin) or next(known, "")
    return ""


class _PillowsLimit:
    """Pillow's bound on the pixels of an image, which is one for the whole program.

    While images are read it is ours, unless the program set one of its own.
    """

    def __init__(self) -> None:
        self.lock, self.readers = threading.Lock(), 0
        self.before = self.first = Image.MAX_IMAGE_PIXELS

    @contextlib.contextmanager
    def at(self, pixels: int) -> Iterator[None]:
        with self.lock:
            if self.readers == 0:
                self.before = Image.MAX_IMAGE_PIXELS
                if self.before in (None, self.first):
                    Image.MAX_IMAGE_PIXELS = pixels
            self.readers += 1
        try:
            yield
        finally:
            with self.lock:
                self.readers -= 1
                if self.readers == 0:
                    Image.MAX_IMAGE_PIXELS = self.before


_limit = _PillowsLimit()


@contextlib.contextmanager
def readable(path: str | Path, reading: ReadingSettings = READING) -> Iterator[None]:
    """Report a file that is no whole image, as Pillow finds in the block, by a `UserError`."""
    try:
        with _limit.at(reading.max_pixels), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        found = _known_beginning(path) or "none, or a damaged one"
        raise UserError(_unreadable(path, found)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        number = re.search(r"\((\d+) pixels\)", str(error))
        raise UserError(_too_large(path, number[1] if number else "more", reading)) from None
    except MemoryError:
        raise UserError(f"{path}: not enough memory for this image; cut it into tiles") from None
    # Damaged files make Pillow raise errors of many kinds.
    except Exception as error:
        if problem := getattr(error, "strerror", None):  # of the disk, not of the content
            raise UserError(f"{path}: expected a readable image, got {problem}") from None
        got = str(error) or type(error).__name__
        if got.startswith("decoder error"):
            got = f"damaged pixels, or a compression that this Pillow does not read ({got})"
        raise UserError(_unreadable(path, got)) from None


def opened(
    file: IO[bytes], path: str | Path, reading: ReadingSettings, page: int = 0
) -> Image.Image:
    """Open a page of an image by its header, within `readable`; 0: the first that is a page.

    Raises:
        UserError: if it has too many pixels.
    """
    file.seek(0, 2)
    length = file.tell()
    file.seek(0)
    begin = file.read(4)
    file.seek(0)
    most = MOST_BYTES_PER_PIXEL * reading.max_pixels + MOST_METADATA
    if length > most and begin[:2] not in (b"II", b"MM"):  # a TIFF is not read whole
        raise ValueError(f"{length} bytes, more than --max_pixels {reading.max_pixels} can need")
    image = Image.open(file, formats=formats())
    page = page or first_page(image)
    if page:
        image.seek(page)
    if image.width * image.height > reading.max_pixels:
        raise UserError(_too_large(path, image.width * image.height, reading))
    return image


def decoded(
    file: IO[bytes],
    path: str | Path,
    in_channels: int,
    reading: ReadingSettings = READING,
    page: int = 0,
    others_are_bright: Callable[[], bool] = lambda: False,
    remark: Remark = ignore,
) -> Image.Image:
    """Decode an image file within `readable`.

    Args:
        file: the file, open for reading bytes.
        path: its path.
        in_channels: channels of the picture, 1 to 4, see `MODES`.
        reading: pages, range of intensity and bounds.
        page: number of the page, from 0.
        others_are_bright: see `Deep.to_8_bits`.
        remark: function that takes remarks on the image.
    """
    image, deep = _load(file, path, reading, page, remark)
    turn = _orientation(image)
    if deep is not None:
        image = to_picture(deep.to_8_bits(reading.span, others_are_bright))
        if deep.is_dark and not reading.span:
            remark(f"of 16 bits nearly black {BESIDE_BRIGHT}")
    elif reading.span:
        remark("of 8 bits, to which --intensity_range does not apply")
    if turn in TURNS:
        image = image.transpose(TURNS[turn])
        remark("turned as their EXIF orientation says")
    return in_mode(image, in_channels, remark)


def is_bright(file: IO[bytes], path: str | Path, reading: ReadingSettings, page: int) -> bool:
    """Decode an image file within `readable`, and return whether it is `Deep` and bright."""
    _, deep = _load(file, path, reading, page, ignore)
    return deep is not None and deep.bright


def _load(
    file: IO[bytes], path: str | Path, reading: ReadingSettings, page: int, remark: Remark
) -> tuple[Image.Image, Deep | None]:
    if is_array(path):
        values = read_image(file, reading)
        if values.dtype == np.uint8:
            return to_picture(values), None
        deep = Deep(values, values.dtype.name, guessed=values.dtype == np.uint16)
        return Image.new("L", (1, 1)), deep
    image = opened(file, path, reading, page)
    if image.format == "PNG":
        png_chunks.refuse_damage(file)
    elif image.format in ("JPEG", "MPO") and not page:
        jpeg_damage.refuse_damage(file)
    if not page and reading.pages == "first" and has_pages(image):
        remark("with several pages or frames, only the first is used (see --pages)")
    return image, deep_pixels(image, lambda: opened(file, path, reading, page))


def pages_of(path: str | Path, reading: ReadingSettings) -> list[int]:
    """Return the numbers of the pages of a file, without smaller copies of others and masks."""
    with readable(path, reading):
        refuse_irregular(path)
        with dist_util.open_bytes(path) as file:
            image = opened(file, path, reading)
            return list(page_numbers(image)) if has_pages(image) else [0]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # metadata that cannot be read say nothing
        return 1


def size_of(path: str | Path, reading: ReadingSettings = READING) -> tuple[int, int]:
    """Return the height and width that an image will have, from its header."""
    with readable(path, reading):
        refuse_irregular(path)
        with dist_util.open_bytes(path) as file:
            if is_array(path):
                height, width = read_image_header(file, reading).shape[:2]
                return height, width
            image = opened(file, path, reading)
            # Pillow would decode a PNG to find metadata behind its pixels.
            known = image.format != "PNG" or png_chunks.may_be_turned(file)
            sideways = known and _orientation(image) in SIDEWAYS
            return (image.width, image.height) if sideways else (image.height, image.width)


def in_mode(image: Image.Image, in_channels: int, remark: Remark = ignore) -> Image.Image:
    """Convert a picture of 8 bits to 1 to 4 channels; what is transparent lies on white.

    Networks of 2 or 4 channels see the opacity as their last channel.
    """
    mode = MODES[in_channels]
    if image.mode == "CMYK":
        remark("of CMYK, converted without its colour profile")
    transparent = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    if not transparent or image.mode == "LAB":
        return image if image.mode == mode else image.convert(mode)  # it would copy a large one
    image = image.convert("RGBA")
    if mode.endswith("A"):
        return image.convert(mode)
    opacity = image.getchannel("A")
    if opacity.getextrema() == (255, 255):
        return image.convert(mode)
    remark("transparent in places, laid on white")
    glass = Image.new("RGB", image.size, "white")
    glass.paste(image, mask=opacity)
    return glass.convert(mode)
