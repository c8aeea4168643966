"""Requests to end: signals, and a limit of time.

Ctrl-C (SIGINT) and SIGTERM are orders. SIGHUP (a terminal that closes), SIGUSR1, SIGUSR2 and
SIGXCPU are warnings, which batch systems send some time before they kill. Where a system lacks one
of them, as Windows does, it is left out; a SIGHUP that is ignored at the start (`nohup`) stays so.

A program ends at once while it loads; by a `KeyboardInterrupt` inside `interrupting`; and when the
work at hand is saved inside `StopSignal`. Nothing here imports torch.
"""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import ArgumentError

ORDERS = ("SIGINT", "SIGTERM", "SIGBREAK")
WARNINGS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
INTERRUPTED = 130  # exit code, as in shells
LOADING = "interrupted before anything began; the same command again starts anew"
AT_ONCE = (
    "interrupted at once, without what was not yet saved; the same command again goes on from the "
    "last save"
)
BY_TIME, BY_SIGNAL = 1, 2  # reasons to stop
_LEAST_MARGIN, _LONGEST_MARGIN = 10.0, 60.0  # seconds kept for a save, and for leaving
_FORM = re.compile(r"(?:(\d{1,4})-)?(\d{1,5})(?::(\d{1,2}))?(?::(\d{1,2}))?")

Handler = Callable[[int, Any], None]


class Stopped(KeyboardInterrupt):
    """All ranks end together, as one was asked to, and what was done is saved."""


class TimeUp(Stopped):
    """All ranks end together, as the limit of time is near."""


def _numbers(names: tuple[str, ...]) -> list[int]:
    return [int(getattr(signal, name)) for name in names if hasattr(signal, name)]


def _install(handler: Any) -> dict[int, Any]:
    """Have all requests call a handler; return the handlers that were there before."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # only the main thread may, and only it is interrupted
    numbers = _numbers(ORDERS)
    numbers += [n for n in _numbers(WARNINGS) if signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


def _end_process(number: int, frame: Any) -> None:
    # An exception could come up anywhere in a foreign module, and be passed over there.
    with contextlib.suppress(OSError):
        os.write(2, f"{LOADING}\n".encode())
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Let requests raise `KeyboardInterrupt` inside the block."""
    before = _install(_interrupt)
    try:
        yield
    finally:
        _restore(before)


class StopSignal:
    """A record of requests to end, inside a `with` block.

    The first request is noted, so that the work at hand can be finished and saved. A second order
    changes nothing, as batch systems send theirs twice and people press Ctrl-C twice; a third one
    ends the process at once. Warnings may come any number of times: the system sends SIGXCPU every
    second. `asked` is true from the first request on.
    """

    def __init__(self) -> None:
        self.asked, self._orders = False, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        self._before = _install(self._note)
        if _limit is not None:
            _limit.last = None
        return self

    def _note(self, number: int, frame: Any) -> None:
        if number in _numbers(ORDERS):
            if self._orders == 2:
                raise KeyboardInterrupt(AT_ONCE)
            self._orders += 1
        self.asked = True

    def __exit__(self, *_: object) -> None:
        _restore(self._before)

    def due(self) -> int:
        """Return why to stop now, `BY_SIGNAL` or `BY_TIME`, or 0; call it after each piece."""
        near = _limit is not None and _limit.near()  # always, as it measures the pieces
        return BY_SIGNAL if self.asked else BY_TIME * near


def stop(reason: int) -> None:
    """End the command for a reason of `StopSignal.due`; nothing happens for 0."""
    if reason:
        raise TimeUp if reason == BY_TIME else Stopped


class TimeLimit:
    """The time that a command may take, from its start.

    Pieces of work are taken to last at most twice as long as the longest so far, with their saves.

    Args:
        seconds: the limit.
        began: time at which the command began, on the clock.
        clock: function that returns the present time in seconds.
    """

    def __init__(
        self, seconds: float, began: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.end, self.clock, self.longest = began + seconds, clock, 0.0
        least = min(seconds / 2, _LEAST_MARGIN)
        self.margin = min(max(seconds / 10, least), _LONGEST_MARGIN)
        self.last: float | None = None  # end of the piece before; None: there is none to measure

    def near(self) -> bool:
        """Return whether another piece of work, and its save, might end too late.

        It is called after each piece, and measures them. One piece at least is done, so that
        many short runs come to an end together.
        """
        now = self.clock()
        if self.last is not None:
            self.longest = max(self.longest, now - self.last)
        self.last = now
        return self.longest > 0 and now + 2 * self.longest + self.margin >= self.end


_limit: TimeLimit | None = None  # of this process's command
_began: float | None = None  # when the launcher began


def begin() -> None:
    """Begin a process, before anything large is imported: start the clock of the time limit.

    As long as nothing else is said, requests end the process at once, with one line.
    """
    global _began
    _began = _began or time.monotonic()
    _install(_end_process)


@contextlib.contextmanager
def limited(text: str = "") -> Iterator[None]:
    """Apply a `--time_limit` to the `StopSignal`s inside the block; empty: none but one around."""
    global _limit, _began
    before, began, _began = _limit, _began, None
    seconds = seconds_of(text)
    if seconds:
        _limit = TimeLimit(seconds, time.monotonic() if began is None else began)
    try:
        yield
    finally:
        _limit = before


def has_limit() -> bool:
    """Return whether the command has a limit of time."""
    return _limit is not None


def seconds_of(text: str) -> int:
    """Read a time such as 23:30, 23:30:00, 1-12 or 1-12:30 (days-hours); 0 for an empty text.

    Raises:
        ArgumentError: for another form, no time at all, or sixty minutes and more beside hours.
    """
    if not text:
        return 0
    found = _FORM.fullmatch(text.strip())
    if found and (found[1] or found[3]):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if total and minutes < 60 and seconds < 60:
            return total
    expected = "expected HH:MM, HH:MM:SS or D-HH:MM, as 23:30 or 2-12:00"
    raise ArgumentError("time_limit", f"{expected}, got {text!r}")
