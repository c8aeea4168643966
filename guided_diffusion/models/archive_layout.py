"""The bytes between the entries of a .pt archive, which no checksum covers.

torch writes a zip archive without compression, one entry after another, each with padding in front
and a data descriptor behind. All of these bytes follow from the names, sizes and checksums of the
entries, so that a change of any of them can be told.
"""

import io
import struct
import zipfile

PADDING, FLAGS = b"FB", 0x0808
ZIP64 = 0xFFFFFFFF  # sizes from here on stand elsewhere; such archives are not judged


def is_as_written(content: bytes) -> bool:
    """Return whether all bytes of an archive outside of its entries are as torch writes them."""
    entries = zipfile.ZipFile(io.BytesIO(content)).infolist()
    if len(content) >= ZIP64 or len(entries) >= 0xFFFF or not any(e.CRC for e in entries):
        return False
    place, directory = 0, b""
    for entry in entries:
        name, size = entry.filename.encode(), entry.file_size
        sizes = struct.pack("<3L", entry.CRC, size, size)
        header = b"PK\3\4" + struct.pack("<5H3L", 0, FLAGS, 0, 0, 0, 0, 0, 0)
        header += struct.pack("<H", len(name))
        start = place + len(header) + 2 + len(name)
        padding = PADDING + content[start + 2 : start + 4]
        length = int.from_bytes(padding[2:], "little")
        padding += b"Z" * length
        header += struct.pack("<H", len(padding)) + name + padding
        end = place + len(header) + size
        descriptor = b"PK\7\10" + sizes
        if content[place : place + len(header)] != header:
            return False
        if content[end : end + len(descriptor)] != descriptor:
            return False
        directory += b"PK\1\2" + struct.pack("<6H", 0, 0, FLAGS, 0, 0, 0) + sizes
        directory += struct.pack("<5H2L", len(name), 0, 0, 0, 0, 0, place) + name
        place = end + len(descriptor)
    return content[place:] == directory + _end(len(entries), len(directory), place)


def _end(entries: int, length: int, start: int) -> bytes:
    end64 = struct.pack("<Q2H2L4Q", 44, 0x031E, 0x2D, 0, 0, entries, entries, length, start)
    locator = struct.pack("<LQL", 0, start + length, 1)
    end = struct.pack("<4H2LH", 0, 0, entries, entries, length, start, 0)
    return b"PK\6\6" + end64 + b"PK\6\7" + locator + b"PK\5\6" + end
