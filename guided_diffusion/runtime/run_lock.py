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
import dataclasses
import errno
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ..errors import ArgumentError, UserError
from . import atomic_files, dist_util, logger, writing

NAME = ".guided-diffusion.lock"
BEAT = 20.0  # seconds between signs of life
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
SILENCE = 120.0  # seconds without one after which a run counts as ended


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as its file tells.

    Attributes:
        command: name of the command.
        host: name of the machine.
        pid: number of the process.
        since: date and time at which it took the lock.
        machine: what tells this start of this machine from others.
        numbers: what tells the process numbers of one container from others.
        start: start of the process, in ticks of the machine; "" if unknown.
        system: whether it also holds a lock of the system on the file.
        token: random text of this lock alone.
    """

    command: str = "a run"
    host: str = "an unknown host"
    pid: int = 0
    since: str = "an unknown time"
    machine: str = ""
    numbers: str = ""
    start: str = ""
    system: bool = False
    token: str = ""

    @classmethod
    def here(cls, command: str, system: bool) -> "Holder":
        """Describe this process."""
        now, own = time.strftime("%Y-%m-%d %H:%M:%S"), (_machine(), _numbers(), _start(os.getpid()))
        return cls(command, platform.node(), os.getpid(), now, *own, system, secrets.token_hex(8))

    @classmethod
    def read(cls, content: bytes) -> "Holder":
        """Read a lock file; what it does not tell is unknown."""
        try:
            found = json.loads(content)
            known = {field.name: type(field.default) for field in dataclasses.fields(cls)}
            return cls(**{n: v for n, v in found.items() if isinstance(v, known.get(n, ()))})
        except (ValueError, AttributeError, RecursionError):
            return cls()

    def content(self) -> bytes:
        """Return the content of its lock file."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"

    def __str__(self) -> str:
        return f"{self.command} on {self.host}, process {self.pid}, since {self.since}"


def _first_line(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return ""


def _machine() -> str:
    return _first_line("/proc/sys/kernel/random/boot_id") or platform.node()


def _numbers() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _start(pid: int) -> str:
    # Fields 3 (state) and 22 (start) of a line whose field 2, a name in brackets, may hold both.
    fields = _first_line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def _ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # the process of another user
        pass
    return False


def _system_lock(file: IO | int, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed; False: another has it, None: there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


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
                    beat, content = self.path.stat().st_mtime, self.path.read_bytes()
                except FileNotFoundError:
                    continue
                alive = is_alive(self.path)
                if alive:
                    raise refusal(self.path)
                if alive is None and max(self._now - beat, watched) <= SILENCE:
                    return beat
                self._remove(content)
        return None

    def _make(self) -> bool:
        # False: the lock is there already.
        partial = atomic_files.partial_of(self.path)
        try:
            self._create(partial)
            os.link(partial, self.path)
        except FileExistsError:  # or the answer to a link that was made was lost on its way
            return os.fstat(self._file.fileno()).st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with contextlib.suppress(FileExistsError):
                self._create(self.path)
                return True
            return False
        finally:
            partial.unlink(missing_ok=True)
        return True

    def _create(self, path: Path) -> None:
        with writing.writing(self.path, path):
            self._file = open(path, "x+b")
            self._content = Holder.here(self.command, bool(_system_lock(self._file))).content()
            self._file.write(self._content)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._now = os.fstat(self._file.fileno()).st_mtime  # by the clock of the disk

    def _remove(self, content: bytes) -> None:
        # Looked at again under another name: a quicker run may have put its own lock there.
        aside = atomic_files.partial_of(self.path)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, aside)
            if aside.read_bytes() != content:
                with contextlib.suppress(OSError):
                    os.link(aside, self.path)
            aside.unlink()

    def _keep(self) -> None:
        while not self._end.wait(BEAT):
            with contextlib.suppress(OSError):  # a sign of life may fail; the next one counts
                try:
                    found = self.path.read_bytes()
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
            if self.path.read_bytes() == self._content:
                self.path.unlink()
        self._file.close()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    # One look at a time among the processes of a machine, where the system can lock folders.
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            place = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, place)
            for _ in range(100):
                if _system_lock(place) is not False:
                    break
                time.sleep(0.02)
        yield


def is_alive(path: Path) -> bool | None:
    """Tell whether the run that holds a lock file still runs; None: its file's age has to tell."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        holder = Holder.read(file.read())
        same = holder.machine == _machine()
        free = _system_lock(file, shared=True)
        if free is False:
            return True
        if same and holder.system and free:
            return False
        if same and holder.numbers == _numbers():
            if _ended(holder.pid):
                return False
            if holder.start:
                return _start(holder.pid) == holder.start
    return None


def refusal(path: Path) -> ArgumentError:
    """Return the error that a folder is in use, by the lock file at a path."""
    holder = Holder()
    with contextlib.suppress(OSError):
        holder = Holder.read(path.read_bytes())
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
