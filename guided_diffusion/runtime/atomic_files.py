"""Files that appear whole or not at all: written to a temporary name, fsynced, then renamed."""

import contextlib
import errno
import glob
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from ..errors import ArgumentError, UserError, blame
from . import faults
from .lock_holder import system_lock
from .unfinished_files import KEPT, is_partial, partial_of
from .writing import FULL, described, room, writing

_BLOCK = 2**20


def remove_partial(path: Path) -> None:
    """Remove a temporary file that a killed run left, unless a living process writes to it."""
    with contextlib.suppress(OSError):  # another process may be removing it
        if not stat.S_ISREG(os.lstat(path).st_mode):  # none of ours
            return
        with open(path, "rb") as file:
            if system_lock(file) is False:
                return
        path.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove what killed runs left that were writing this file, where it lies in no run folder."""
    for found in path.parent.glob(f".{glob.escape(path.name[:KEPT])}.*.partial"):
        if is_partial(found.name):
            remove_partial(found)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a file that replaces `path` when the block ends well, and vanishes when it does not.

    Raises:
        UserError: if the path leads out of the run's folder.
        OSError: if it cannot be written, with the path as `filename`.
    """
    path = Path(path)
    partial = partial_of(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with writing(path, partial):
        try:
            faults.point("write.open")
            with open(partial, mode, **text) as file:
                system_lock(file)  # until it is closed, for `remove_partial` of another process
                yield file
                faults.point("write.data")
                file.flush()
                faults.point("write.sync")
                os.fsync(file.fileno())
            faults.point("write.replace")
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):  # what failed first is what a user should read
                partial.unlink(missing_ok=True)
        faults.point("write.done")


def write_if_changed(path: Path, content: bytes) -> None:
    """Write a file whole, unless it holds the same bytes already."""
    with writing(path):
        same = path.exists() and path.read_bytes() == content
    if not same:
        with atomic_write(path) as file:
            file.write(content)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[IO]:
    """Open a file of bytes to read and to add to its end; on disk when the block ends well.

    Raises:
        UserError: if the path leads out of the run's folder.
        OSError: if it cannot be written, with the path as `filename`.
    """
    with writing(path), open(path, "a+b") as file:
        yield file
        faults.point("append.row")
        file.flush()
        os.fsync(file.fileno())


def reserve(file: IO, size: int, elsewhere: str = "", path: Path | None = None) -> IO:
    """Give a new file its size on the disk, so that mapping it into memory cannot fail later.

    Args:
        file: file that is open for writing.
        size: size in bytes.
        elsewhere: end of the error message, advice on how to use another disk.
        path: path of the file in the error message; None: a nameless file for temporary data.

    Raises:
        UserError: if the disk has no room for it.
    """
    try:
        faults.point("array.create")
        _allocate(file, size)
    except OSError as error:
        place = path or Path(tempfile.gettempdir())
        raise UserError(
            f"{size / 1e9:.2f} GB of disk are needed for {place} ({error.strerror}, "
            f"{room(place)}); make room{elsewhere}"
        ) from None
    return file


def _allocate(file: IO, size: int) -> None:
    # A sparse file on a full disk ends the process with a bus error.
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
    for start in range(file.seek(0, os.SEEK_END), size, _BLOCK):
        file.write(bytes(min(_BLOCK, size - start)))
    file.flush()


def create_array(path: Path, dtype: Any, shape: Sequence[int]) -> None:
    """Create an .npy file of zeros, which appears at its full size or not at all.

    Raises:
        UserError: if the disk has no room for it.
    """
    partial, size = partial_of(path), math.prod(shape) * np.dtype(dtype).itemsize
    with writing(path, partial):
        disk = shutil.disk_usage(path.parent)
        if size > disk.free and disk.total:  # also sizes that no system call takes
            needed = f"{size / 1e9:.2f} GB of disk are needed for {path}"
            raise UserError(f"{needed}, {disk.free / 1e9:.2f} GB are free; make room")
        try:
            with open(partial, "w+b") as file:
                system_lock(file)
                descr = npy.dtype_to_descr(np.dtype(dtype))
                about = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
                npy.write_array_header_1_0(file, about)
                reserve(file, file.tell() + size, path=path)
                file.flush()
                os.fsync(file.fileno())
            faults.point("array.replace")
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Name an array in what fails while something is stored in it.

    Raises:
        UserError: if the path leads out of the run's folder.
        OSError: if it cannot be written, with the path as `filename`.
    """
    with writing(path):
        yield
        faults.point("array.store")


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, and check that it can be written to, on rank 0 for all.

    Raises:
        UserError: if nothing can be written there.
    """

    def make() -> None:
        try:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            problem = f"expected a folder to write to, got {folder} ({error.strerror})"
            if error.errno in FULL:
                problem = described(error)
            raise UserError(problem) from None

    from . import dist_util  # the log opens files too, and needs no torch

    dist_util.once(make)


def make_subfolder(folder: Path) -> None:
    """Make a folder inside the run's folder, where there is none, on the rank that calls.

    Raises:
        UserError: if the path leads out of the run's folder.
        OSError: if it cannot be made, with the path as `filename`.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def refuse_unwritable(out: str, replacing: bool = True) -> None:
    """Refuse a file for `--out` that could not be written at the end; leave no file behind.

    What a killed run left that was writing it is removed.

    Args:
        out: path of the file; empty: no file.
        replacing: whether `atomic_write` will write it; otherwise an existing file is appended to.

    Raises:
        UserError: if it could not be written.
    """
    path = Path(out)
    try:
        if out and path.exists():
            with blame("out"), writing(path):
                open(path, "ab").close()
        if out and (replacing or not path.exists()):
            tempfile.TemporaryFile(dir=path.parent).close()
            remove_leftovers(path)
    except OSError as error:
        problem = "expected a file in a folder that can be written to"
        raise ArgumentError("out", f"{problem}, got {out!r} ({error.strerror})") from None
