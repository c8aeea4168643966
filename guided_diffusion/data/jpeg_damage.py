"""Damage in the middle of a JPEG, which libjpeg decodes to wrong pixels without a word to Pillow.

After a wrong bit the decoder is out of step: it ends before the bytes of the pixels do, or misses
some at the end. Both show in the pixels of changed copies. A sound file must not change when bytes
are put behind its pixels, since nobody asks for them, and must change when its last bytes do. Wrong
bits after which the decoder is in step again, by chance, cannot be found: about half of single
wrong bytes, nearly none of wrong blocks of the disk.

Reference: ITU-T T.81, sections B.1.1 and F.2.
"""

import io
import os
from collections.abc import Iterator
from typing import IO

from PIL import Image

FILLING, START_OF_SCAN, END, STUFFED = 0xFF, 0xDA, 0xD9, 0x00
RESTARTS = range(0xD0, 0xD8)
# Markers that may follow the pixels of a scan: tables, comments, another scan, the end.
KNOWN = {0xC4, START_OF_SCAN, END, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
FOREIGN = bytes.fromhex("55aa337e91c60f5d") * 8  # bytes put behind the pixels
CHANGED = 8  # bytes at the end of a scan that are replaced
VARIED = 32  # bytes before them, which in a picture of anything are mostly different
PATTERNS = (0x55, 0xAA, 0x3C)
MOST_KNOWN_SOUND = 2**20
EIGHTH = 8
DAMAGED = (
    "damaged pixels (the decoder is out of step at their end); save it anew, or leave it out by "
    "--exclude"
)

_sound: dict[tuple[int, ...], None] = {}  # files looked at before, by device, number, size and time


def refuse_damage(file: IO[bytes]) -> None:
    """Raise a `ValueError` if the pixels of a JPEG are damaged, as far as can be told.

    A file is looked at once per process, since that takes as long as decoding it.
    """
    place = _identity(file)
    if place not in _sound:
        file.seek(0)
        content = file.read()
        file.seek(0)
        if _is_damaged(content):
            raise ValueError(DAMAGED)
        if place and len(_sound) < MOST_KNOWN_SOUND:
            _sound[place] = None


def _identity(file: IO[bytes]) -> tuple[int, ...]:
    try:
        about = os.fstat(file.fileno())
    except (OSError, AttributeError):
        return ()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _is_damaged(content: bytes) -> bool:
    runs = list(_runs_of_pixels(content))
    if not runs or content[runs[-1][1] + 1 : runs[-1][1] + 2] != bytes([END]):
        raise ValueError("pixels that are cut off or damaged (no end)")
    longer, place = [], 0
    for _, end in runs:
        longer += [content[place:end], FOREIGN]
        place = end
    small = _pixels(content, EIGHTH)
    if _pixels(b"".join([*longer, content[place:]]), EIGHTH) != small:
        return True
    # A restart brings the decoder in step again, so that only the last run can be judged.
    scans = [(start, end) for start, end in runs if content[end + 1] not in RESTARTS]
    return any(
        _has_rest(content, end, small) for start, end in scans if end - start > CHANGED + VARIED
    )


def _runs_of_pixels(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of pixels, which a restart, a table or the end follows."""
    place, last = 2, len(content) - 3
    while place < last and content[place] == FILLING:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == END:
            return
        place += 1 if marker == FILLING else 2 + length
        if marker == START_OF_SCAN:
            for run in _runs_of_scan(content, place):
                yield run
                place = run[1]


def _runs_of_scan(content: bytes, start: int) -> Iterator[tuple[int, int]]:
    place, restarts = start, 0
    while 0 <= (place := content.find(FILLING, place)) < len(content) - 1:
        follows = content[place + 1]
        if follows in KNOWN:
            yield start, place
            return
        if follows in RESTARTS:
            if follows != RESTARTS[restarts % len(RESTARTS)]:
                raise ValueError(DAMAGED)
            yield start, place
            start, restarts = place + 2, restarts + 1
        elif follows not in (STUFFED, FILLING):
            raise ValueError(f"damaged pixels (marker {follows:02x} among them)")
        place += 1 if follows == FILLING else 2


def _has_rest(content: bytes, end: int, small: bytes) -> bool:
    """Return whether the last bytes of a scan are in no pixel, and are no filling either."""
    last = content[end - CHANGED : end]
    if len(set(content[end - CHANGED - VARIED : end])) < VARIED / 2:
        return False  # of one colour, where other bytes can mean the same
    copies = [
        content[: end - CHANGED] + _replaced(last, pattern) + content[end:] for pattern in PATTERNS
    ]
    # An eighth of the size is soon decoded, and decides for most sound files.
    if any(_pixels(copy, EIGHTH) != small for copy in copies):
        return False
    whole = _pixels(content, 1)
    return all(_pixels(copy, 1) == whole for copy in copies)


def _replaced(last: bytes, pattern: int) -> bytes:
    # No 0xff may arise, which would be a marker, and a stuffed byte loses its meaning.
    return bytes((byte ^ pattern) % 255 for byte in last)


def _pixels(content: bytes, smaller: int) -> bytes:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            image.draft(None, (image.width // smaller or 1, image.height // smaller or 1))
            return image.tobytes()
    except (OSError, SyntaxError, ValueError):
        return b""
