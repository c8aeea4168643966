"""A corpus of odd, damaged and hostile image files, made anew, with the right outcome of each.

`CASES` is the table: a name, the ending of the file, what makes its bytes (or the file itself), and
either the pixels that a network of three channels sees, or what a message says.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 16
RNG = np.random.default_rng(5)
SMOOTH = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (4, 3, 3), dtype=np.uint8)).resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC
    )
)
GREY = SMOOTH[..., 1]
OPACITY = np.broadcast_to(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, WIDTH))
RAMP16 = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
RAMP12 = RAMP16 // 16
RGB16 = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16)
RGB12 = RGB16 // 16
Chunks = list[tuple[bytes, bytes]]


def grey3(values: np.ndarray) -> np.ndarray:
    """Return [H, W] numbers 0..255 as [H, W, 3] uint8, rounded."""
    return np.repeat(np.floor(values + 0.5).astype(np.uint8)[..., None], 3, axis=2)


def on_white(colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Return colours [H, W, 3] with their opacity [H, W] of 0..255 on white."""
    share = opacity[..., None] / 255
    return np.floor(colour * share + 255 * (1 - share) + 0.5).astype(np.uint8)


def saved(pixels: Any, format: str, mode: str | None = None, **options: Any) -> bytes:
    """Return a picture, or an array [H, W(, C)], as a file of a format of Pillow's."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, colour: int, more: Chunks = (), size: tuple[int, int] = ()) -> bytes:
    """Return a PNG of 8 or 16 bits; `colour` is its type: 0 grey, 2 RGB, 4 and 6 with opacity.

    Args:
        values: numbers [H, W(, C)], uint8 or uint16.
        colour: type of the colours.
        more: chunks before the pixels.
        size: width and height that the header claims, if others.
    """
    height, width = values.shape[:2]
    big = values.astype(values.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    head = struct.pack(">IIBBBBB", *(size or (width, height)), 8 * values.itemsize, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(values: np.ndarray, photometric: int = 1, order: str = "<", **tags: int) -> bytes:
    """Return a TIFF of one strip of numbers [H, W(, C)], as they are.

    Args:
        values: the numbers.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK, 8 CIELAB.
        order: byte order, "<" or ">".
        **tags: further tags, `t281=4095`; `bits`, if other than those of the type.
    """
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = tags.pop("bits", 8 * values.itemsize)
    own = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: samples}
    own |= {278: height, 279: len(data), 339: kind}
    own |= {int(name[1:]): value for name, value in tags.items()}
    many, entries = b"", b""
    directory = 8 + len(data)
    after = directory + 2 + 12 * len(own) + 4
    for tag, value in sorted(own.items()):
        if tag in (258, 339) and samples > 2:
            numbers = struct.pack(f"{order}{samples}H", *[value] * samples)
            entries += struct.pack(f"{order}HHII", tag, 3, samples, after + len(many))
            many += numbers
        elif tag in (258, 339) and samples == 2:
            entries += struct.pack(f"{order}HHIHH", tag, 3, 2, value, value)
        else:
            entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    return head + data + struct.pack(f"{order}H", len(own)) + entries + struct.pack("<I", 0) + many


def packed12(values: np.ndarray) -> bytes:
    """Return a TIFF of [H, W] with numbers of 12 bits, two in three bytes."""
    pairs = values.reshape(-1, 2).astype(np.uint32)
    whole = pairs[:, 0] << 12 | pairs[:, 1]
    data = np.stack([whole >> 16, whole >> 8 & 255, whole & 255], axis=1).astype(np.uint8)
    height, width = values.shape
    return tiff(data.reshape(height, -1), bits=12, t256=width)


def npy(values: np.ndarray, **options: Any) -> bytes:
    """Return an array as a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, values, **options)
    return file.getvalue()


