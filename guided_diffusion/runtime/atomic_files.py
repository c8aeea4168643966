"""Files that are there whole or not at all: written beside, fsynced, then renamed."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from numpy.lib.format import open_memmap

from ..errors import ArgumentError, UserError
from . import dist_util


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a file that replaces `path` when the block ends well, and vanishes when it does not."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(
            partial, mode, encoding=encoding, newline=None if encoding is None else ""
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_if_changed(path: Path, content: bytes) -> None:
    """Write a file whole, unless it holds just that already."""
    if not path.exists() or path.read_bytes() != content:
        with atomic_write(path) as file:
            file.write(content)


def reserve(file: IO, size: int, elsewhere: str = "") -> IO:
    """Give an empty file its size on the disk, so that mapping it into memory cannot fail later.

    Args:
        file: open for writing.
        size: bytes.
        elsewhere: how to have the file on another disk.

    Raises:
        UserError: if the disk has no room for it.
    """
    try:
        # A sparse file on a full disk ends the process with a bus error.
        (getattr(os, "posix_fallocate", None) or _grow)(file.fileno(), 0, size)
    except OSError as error:
        raise UserError(
            f"{size / 1e9:.2f} GB of disk are needed ({error.strerror}); make room{elsewhere}"
        ) from None
    return file


def create_array(path: Path, dtype: Any, shape: Sequence[int]) -> None:
    """Create an .npy file of zeros, which is there at its full size or not at all.

    Args:
        path: the file.
        dtype: of the array.
        shape: of the array.

    Raises:
        UserError: if the disk has no room for it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        open_memmap(partial, "w+", dtype=dtype, shape=tuple(shape))
        with open(partial, "r+b") as file:
            reserve(file, partial.stat().st_size)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _grow(descriptor: int, offset: int, size: int) -> None:
    os.ftruncate(descriptor, offset + size)


def make_folder(folder: Path) -> None:
    """Make a folder to write to where there is none, once for all ranks.

    Raises:
        UserError: if nothing can be written there.
    """
    dist_util.once(lambda: _make(folder))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"expected a folder to write to, got {folder} ({error.strerror})") from None


def refuse_unwritable(out: str, replacing: bool = True) -> None:
    """Stop if the file of `--out` could not be written at the end; leaves nothing behind.

    Args:
        out: the file; empty: none.
        replacing: it will be written beside and renamed; else appended to, if it is there.

    Raises:
        UserError: naming the flag.
    """
    path = Path(out)
    try:
        if out and path.exists():
            open(path, "ab").close()
        if out and (replacing or not path.exists()):
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ArgumentError(
            "out",
            f"expected a file in a folder that can be written to, got {out!r} ({error.strerror})",
        ) from None
