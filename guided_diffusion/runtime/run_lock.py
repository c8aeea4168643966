"""One run at a time in a folder: a lock file that says who holds it, and that a kill leaves stale.

The file `.guided-diffusion.lock` holds the host, the process and its start. It appears whole, by a
hard link, which of two processes just one can make, on network file systems too. A lock of another
run is stale, and is taken over, if that process has ended, which is known

- on the same machine by a lock of the system on the open file (flock), which ends with its
  process, else by the process's number and start;
- from another machine by the age of the file, whose time the holder renews every `BEAT` seconds.

A holder that finds another's lock in its place, since it was stopped for long, writes no more.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ArgumentError, UserError
from . import dist_util, logger, writing
from .lock_holder import Holder, is_alive, read_lock, system_lock
from .unfinished_files import partial_of

NAME = ".guided-diffusion.lock"
BEAT = 20.0  # seconds between signs of life
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
SILENCE = 120.0  # seconds without one after which a run counts as ended
DAMAGED = 30.0  # the same where the file names no run; a run whose lock was changed writes no more


class RunLock:
    """The lock of one folder.

    Args:
        folder: the folder, which exists.
        command: name of the command, for the messages of others.
    """

    def __init__(self, folder: Path, command: str) -> None:
        self.folder, self.path, self.command = folder, folder / NAME, command
        self._content, self._file, self._now = b"", None, 0.0
        self._thief, self._end = "", threading.Event()

    def take(self) -> None:
        """Take the lock, if need be from a process that has ended.

        Raises:
            UserError: if another run holds it.
        """
        first, started = None, time.monotonic()
        while (beat := self._attempt(time.monotonic() - started)) is not None:
            if first is None:
                first = beat
                logger.log(
                    f"{self.path}: waiting up to {SILENCE:.0f} s for a sign of life of its run"
                )
            elif beat != first:
                raise refusal(self.path)
            time.sleep(BEAT / 4)
        threading.Thread(target=self._keep, name="run lock", daemon=True).start()

    def _attempt(self, watched: float) -> float | None:
        # The last sign of life of a run that may have ended; None: the lock is taken.
        with _alone(self.folder):
            while not self._make():
                try:
                    content, beat = read_lock(self.path), self.path.stat().st_mtime
                except FileNotFoundError:
                    continue
                alive = is_alive(self.path)
                if alive:
                    raise refusal(self.path)
                patience = SILENCE if Holder.read(content).token else DAMAGED
                if alive is None and max(self._now - beat, watched) <= patience:
                    return beat
                self._remove(content)
        return None

    def _make(self) -> bool:
        # False: the lock is there already.
        if os.name != "posix":  # an open file cannot be removed there
            return self._create_alone()
        partial = partial_of(self.path)
        try:
            self._create(partial)
            os.link(partial, self.path)
        except FileExistsError:  # or the answer to a link that was made was lost on its way
            return os.fstat(self._file.fileno()).st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._create_alone()
        finally:
            partial.unlink(missing_ok=True)
        return True

    def _create_alone(self) -> bool:
        with contextlib.suppress(FileExistsError):
            self._create(self.path)
            return True
        return False

    def _create(self, path: Path) -> None:
        with writing.named(self.path, path):
            self._file = open(path, "x+b")
            self._content = Holder.here(self.command, bool(system_lock(self._file))).content()
            self._file.write(self._content)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._now = os.fstat(self._file.fileno()).st_mtime  # by the clock of the disk

    def _remove(self, content: bytes) -> None:
        # Looked at again under another name: a quicker run may have put its own lock there.
        aside = partial_of(self.path)
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rename(self.path, aside)
            except PermissionError:  # some systems let nobody rename what is open
                raise refusal(self.path) from None
            if read_lock(aside) != content:
                with contextlib.suppress(OSError):
                    os.link(aside, self.path)
            aside.unlink()

    def _keep(self) -> None:
        while not self._end.wait(BEAT):
            with contextlib.suppress(OSError):  # a sign of life may fail; the next one counts
                try:
                    found = read_lock(self.path)
                except FileNotFoundError:
                    self._make()
                    continue
                if found != self._content:
                    self._thief = str(Holder.read(found))
                    return
                os.utime(self.path)

    def ask(self) -> None:
        """Refuse to write on if another run has taken the folder.

        Raises:
            UserError: naming the other run.
        """
        if self._thief:
            raise UserError(
                f"{self.folder}: this run was stopped for so long that {self._thief}, has taken "
                "its folder; when that one has ended, the same command again goes on"
            )

    def let_go(self) -> None:
        """Remove the lock, if it is still this process's."""
        self._end.set()
        with contextlib.suppress(OSError):
            own = read_lock(self.path) == self._content
            self._file.close()
            if own:
                self.path.unlink()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    # One look at a time among the processes of a machine, where the system can lock folders.
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            place = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, place)
            for _ in range(100):
                if system_lock(place) is not False:
                    break
                time.sleep(0.02)
        yield


def refusal(path: Path) -> ArgumentError:
    """Return the error that a folder is in use, by the lock file at a path."""
    holder = Holder()
    with contextlib.suppress(OSError):
        holder = Holder.read(read_lock(path))
    return ArgumentError(
        "out_dir",
        f"{path.parent} is in use by {holder}; wait for it, or choose another folder (if no such "
        f"run exists any more, remove {path})",
    )


def refuse_running(folder: Path) -> None:
    """Refuse a folder in which another run is known to be at work; writes nothing.

    Raises:
        UserError: naming the other run.
    """
    if os.path.realpath(folder) not in _held and is_alive(folder / NAME):
        raise refusal(folder / NAME)


_held: dict[str, RunLock] = {}  # by the real path of the folder
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.clear)  # a child holds nothing of its parent's
_scopes = 0  # commands that run in this process, one inside the other


def hold(folder: Path, command: str) -> None:
    """Let no other run into a folder until the command ends; on all ranks, which hold it together.

    Code that runs in no command locks nothing, as it has no end at which to let go.

    Raises:
        UserError: if another run is at work in the folder.
    """
    writing.keep_inside(folder)

    def take() -> None:
        key = os.path.realpath(folder)
        if not _scopes or key in _held:
            return
        lock = RunLock(Path(os.path.abspath(folder)), command)
        try:
            lock.take()
        except OSError as error:
            raise UserError(writing.described(error)) from None
        _held[key] = lock
        writing.keep_inside(folder, lock.ask)

    dist_util.once(take)


def before_writes(folder: Path, function: Callable[[], None]) -> None:
    """Have a function called before each write into a folder, until the command ends."""
    if _scopes:
        writing.keep_inside(folder, function)


@contextlib.contextmanager
def scope() -> Iterator[None]:
    """Let go at the end of a block of the folders that were taken inside."""
    global _scopes
    before, folders = set(_held), writing.folders()
    _scopes += 1
    try:
        yield
    finally:
        _scopes -= 1
        for key in _held.keys() - before:
            _held.pop(key).let_go()
        writing.forget_all_but(folders)
