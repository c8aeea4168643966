"""Commands in child processes that are forked from this one, so that none imports torch anew."""

import contextlib
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import Any

from support.cli import DEADLINE, Result, call

from guided_diffusion import dist_util, logger


def run(name: str, *argv: object, before: Callable[[], Any] = lambda: None) -> Result:
    """Run a command in a child, within the deadline.

    Args:
        name: name of the command.
        *argv: its arguments.
        before: function that the child calls first.

    Returns:
        Its exit code, negative for the signal that ended it, and what it printed; the code is 1 and
        stderr ends with the traceback if another exception than SystemExit came through.
    """

    def work() -> Result:
        before()
        return call(name, *argv)

    value, code, output = ask(work)
    return value if isinstance(value, Result) else Result(code, "", output)


def ask(work: Callable[[], Any]) -> tuple[Any, int, str]:
    """Call a function in a child.

    Returns:
        What it returned (None if it did not), the exit code or minus the signal, and the traceback.
    """
    answers, box = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answers)
        _serve(work, box)
    os.close(box)
    with open(answers, "rb") as file:
        content = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    value, problem = pickle.loads(content) if content else (None, "")
    return value, code, problem


def _serve(work: Callable[[], Any], box: int) -> None:
    signal.alarm(DEADLINE)  # ends a child that hangs
    logger.Logger.CURRENT = logger.Logger.DEFAULT = None
    dist_util._device = None
    answer, code = (None, ""), 0
    try:
        answer = work(), ""
    except BaseException:
        answer, code = (None, traceback.format_exc()), 1
    with contextlib.suppress(Exception), open(box, "wb") as file:
        file.write(pickle.dumps(answer))
    os._exit(code)
