"""What every write passes: it stays inside the run's folder, and a failure names its file.

A command names the folders that it writes to (`keep_inside`). Below them, no file or folder may be
a link that leads out, so that nothing of others is changed. Errors of the system keep their type;
they get the file, if they have none, and `described` tells them in one line.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ..errors import UserError
from .input_files import kind_of

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", -1), errno.EFBIG}
STDOUT = "standard output"
_IN_THE_WAY = {errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}

# What is called before a write into each folder that the command named, by the folder's path.
_folders: dict[Path, list[Callable[[], None]]] = {}
_asking = False  # inside such a call, which may write itself


def keep_inside(folder: Path, *before: Callable[[], None]) -> None:
    """Let no write below a folder follow a link that leads out of it, until `forget_all_but`.

    Args:
        folder: folder that the command writes to, which may be a link itself.
        *before: functions to call before each write, as one that raises a `UserError` if the folder
            is not the command's any more.
    """
    _folders.setdefault(Path(os.path.abspath(folder)), []).extend(before)


def folders() -> set[Path]:
    """Return the folders that were named."""
    return set(_folders)


def forget_all_but(kept: Collection[Path]) -> None:
    """Forget the folders that were named, some excepted."""
    for folder in _folders.keys() - kept:
        del _folders[folder]


@contextlib.contextmanager
def writing(path: str | os.PathLike, *hidden: str | os.PathLike) -> Iterator[None]:
    """Check a path before something is written there, and name it in what fails in the block.

    Args:
        path: path of a file or folder.
        *hidden: paths that mean the same file to a user, as its temporary name.

    Raises:
        UserError: if the path leads out of the run's folder, or is neither file nor folder.
        OSError: as raised inside the block, with the path as `filename`.
        MemoryError: as raised inside the block, with the path before its text.
    """
    _refuse_way_out(Path(os.path.abspath(path)))
    with named(path, *hidden):
        yield


@contextlib.contextmanager
def named(path: str | os.PathLike, *hidden: str | os.PathLike) -> Iterator[None]:
    """Give errors of the system inside the block the file that they lack; see `writing`."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{path}: {error}") from None
    except OSError as error:
        if error.errno is None:  # numpy and Pillow report some failures as text alone
            raise OSError(errno.EIO, str(error) or os.strerror(errno.EIO), str(path)) from error
        if error.filename is None or str(error.filename) in map(str, hidden):
            error.filename, error.filename2 = str(path), None
        raise


def _refuse_way_out(path: Path) -> None:
    for folder, before in _folders.items():
        if path == folder or folder in path.parents:
            _call(before)
            inside, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
            if not real.is_relative_to(inside):
                raise UserError(
                    f"{path}: leads out of the run's folder, to {real}, and would be written "
                    "there; remove the link, or name that place in --out_dir"
                )
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing there, or what opening it reports
        return
    if (kind := kind_of(mode)) and not stat.S_ISDIR(mode):
        raise UserError(f"{path}: expected a file, got {kind}")


def _call(functions: list[Callable[[], None]]) -> None:
    global _asking
    if not _asking:
        _asking = True
        try:
            for function in functions:
                function()
        finally:
            _asking = False


def described(error: OSError) -> str:
    """Tell a failure of the system in one line: the file, what happened, what to do."""
    text = error.strerror or str(error)
    if not error.filename:
        no_place = error.errno == errno.ENOENT and "temporary directory" in text
        advice = "; make room in one of them, or let TMPDIR name another folder"
        return text + advice * no_place
    place = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
    if place == STDOUT:
        return f"{place}: {text}"
    if error.errno == errno.EFBIG:
        return f"{place}: {text} (raise the limit on the size of a file: ulimit -f, or of the disk)"
    if error.errno in FULL:
        return f"{place}: {text} ({room(Path(place))}); make room, and give the same command again"
    if error.errno in _CLOSED:
        return f"{place}: {text}; change the permissions, or choose another place"
    if error.errno in _IN_THE_WAY:
        return f"{place}: {text}; what lies there is of another kind, move it away"
    if error.errno == errno.ENAMETOOLONG:
        return f"{place}: {text}; choose a shorter one"
    if error.errno == errno.EIO:
        return f"{place}: {text} (the disk or its connection fails; {room(Path(place))})"
    return f"{place}: {text}"


def room(path: Path) -> str:
    """Return what is free on the disk of a path, in words."""
    for folder in (path, *Path(os.path.abspath(path)).parents):
        with contextlib.suppress(OSError):
            bytes_free = shutil.disk_usage(folder).free
            unit, size = ("GB", 1e9) if bytes_free >= 1e9 else ("MB", 1e6)
            free = f"{bytes_free / size:.1f} {unit} are free"
            if hasattr(os, "statvfs"):
                disk = os.statvfs(folder)
                if disk.f_files and not disk.f_favail:
                    return f"{free}, but no file can be added"
            return free
    return "unknown room"
