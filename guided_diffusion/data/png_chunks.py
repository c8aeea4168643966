"""The chunks of a PNG: checksums of its pixels, and metadata that may turn it.

Pillow does not compare the checksums of pixels, and decodes a whole image to look for metadata
behind its pixels.

Reference: ISO/IEC 15948:2004, "Portable Network Graphics", section 5.3.
"""

import zlib
from collections.abc import Iterator
from typing import IO

HEADER, PALETTE, PIXELS, LAST = b"IHDR", b"PLTE", b"IDAT", b"IEND"
INDEXED = b"\3"  # the colour type, byte 9 of the header, of pixels that are numbers of colours
SIGNATURE = 8  # bytes before the first chunk
PIECE = 2**20
# Keywords of texts that can hold an orientation.
TURNING = (b"XML:com.adobe.xmp", b"Raw profile type exif")


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield type and length of each chunk; the file stands at the chunk's data then."""
    place = SIGNATURE
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[4:] == LAST:
            return
        length = int.from_bytes(head[:4], "big")
        yield head[4:], length
        place += 12 + length


def refuse_damage(file: IO[bytes]) -> None:
    """Raise a `ValueError` if the pixels of a PNG are not those that were written."""
    indexed = False
    for kind, length in _chunks(file):
        if kind == HEADER:
            indexed = file.read(10)[9:] == INDEXED
        indexed = indexed and kind != PALETTE
        if kind != PIXELS:
            continue
        if indexed:
            raise ValueError("pixels that are numbers of colours, without the colours")
        checksum, left = zlib.crc32(kind), length
        while left and (piece := file.read(min(left, PIECE))):
            checksum, left = zlib.crc32(piece, checksum), left - len(piece)
        stored = file.read(4)
        if len(stored) == 4 and int.from_bytes(stored, "big") != checksum:
            raise ValueError("damaged pixels (their checksum differs)")
    file.seek(0)


def may_be_turned(file: IO[bytes]) -> bool:
    """Return whether a PNG holds metadata that can say how it is turned."""
    try:
        return any(
            kind == b"eXIf" or (kind[1:] in (b"TXt", b"EXt") and file.read(25).startswith(TURNING))
            for kind, _ in _chunks(file)
        )
    finally:
        file.seek(0)
