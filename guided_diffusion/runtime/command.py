"""Start and end of a command: settings, ranks, mistakes in one line, exit codes, signals."""

import argparse
import contextlib
import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..config.parser import Sets, create_parser, parse
from ..config.settings import Settings, defaults, free_settings
from ..errors import DivergedError, IncompleteError, UserError
from . import dist_util, environment, logger, run_lock, stop_requests, writing
from .memory import is_lack_of_memory, report_on_memory
from .stop_requests import INTERRUPTED, Stopped, TimeUp

# Exit codes, besides 0.
FAULT = 1  # of the program, unforeseen; or another rank was killed
MISTAKE = 2  # of the user: a flag, a file, a folder, the disk, too little memory
INCOMPLETE = 3  # files vanished during the run, and could not be made again
DIVERGED = 4  # the numbers of a training are not finite any more
CODES = {IncompleteError: INCOMPLETE, DivergedError: DIVERGED}

GOES_ON = "interrupted; the same command again goes on"
STARTS_ANEW = "interrupted; nothing to go on from, the same command again starts anew"
TIME_UP = "stopped within the time limit"
_LAST_WORDS = 2.0  # seconds in which the fate of another rank becomes known


@contextlib.contextmanager
def reported(interrupted: str = GOES_ON, known: Collection[str] = ()) -> Iterator[None]:
    """Turn mistakes of the user into one line on stderr and exit code 2, and clean up at the end.

    A training that diverged ends in one line likewise, and exit code 4.

    Args:
        interrupted: line printed on an interruption, which tells what the same command would do.
        known: names of the command's settings, for advice.
    """
    with stop_requests.interrupting():
        try:
            yield
            logger.reset()  # on some file systems a write fails when its file is closed
        except BaseException as error:
            end = _agreed_end(error, _end_of(error, interrupted, known))
            if end is None:
                raise
            sys.stderr.write(f"{end.line}\n")  # in one piece, as other ranks write too
            sys.stderr.flush()
            raise SystemExit(end.code) from None
        finally:
            with stop_requests.StopSignal():  # the first requests wait
                with contextlib.suppress(OSError):  # the disk may be full
                    logger.reset()
                dist_util.cleanup()


class _End(NamedTuple):
    line: str
    code: int


def _end_of(error: BaseException, interrupted: str, known: Collection[str]) -> _End | None:
    """Return the last line and the exit code of a command; None for faults of the program."""
    if isinstance(error, KeyboardInterrupt):
        _, _, advice = interrupted.partition("; ")
        own = f"{TIME_UP}; {advice}" if isinstance(error, TimeUp) else str(error)
        return _End(own or interrupted, INTERRUPTED)
    if is_lack_of_memory(error):
        report = report_on_memory(error, known)
    elif isinstance(error, UserError):
        report = error.report
    elif isinstance(error, OSError) and error.strerror is not None:
        report = writing.described(error)  # a full disk, a folder without permission
    else:
        return None
    code = CODES.get(type(error), MISTAKE)
    return _End(" ".join(["error:", *report.splitlines()]), code)


def _agreed_end(error: BaseException, own: _End | None) -> _End | None:
    """Tell the other ranks how this one ends, or return how it ends because of another."""
    watch = dist_util.watch
    if watch is None:
        return own
    if isinstance(error, Stopped):
        watch.leave()
        return own
    # Where another rank died, this one fails in a message to it, or is asked to end.
    others_fault = own is None or isinstance(error, KeyboardInterrupt)
    if others_fault and watch.wait_for_verdict(isinstance(error, RuntimeError) * _LAST_WORDS):
        watch.take_over()
        return _End(watch.last_line, watch.verdict.code)
    watch.take_over()
    rank = f"rank {watch.rank}"
    if own:
        watch.tell(own.line.replace("error:", f"error: {rank}:", 1), own.code)
    elif not isinstance(error, SystemExit):
        what = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        watch.tell(f"error: {rank} failed: {what}", FAULT)
    elif error.code:
        watch.tell(f"error: {rank} ended with exit code {error.code}", FAULT)
    if own:
        _tell_torchrun(own.line)
    return own


def _tell_torchrun(line: str) -> None:
    """Write the last line where torchrun looks for it, to be shown in its own report."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump({"message": line}, file)


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
        with contextlib.ExitStack() as stack:
            stack.enter_context(run_lock.scope())
            stack.enter_context(reported(self.interrupted, self.defaults))
            environment.check()
            settings = self.parse(argv)
            limits = [group.time_limit for group in settings if hasattr(group, "time_limit")]
            stack.enter_context(stop_requests.limited(*limits))
            devices = [group.device for group in settings if hasattr(group, "device")]
            if devices:
                dist_util.setup_dist(device=devices[0])
                if dist_util.watch:
                    dist_util.watch.advice = self.interrupted.partition("; ")[2]
            self.body(*settings)


def command(**options: Any) -> Callable[[Callable[..., None]], Command]:
    """Decorate a function so that it becomes a `Command`, with its options."""
    return lambda body: Command(body, **options)
