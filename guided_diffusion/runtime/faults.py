"""Faults on purpose, for tests: a point of the program where it is killed or a call fails.

The environment variable GUIDED_DIFFUSION_FAULT holds POINT:NTH:KIND. At the NTH time (from 1) that
the program comes to POINT, it kills itself (KIND `kill`), lacks memory (`MemoryError`), or fails as
a system call does (a name of `errno`, such as ENOSPC). POINT `any` counts all points together, and
a POINT that ends in a dot counts all that begin so. Points lie where every write and read passes:

    write.open, write.data, write.sync, write.replace, write.done   `atomic_files.atomic_write`
    array.create, array.replace, array.store, array.finish          arrays on disk
    append.row, log.write                                           rows and lines added to a file
    read.file                                                       checkpoints and images
    train.step, sequence.done, batch.done                           between two pieces of work
"""

import errno
import os
import signal
from dataclasses import dataclass

from ..errors import UserError

VARIABLE = "GUIDED_DIFFUSION_FAULT"
ANY, KILL, MEMORY = "any", "kill", "MemoryError"


@dataclass
class Fault:
    """What is to happen, and how often the program has come to the point.

    Attributes:
        point: name of the point, or a beginning of names, or `ANY`.
        nth: number of the visit at which it happens, from 1.
        kind: what happens.
        visits: number of visits so far.
    """

    point: str
    nth: int
    kind: str
    visits: int = 0

    @classmethod
    def read(cls, text: str) -> "Fault":
        """Read POINT:NTH:KIND.

        Raises:
            UserError: if the text is not of this form.
        """
        point, _, rest = text.partition(":")
        nth, _, kind = rest.partition(":")
        known = kind in (KILL, MEMORY) or isinstance(getattr(errno, kind, None), int)
        if not (point and nth.isdecimal() and int(nth) and known):
            expected = (
                f"expected POINT:NTH:KIND with KIND {KILL}, {MEMORY} or a name such as ENOSPC"
            )
            raise UserError(f"{VARIABLE}: {expected}, got {text!r}")
        return cls(point, int(nth), kind)

    def visit(self, name: str) -> None:
        """Come to a point; do what is asked if this is the visit."""
        if self.point not in (name, ANY) and not (
            self.point.endswith(".") and name.startswith(self.point)
        ):
            return
        self.visits += 1
        if self.visits != self.nth:
            return
        if self.kind == KILL:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        if self.kind == MEMORY:
            raise MemoryError(f"asked for by {VARIABLE}")
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number))


planned: Fault | None = None
_read = False


def point(name: str) -> None:
    """Mark a point of the program at which a fault can be asked for; see the module."""
    global planned, _read
    if not _read:
        _read = True
        planned = Fault.read(text) if (text := os.environ.get(VARIABLE)) else None
    if planned is not None:
        planned.visit(name)


def plan(fault: Fault | None) -> None:
    """Ask for a fault in this process, whatever the environment says; None: for none."""
    global planned, _read
    planned, _read = fault, True