def npy_of(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """Return a .npy file with a header of one's own."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def exif(orientation: int) -> bytes:
    """Return EXIF with an orientation."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def flipped(content: bytes, place: float, length: int = 1) -> bytes:
    """Return bytes with some changed, at a share of the whole."""
    start = int(len(content) * place)
    changed = bytes(byte ^ 0x5A for byte in content[start : start + length])
    return content[:start] + changed + content[start + length :]


def overwritten(content: bytes) -> bytes:
    """Return bytes with a block of other data in their middle."""
    start = len(content) // 2
    block = np.random.default_rng(1).integers(0, 255, len(content) // 8, dtype=np.uint8).tobytes()
    return content[:start] + block + content[start + len(block) :]


def photograph(side: int = 96) -> Image.Image:
    """Return a picture with something everywhere, as tissue has."""
    noise = np.random.default_rng(2).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def pages(format: str, **options: Any) -> bytes:
    """Return a file of two pages; the first is SMOOTH."""
    other = Image.fromarray(255 - SMOOTH)
    return saved(SMOOTH, format, save_all=True, append_images=[other], **options)


def palette_with_glass() -> bytes:
    """Return a PNG with a palette whose first colour is transparent; the right half has it."""
    picture = Image.new("P", (WIDTH, HEIGHT), 1)
    picture.putpalette([0, 0, 0, 40, 80, 120])
    picture.paste(0, (WIDTH // 2, 0, WIDTH, HEIGHT))
    return saved(picture, "png", transparency=0)


HALF_GLASS = np.full((HEIGHT, WIDTH, 3), (40, 80, 120), np.uint8)
HALF_GLASS[:, WIDTH // 2 :] = 255
RGBA = np.dstack([SMOOTH, OPACITY])
LA = np.dstack([GREY, OPACITY])
BITS = np.asarray(Image.fromarray(GREY).convert("1"))
INK = Image.fromarray(SMOOTH).convert("CMYK")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 24\n%%EndComments\nshowpage\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
LAB = np.full((HEIGHT, WIDTH, 3), (0, 0, 0), np.uint8)
LAB[..., 0] = np.linspace(0, 255, HEIGHT).astype(np.uint8)[:, None]
BOMB = zlib.compress(b"a" * 2**24, 9)
CODE = "{'descr': '|u1', 'fortran_order': False, 'shape': (__import__('os').getpid(), 4), }"


@dataclass(frozen=True)
class Odd:
    """One file of the corpus.

    Attributes:
        name: file name, with its ending.
        make: function that returns the content, or makes the file at a path.
        pixels: pixels that a network of three channels sees, [H, W, 3]; None: the file is refused.
        message: regular expression of the refusal, or of the remark on the image.
        near: allowed distance of the pixels, grey levels.
        flags: settings of reading.
        side: side of the crop; 0: whole.
    """

    name: str
    make: Callable[[], bytes] | Callable[[Path], None]
    pixels: np.ndarray | None = None
    message: str = ""
    near: int = 0
    flags: Mapping[str, Any] = field(default_factory=dict)
    side: int = 0
    special: bool = False

    def write(self, folder: Path) -> Path:
        """Make the file in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.name
        if self.special:
            self.make(path)
        else:
            path.write_bytes(self.make())
        return path


def bound_socket(path: Path) -> None:
    """Make a socket at a path, however long."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def range_of(low: float, high: float) -> dict[str, str]:
    """Return the settings of reading that say what is black and white."""
    return {"intensity_range": f"{low:g},{high:g}"}


FROM16, FROM12 = grey3(RAMP16 / 257), grey3(RAMP12 * (255 / 4095))
COLOUR16, COLOUR12 = (
    np.floor(v + 0.5).astype(np.uint8) for v in (RGB16 / 257, RGB12 * (255 / 4095))
)
HOT12 = np.where(np.arange(RAMP12.size).reshape(RAMP12.shape) == 9, 65535, RAMP12).astype(np.uint16)
SIGNED16 = (RAMP16.astype(np.int32) - 32768).astype(np.int16)
DARK = "16-bit numbers of .* nearly black .*--intensity_range LOW,HIGH"
UNTOLD = "numbers of .*--intensity_range LOW,HIGH"
TURNED = "turned as their EXIF orientation says"
GLASS = "transparent in places, laid on white"
FIRST = "several pages or frames, only the first is used"
NO_IMAGE = "expected a readable image, got"

USUAL = [
    Odd("rgb.png", lambda: saved(SMOOTH, "png"), SMOOTH),
    Odd("grey.png", lambda: saved(GREY, "png"), grey3(GREY)),
    Odd("bits.png", lambda: saved(BITS, "png"), grey3(BITS * 255)),
    Odd("photo.jpg", lambda: saved(SMOOTH, "jpeg", quality=100, subsampling=0), SMOOTH, near=4),
    Odd("photo.JPEG", lambda: saved(GREY, "jpeg", quality=100), grey3(GREY), near=3),
    Odd("photo.jfif", lambda: saved(SMOOTH, "jpeg", progressive=True), SMOOTH, near=60),
    Odd("plain.tif", lambda: saved(SMOOTH, "tiff"), SMOOTH),
    Odd("lzw.tiff", lambda: saved(SMOOTH, "tiff", compression="tiff_lzw"), SMOOTH),
    Odd("flate.tif", lambda: saved(SMOOTH, "tiff", compression="tiff_deflate"), SMOOTH),
    Odd("fax.tif", lambda: saved(BITS, "tiff", compression="group4"), grey3(BITS * 255)),
    Odd("a.bmp", lambda: saved(SMOOTH, "bmp"), SMOOTH),
    Odd("a.gif", lambda: saved(GREY, "gif"), grey3(GREY)),
    Odd("a.webp", lambda: saved(SMOOTH, "webp", lossless=True), SMOOTH),
    Odd("a.jp2", lambda: saved(SMOOTH, "jpeg2000"), SMOOTH),
    Odd("a.j2k", lambda: saved(SMOOTH, "jpeg2000", no_jp2=True), SMOOTH),
    Odd("a.ppm", lambda: saved(SMOOTH, "ppm"), SMOOTH),
    Odd("a.pgm", lambda: saved(GREY, "ppm"), grey3(GREY)),
    Odd("a.tga", lambda: saved(SMOOTH, "tga"), SMOOTH),
    Odd("big_endian.tif", lambda: tiff(SMOOTH, 2, ">"), SMOOTH),
    Odd("white_is_zero.tif", lambda: tiff(GREY, 0), 255 - grey3(GREY)),
    Odd("png_named.jpg", lambda: saved(SMOOTH, "png"), SMOOTH),
    Odd("rows.npy", lambda: npy(GREY), grey3(GREY)),
    Odd("colours.npy", lambda: npy(SMOOTH), SMOOTH),
    Odd("one_channel.npy", lambda: npy(GREY[..., None]), grey3(GREY)),
    Odd("fortran.npy", lambda: npy(np.asfortranarray(SMOOTH)), SMOOTH),
]
DEEP = [
    Odd("16.png", lambda: png(RAMP16, 0), FROM16),
    Odd("12_in_16.png", lambda: png(RAMP12, 0), message=DARK),
    Odd("12_told.png", lambda: png(RAMP12, 0), FROM12, flags=range_of(0, 4095)),
    Odd("dark_told.png", lambda: png(RAMP12, 0), grey3(RAMP12 / 257), flags=range_of(0, 65535)),
    Odd("rgb_16.png", lambda: png(RGB16, 2), COLOUR16),
    Odd("rgb_12.png", lambda: png(RGB12, 2), message=DARK),
    Odd("rgb_12_told.png", lambda: png(RGB12, 2), COLOUR12, flags=range_of(0, 4095)),
    Odd("rgb_16.tif", lambda: tiff(RGB16, 2), COLOUR16),
    Odd("rgb_16_big_endian.tif", lambda: tiff(RGB16, 2, ">"), COLOUR16),
    Odd("rgb_12.tif", lambda: tiff(RGB12, 2, ">"), message=DARK),
    Odd("rgb_12_told.tif", lambda: tiff(RGB12, 2), COLOUR12, flags=range_of(0, 4095)),
    Odd("16.tif", lambda: tiff(RAMP16), FROM16),
    Odd("16_big_endian.tif", lambda: tiff(RAMP16, order=">"), FROM16),
    Odd("16_lzw.tif", lambda: saved(RAMP16, "tiff", compression="tiff_lzw"), FROM16),
    Odd("12_in_16.tif", lambda: tiff(RAMP12), message=DARK),
    Odd("12_of_its_tag.tif", lambda: tiff(RAMP12, t281=4095), FROM12),
    Odd("12_packed.tif", lambda: packed12(RAMP12), FROM12),
    Odd("16_white_is_zero.tif", lambda: tiff(RAMP16, 0), 255 - FROM16, near=1),
    Odd("16_of_no_known_kind.tif", lambda: tiff(RAMP16, 0, ">"), message="a TIFF of a kind"),
    Odd("signed_16.tif", lambda: tiff(SIGNED16), message="signed 16-bit " + UNTOLD),
    Odd("signed_told.tif", lambda: tiff(SIGNED16), FROM16, flags=range_of(-32768, 32767)),
    Odd("signed_8.tif", lambda: tiff(GREY.view(np.int8)), message="signed 8-bit " + UNTOLD),
    Odd("int32.tif", lambda: tiff(RAMP16.astype(np.int32)), FROM16),
    Odd("int32_below_0.tif", lambda: tiff(RAMP16.astype(np.int32) - 9), message=UNTOLD),
    Odd("int32_large.tif", lambda: tiff(RAMP16.astype(np.int32) * 99), message=UNTOLD),
    Odd(
        "int32_told.tif",
        lambda: tiff(RAMP16.astype(np.int32) - 9),
        FROM16,
        flags=range_of(-9, 65526),
    ),
    Odd("float.tif", lambda: tiff(RAMP16 / np.float32(65535)), message="floating-point " + UNTOLD),
    Odd("float_told.tif", lambda: tiff(RAMP16 / np.float32(65535)), FROM16, flags=range_of(0, 1)),
    Odd(
        "nan.tif",
        lambda: tiff(np.full((8, 8), np.nan, np.float32)),
        message="not finite",
        flags=range_of(0, 1),
    ),
    Odd(
        "maxval_4095.pgm",
        lambda: b"P5 16 24 4095\n" + RAMP12.astype(">u2").tobytes(),
        FROM12,
        near=1,
    ),
    Odd(
        "uint32_told.tif",
        lambda: tiff(RAMP16.astype(np.uint32) * 65537),
        FROM16,
        flags=range_of(0, 2**32 - 1),
    ),
    Odd(
        "float_white_is_zero.tif",
        lambda: tiff(RAMP16 / np.float32(65535), 0),
        255 - FROM16,
        near=1,
        flags=range_of(0, 1),
    ),
    Odd("12_of_its_other_tag.tif", lambda: tiff(RAMP12, t341=4095), FROM12),
    Odd("12_and_a_hot_pixel.tif", lambda: tiff(HOT12), message="99% of them below .*" + DARK[18:]),
    Odd(
        "opacity_12.png",
        lambda: png(np.dstack([RGB12, RAMP12]), 6),
        message="opacity of at most",
        flags=range_of(0, 4095),
    ),
    Odd("big_endian.npy", lambda: npy(RAMP16.astype(">u2")), FROM16),
    Odd("deep.jp2", lambda: saved(RAMP16, "jpeg2000"), FROM16),
    Odd("deep.npy", lambda: npy(RAMP16), FROM16),
    Odd("dark.npy", lambda: npy(RAMP12), message="uint16 numbers"),
    Odd("float.npy", lambda: npy(RAMP16 / 65535), FROM16, flags=range_of(0, 1)),
]
COLOURS = [
    Odd("ink.tif", lambda: saved(INK, "tiff"), SMOOTH, "of CMYK", near=1),
    Odd("ink.jpg", lambda: saved(INK, "jpeg", quality=100), SMOOTH, "of CMYK", near=60),
    Odd("lab.tif", lambda: tiff(LAB, 8), grey3(LAB[..., 0]), near=12),
    Odd("palette.png", lambda: saved(Image.fromarray(GREY).convert("P"), "png"), grey3(GREY)),
    Odd("rgba.png", lambda: saved(RGBA, "png"), on_white(SMOOTH, OPACITY), GLASS, near=1),
    Odd("la.png", lambda: saved(LA, "png"), on_white(grey3(GREY), OPACITY), GLASS, near=1),
    Odd("rgba.webp", lambda: saved(RGBA, "webp", lossless=True, exact=True),
        on_white(SMOOTH, OPACITY), GLASS, near=1),
    Odd("rgba.tif", lambda: saved(RGBA, "tiff"), on_white(SMOOTH, OPACITY), GLASS, near=1),
    Odd("rgba.npy", lambda: npy(RGBA), on_white(SMOOTH, OPACITY), GLASS, near=1),
    Odd("opaque.png", lambda: saved(np.dstack([SMOOTH, GREY * 0 + 255]), "png"), SMOOTH),
    Odd("palette_glass.png", palette_with_glass, HALF_GLASS, GLASS),
    Odd("key.png", lambda: png(SMOOTH, 2, [(b"tRNS", struct.pack(">HHH", *SMOOTH[0, 0]))]),
        np.where((SMOOTH[0, 0] == SMOOTH).all(-1, keepdims=True), 255, SMOOTH), GLASS),
    Odd("la_16.png", lambda: png(np.dstack([RAMP16, RAMP16 * 0]), 4), FROM16 * 0 + 255, GLASS),
    Odd("rgba_16.png", lambda: png(np.dstack([RGB16, RAMP16 * 0 + 65535]), 6), COLOUR16),
]  # fmt: skip
TURNS = {
    2: SMOOTH[:, ::-1],
    3: SMOOTH[::-1, ::-1],
    4: SMOOTH[::-1],
    5: SMOOTH.transpose(1, 0, 2),
    6: np.rot90(SMOOTH, -1),
    7: np.rot90(SMOOTH, 2).transpose(1, 0, 2),
    8: np.rot90(SMOOTH),
}
TURNED_FILES = [
    Odd(f"turned_{n}.{end}", lambda n=n, f=f, o=o: saved(SMOOTH, f, exif=exif(n), **o), want,
        "" if end == "tif" else TURNED, near)
    for n, want in TURNS.items()
    for end, f, o, near in (
        ("png", "png", {}, 0),
        ("jpg", "jpeg", {"quality": 100, "subsampling": 0}, 4),
        ("webp", "webp", {"lossless": True}, 0),
        ("tif", "tiff", {}, 0),
    )
] + [
    Odd("exif_of_nonsense.png", lambda: png(SMOOTH, 2, [(b"eXIf", b"II*\0\xff\xff\xff\xff")]),
        SMOOTH),
]  # fmt: skip
PAGES = [
    Odd("two.tif", lambda: pages("tiff"), SMOOTH, FIRST),
    Odd("two.webp", lambda: pages("webp", lossless=True), SMOOTH, FIRST),
    Odd("two.png", lambda: pages("png"), SMOOTH, FIRST),
    Odd("two.gif", lambda: saved(GREY, "gif", save_all=True,
        append_images=[Image.fromarray(255 - GREY)]), grey3(GREY), FIRST),
]  # fmt: skip
JPEG = saved(photograph(), "jpeg", quality=90)
DAMAGED = [
    Odd("empty.png", lambda: b"", message=NO_IMAGE),
    Odd("text.jpg", lambda: b"hello, I am text\n" * 20, message=NO_IMAGE),
    Odd("page.jpg", lambda: b"<!DOCTYPE html><html>404</html>", message="a web page"),
    Odd("telephone.jpg", lambda: b"\0\0\0\x18ftypheic" + bytes(99), message="HEIC .*save it as"),
    Odd("slice.png", lambda: bytes(128) + b"DICM" + bytes(99), message="DICOM .*save it as"),
    Odd("12_bits.jpg", lambda: JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        message="12 bits"),
    Odd("postscript.png", lambda: EPS, message=NO_IMAGE),
    Odd("pointer.png", lambda: LFS, message="Git LFS.*git lfs pull"),
    Odd("pointer.tif", lambda: b"/annex/objects/SHA256E-s9--4d\n", message="git annex get"),
    Odd("cut.png", lambda: saved(SMOOTH, "png")[:-60], message=NO_IMAGE),
    Odd("cut.jpg", lambda: JPEG[: len(JPEG) // 2], message=NO_IMAGE),
    Odd("no_end.jpg", lambda: JPEG[:-2], message=NO_IMAGE),
    Odd("cut.tif", lambda: saved(SMOOTH, "tiff")[:-300], message=NO_IMAGE),
    Odd("cut.webp", lambda: saved(SMOOTH, "webp")[:-60], message=NO_IMAGE),
    Odd("cut.jp2", lambda: saved(SMOOTH, "jpeg2000")[:-200], message=NO_IMAGE),
    Odd("cut.gif", lambda: saved(GREY, "gif")[:-100], message=NO_IMAGE),
    Odd("one_bit.png", lambda: flipped(saved(photograph(), "png"), 0.5), message="checksum"),
    Odd("no_palette.png", lambda: png(np.zeros((8, 8), np.uint8), 3),
        message="without the colours"),
    Odd("middle.jpg", lambda: overwritten(JPEG), message="damaged pixels"),
    Odd("marker.jpg", lambda: JPEG[:2000] + b"\xff\x01" + JPEG[2002:], message="damaged pixels"),
    Odd("cut.npy", lambda: npy(SMOOTH)[:-9], message="cut off"),
    Odd("objects.npy", lambda: npy(np.array([{}] * 4).reshape(2, 2), allow_pickle=True),
        message="an array"),
    Odd("five_channels.npy", lambda: npy(np.zeros((8, 8, 5), np.uint8)), message="an array"),
    Odd("code.npy", lambda: npy_of(CODE), message="header"),
    Odd("huge.npy", lambda: npy_of("{'descr': '|u1', 'fortran_order': False, "
        "'shape': (9000000, 9000000), }"), message="more than --max_pixels"),
    Odd("below_0.npy", lambda: npy_of("{'descr': '|u1', 'fortran_order': False, "
        "'shape': (-4, 4), }"), message="damaged .npy header"),
    Odd("nested.npy", lambda: npy_of("(" * 9000), message="header"),
    Odd("newer.npy", lambda: npy_of("{}", version=b"\x09\x00"), message="version"),
]  # fmt: skip
HOSTILE = [
    Odd("flat.png", lambda: png(np.zeros((1, 20000, 3), np.uint8), 2), message="ratio", side=16),
    Odd("tall.png", lambda: png(np.zeros((20000, 1, 3), np.uint8), 2), message="ratio", side=16),
    Odd("claims.png", lambda: png(SMOOTH, 2, size=(60000, 60000)), message="--max_pixels"),
    Odd("claims.gif", lambda: b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(40),
        message="readable image"),
    Odd("limited.png", lambda: saved(SMOOTH, "png"), message="at most 99 pixels.*384",
        flags={"max_pixels": 99}),
    Odd("text_bomb.png", lambda: png(SMOOTH, 2, [(b"zTXt", b"a\0\0" + BOMB)]), message=NO_IMAGE),
    Odd("profile_bomb.png", lambda: png(SMOOTH, 2, [(b"iCCP", b"a\0\0" + BOMB)]), message=NO_IMAGE),
    Odd("pixel_bomb.png", lambda: png(SMOOTH, 2)[:-12 - 12] + chunk(b"IDAT", BOMB),
        message=NO_IMAGE),
    Odd("pipe.png", lambda path: os.mkfifo(path), message="a named pipe", special=True),
    Odd("link_to_pipe.png", lambda path: (os.mkfifo(path.with_suffix(".fifo")),
        path.symlink_to(path.with_suffix(".fifo")))[1], message="a named pipe", special=True),
    Odd("device.png", lambda path: path.symlink_to("/dev/zero"), message="a device", special=True),
    Odd("folder.png", lambda path: path.mkdir(), message="a folder", special=True),
    Odd("socket.png", bound_socket, message="a socket", special=True),
    Odd("dangling.png", lambda path: path.symlink_to("../.git/annex/objects/x"),
        message="not there.*git annex get", special=True),
    Odd("dangling.tif", lambda path: path.symlink_to("elsewhere.tif"),
        message="not there.*dvc pull", special=True),
]  # fmt: skip
CASES = {
    case.name: case for case in [*USUAL, *DEEP, *COLOURS, *TURNED_FILES, *PAGES, *DAMAGED, *HOSTILE]
}
