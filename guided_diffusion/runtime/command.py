"""How a command starts and ends: mistakes in one line, exit codes, signals."""

import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UserError
from . import dist_util, logger

INTERRUPTED = 130  # exit code, as shells have it


GOES_ON = "interrupted; the same command again goes on"


STARTS_ANEW = "interrupted; nothing to go on from, the same command again starts anew"


AT_ONCE = (
    "interrupted at once, without what was not yet saved; the same command again goes on from the "
    "last save"
)


class StopSignal:
    """Whether Ctrl-C or a batch system has asked this process to end, inside its `with` block.

    The first request is noted, so that the work at hand can be finished and saved. A second one
    changes nothing, as batch systems send theirs twice and people press Ctrl-C twice; a third one
    ends the process at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._again = False

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._note) for number in _STOPPING}
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self._again:
            raise KeyboardInterrupt(AT_ONCE)
        self.asked, self._again = True, self.asked

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


_STOPPING = (signal.SIGINT, signal.SIGTERM)


def command(
    main: Callable[[Sequence[str] | None], None] | None = None, *, interrupted: str = GOES_ON
) -> Callable[..., Any]:
    """Turn user mistakes of a script's main into one line on stderr and exit code 2.

    Args:
        main: of the script; None: to decorate it with what follows.
        interrupted: the line of an interruption, by whether the command goes on from what is there.
    """
    if main is None:
        return functools.partial(command, interrupted=interrupted)

    def wrapped(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except UserError as error:
            print("error:", *error.report.splitlines(), file=sys.stderr, flush=True)
            raise SystemExit(2) from None
        except OSError as error:  # a full disk, a folder without permission
            if error.strerror is None:
                raise
            place = f"{error.filename}: " if error.filename else ""
            print(f"error: {place}{error.strerror}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None
        except KeyboardInterrupt as error:
            print(str(error) or interrupted, file=sys.stderr, flush=True)
            raise SystemExit(INTERRUPTED) from None
        finally:
            with contextlib.suppress(OSError):  # the disk may be full
                logger.reset()
            dist_util.cleanup()

    return wrapped
