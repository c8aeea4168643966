"""Standard streams that outlive their reader, and that are there even if they were closed.

A terminal may close and a pager may end while a program runs. What is written after that goes
nowhere, and the work goes on: it has a log of its own. Other faults of a stream, as a full disk
behind it, stay errors.
"""

import errno
import io
import os
import sys

GONE = (errno.EPIPE, errno.EIO)  # no reader; no terminal


class _Stream(io.FileIO):
    """A file descriptor that takes what nobody can read any more."""

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return len(data)


def secure() -> None:
    """Make stdin, stdout and stderr last, whatever was done to them."""
    # A file opened later must not take the number of a standard stream that was closed.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        _secure(name, number)


def _secure(name: str, number: int) -> None:
    before = getattr(sys, name)
    if before is not getattr(sys, f"__{name}__"):
        return  # a program that runs this one has put another stream there
    encoding = before.encoding if before else "utf-8"
    errors = before.errors if before else "backslashreplace"
    at_once = bool(before and before.write_through)  # python -u
    if before:
        before.flush()
    raw = _Stream(number, "w", closefd=False)
    stream = io.TextIOWrapper(
        raw if at_once else io.BufferedWriter(raw),  # type: ignore[arg-type]
        encoding=encoding,
        errors=errors,
        line_buffering=name == "stderr" or raw.isatty(),
        write_through=at_once,
    )
    setattr(sys, name, stream)
