"""Files that appear whole or not at all: written to a temporary name, fsynced, then renamed."""

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
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(partial, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_if_changed(path: Path, content: bytes) -> None:
    """Write a file whole, unless it holds the same bytes already."""
    if not path.exists() or path.read_bytes() != content:
        with atomic_write(path) as file:
            file.write(content)


def reserve(file: IO, size: int, elsewhere: str = "") -> IO:
    """Give an empty file its size on the disk, so that mapping it into memory cannot fail later.

    Args:
        file: file that is open for writing.
        size: size in bytes.
        elsewhere: end of the error message, advice on how to use another disk.

    Raises:
        UserError: if the disk has no room for it.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            # A sparse file on a full disk ends the process with a bus error.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            os.ftruncate(file.fileno(), size)
    except OSError as error:
        raise UserError(
            f"{size / 1e9:.2f} GB of disk are needed ({error.strerror}); make room{elsewhere}"
        ) from None
    return file


def create_array(path: Path, dtype: Any, shape: Sequence[int]) -> None:
    """Create an .npy file of zeros, which appears at its full size or not at all.

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


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, and check that it can be written to, on rank 0 for all.

    Raises:
        UserError: if nothing can be written there.
    """

    def make() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            problem = f"expected a folder to write to, got {folder} ({error.strerror})"
            raise UserError(problem) from None

    dist_util.once(make)


def refuse_unwritable(out: str, replacing: bool = True) -> None:
    """Refuse a file for `--out` that could not be written at the end; leave no file behind.

    Args:
        out: path of the file; empty: no file.
        replacing: whether `atomic_write` will write it; otherwise an existing file is appended to.

    Raises:
        UserError: if it could not be written.
    """
    path = Path(out)
    try:
        if out and path.exists():
            open(path, "ab").close()
        if out and (replacing or not path.exists()):
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        problem = "expected a file in a folder that can be written to"
        raise ArgumentError("out", f"{problem}, got {out!r} ({error.strerror})") from None
