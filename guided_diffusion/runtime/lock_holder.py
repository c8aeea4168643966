"""The process that holds the lock of a run folder: what its file tells, whether it still runs."""

import contextlib
import dataclasses
import json
import os
import platform
import secrets
import stat
import time
from pathlib import Path
from typing import IO

from ..errors import UserError
from .writing import named

_LONGEST = 10_000  # bytes of a lock file that are read
_SHOWN = 300  # letters of a description at most


def read_lock(path: Path) -> bytes:
    """Return the content of a lock file.

    Raises:
        UserError: if it is not a file, but a link, a pipe or a folder.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise UserError(f"{path}: expected a lock file of a run, got something else; remove it")
    with named(path), open(path, "rb") as file:
        return file.read(_LONGEST)


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
        text = f"{self.command} on {self.host}, process {self.pid}, since {self.since}"
        return "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])


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
    if os.name != "posix":  # elsewhere this is no question, but a signal
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OverflowError:  # no number of a process
        return True
    except OSError:  # the process of another user
        pass
    return False


def system_lock(file: IO | int, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed; False: another has it, None: there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def is_alive(path: Path) -> bool | None:
    """Tell whether the run that holds a lock file still runs; None: its file's age has to tell."""
    with contextlib.suppress(OSError):
        holder = Holder.read(read_lock(path))
        same = holder.machine == _machine()
        with open(path, "rb") as file:
            free = system_lock(file, shared=True)
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
