"""PNG files that carry their provenance as text, and a seal that tells whether they are unchanged.

The seal is the text chunk `crc32` at the end of the file: the CRC-32 of all bytes before it. It is
checked without decoding the pixels, at about the speed of reading the file. Other programs read the
file as any PNG; what they save again has lost the seal.

Reference: PNG specification (ISO/IEC 15948), sections 5.3 "chunk layout" and 11.3.3 "tEXt".
"""

import io
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import UserError
from ..runtime import atomic_files, input_files
from .pictures import to_picture

SEAL = "crc32"  # keyword of the seal
_END = bytes.fromhex("0000000049454e44ae426082")  # the chunk IEND


def save(path: Path, tile: np.ndarray, text: Mapping[str, str]) -> None:
    """Save a tile [H, W, C] uint8 with text and seal; the file appears whole or not at all."""
    info, content = PngInfo(), io.BytesIO()
    for key, value in text.items():
        info.add_text(_keyword(key), value)
    to_picture(tile).save(content, "png", pnginfo=info)
    body = content.getvalue().removesuffix(_END)
    with atomic_files.atomic_write(path) as file:
        file.write(body + _seal(body) + _END)


def _keyword(key: str) -> str:
    # A PNG keyword is Latin-1; a value may be any text.
    return key.encode("latin-1", "backslashreplace").decode("latin-1")


def _seal(body: bytes) -> bytes:
    chunk = b"tEXt" + SEAL.encode() + b"\0%08x" % zlib.crc32(body)
    return (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")


def is_whole(path: Path, text: Mapping[str, str], *, plain: bool = False) -> bool:
    """Return whether a file is there, unchanged since `save`, and carries this text.

    Args:
        path: file of the picture.
        text: text that it was saved with.
        plain: whether a picture without a seal, as older versions saved it, counts too.
    """
    try:
        content = input_files.read_bytes(path)
        end = len(content) - len(_seal(b"") + _END)
        sealed = content[end:] == _seal(content[:end]) + _END if end > 0 else False
        if not sealed and not (plain and _is_plain(content)):
            return False
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            found = {key: picture.info.get(_keyword(key)) for key in text}
    except (UserError, OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError):
        return False
    return found == text


def _is_plain(content: bytes) -> bool:
    """Return whether all chunks of a PNG are whole, and nothing stands behind the pixels."""
    start, before, kind = 8, b"", b""  # behind the signature
    while kind != b"IEND":
        length = int.from_bytes(content[start : start + 4], "big")
        end = start + 12 + length
        chunk, check = content[start + 4 : end - 4], content[end - 4 : end]
        if end > len(content) or zlib.crc32(chunk).to_bytes(4, "big") != check:
            return False
        start, before, kind = end, kind, chunk[:4]
    return before == b"IDAT" and start == len(content)
