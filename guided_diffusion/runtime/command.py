"""Start and end of a command: settings, ranks, mistakes in one line, exit codes, signals."""

import argparse
import contextlib
import inspect
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..config.parser import Sets, create_parser, parse
from ..config.settings import Settings, defaults, free_settings, joined
from ..errors import DivergedError, UserError
from . import dist_util, logger, run_lock, writing

# Exit codes: a mistake of the user; a training whose numbers are not finite; as in shells.
MISTAKE, DIVERGED, INTERRUPTED = 2, 4, 130
GOES_ON = "interrupted; the same command again goes on"
STARTS_ANEW = "interrupted; nothing to go on from, the same command again starts anew"
AT_ONCE = (
    "interrupted at once, without what was not yet saved; the same command again goes on from the "
    "last save"
)


class StopSignal:
    """A record of requests to end, by Ctrl-C or a batch system, inside a `with` block.

    The first request is noted, so that the work at hand can be finished and saved. A second one
    changes nothing, as batch systems send theirs twice and people press Ctrl-C twice; a third one
    ends the process at once. `asked` is true from the first request on.
    """

    def __init__(self) -> None:
        self.asked = self._again = False

    def __enter__(self) -> "StopSignal":
        stopping = signal.SIGINT, signal.SIGTERM
        self._before = {number: signal.signal(number, self._note) for number in stopping}
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self._again:
            raise KeyboardInterrupt(AT_ONCE)
        self.asked, self._again = True, self.asked

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def reported(interrupted: str = GOES_ON) -> Iterator[None]:
    """Turn mistakes of the user into one line on stderr and exit code 2, and clean up at the end.

    A training that diverged ends in one line likewise, and exit code 4.

    Args:
        interrupted: line printed on an interruption, which tells what the same command would do.
    """
    try:
        yield
        logger.reset()  # on some file systems a write fails when its file is closed
    except (UserError, OSError) as error:
        if isinstance(error, UserError):
            report = error.report
        elif error.strerror is None:
            raise
        else:  # a full disk, a folder without permission
            report = writing.described(error)
        print("error:", *report.splitlines(), file=sys.stderr, flush=True)
        raise SystemExit(DIVERGED if isinstance(error, DivergedError) else MISTAKE) from None
    except MemoryError as error:
        advice = "give it smaller batches or images, or a machine with more"
        print(f"error: out of memory, {error or 'at no known place'}; {advice}", file=sys.stderr)
        raise SystemExit(MISTAKE) from None
    except KeyboardInterrupt as error:
        print(str(error) or interrupted, file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED) from None
    finally:
        with contextlib.suppress(OSError):  # the disk may be full
            logger.reset()
        dist_util.cleanup()


class Command:
    """A command: its settings, and the frame in which its body runs.

    A call parses arguments, joins the other ranks if there is a setting `device`, runs the body on
    typed settings, and cleans up.

    Args:
        body: function of one instance per group of settings; its annotations name the groups.
        overrides: {name: default} where this command differs from its groups.
        sets: {name: defaults}, the choices of a flag `--defaults`, see `create_parser`.
        interrupted: line printed on an interruption.
        description: text at the head of the help; empty: the docstring of the body's module.

    Attributes:
        name: name of the command, which run folders record.
        groups: groups of its settings, in the order in which the body takes them.
    """

    def __init__(
        self,
        body: Callable[..., None],
        overrides: Mapping[str, Any] | None = None,
        sets: Sets | None = None,
        interrupted: str = GOES_ON,
        description: str = "",
    ) -> None:
        self.body, self.interrupted = body, interrupted
        hints, parameters = typing.get_type_hints(body), inspect.signature(body).parameters
        self.groups: tuple[type[Settings], ...] = tuple(hints[name] for name in parameters)
        self.name = body.__module__.rpartition(".")[2]
        self.description = description or body.__globals__["__doc__"] or ""
        self.overrides, self.sets = overrides or {}, sets or {}

    @property
    def defaults(self) -> dict[str, Any]:
        """{name: default} of all settings, before the overrides."""
        return defaults(*self.groups)

    @property
    def free(self) -> frozenset[str]:
        """Names of the settings that may differ when a run is continued."""
        return free_settings(*self.groups)

    def deciding(self, *settings: Settings) -> dict[str, Any]:
        """Return {name: value} of the settings that may not differ when a run is continued."""
        return {name: value for name, value in joined(*settings).items() if name not in self.free}

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of the command."""
        return create_parser(
            self.description, *self.groups, overrides=self.overrides, sets=self.sets
        )

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
        """Parse arguments into one instance per group of settings."""
        return parse(argv, self.description, *self.groups, overrides=self.overrides, sets=self.sets)

    def __call__(self, argv: Sequence[str] | None = None) -> None:
        """Run the command on arguments; None: `sys.argv[1:]`."""
        with run_lock.scope(), reported(self.interrupted):
            settings = self.parse(argv)
            devices = [group.device for group in settings if hasattr(group, "device")]
            if devices:
                dist_util.setup_dist(device=devices[0])
            self.body(*settings)


def command(**options: Any) -> Callable[[Callable[..., None]], Command]:
    """Decorate a function so that it becomes a `Command`, with its options."""
    return lambda body: Command(body, **options)
