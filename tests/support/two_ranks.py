"""Two ranks that a launcher starts once, and that then do one thing after another.

A launch takes seconds, most of them to import torch; most commands under test take less than one.
What a launch itself does, its exit codes and its end are tested through `cli.launch`.

    python tests/support/two_ranks.py PORT

is one of the ranks. It asks the process of the tests, which listens at that port, what to do.
"""

import contextlib
import gc
import pickle
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from support.cli import DEADLINE, ROOT, Result, call, command, kill, start

from guided_diffusion import dist_util

HERE = "127.0.0.1"
TESTS = Path(__file__).parents[1]


class TwoRanks:
    """Pairs of ranks, one under each launcher that is asked for, until the `with` block ends."""

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[contextlib.ExitStack, list[Connection]]] = {}

    def __enter__(self) -> "TwoRanks":
        return self

    def __exit__(self, *_: object) -> None:
        for stack, _ in self._pairs.values():
            stack.close()

    def run(self, launcher: str, name: str, *argv: object) -> Result:
        """Run a command on two ranks.

        Args:
            launcher: "mpiexec" or "torchrun".
            name: the command's name.
            *argv: its flags.

        Returns:
            the highest exit code, then the texts of rank 0, then the texts of rank 1.
        """
        results = self.each(launcher, call, name, *argv)
        texts = zip(*((result.out, result.err) for result in results), strict=True)
        return Result(max(result.code for result in results), *map("".join, texts))

    def each(self, launcher: str, function: Callable[..., Any], *args: object) -> list[Any]:
        """Call a function of a module on two ranks, and return what each of them returned."""
        if launcher not in self._pairs:
            stack = contextlib.ExitStack()
            self._pairs[launcher] = stack, stack.enter_context(_launched(launcher))
        stack, ranks = self._pairs.pop(launcher)
        with contextlib.ExitStack() as lost:  # ranks that fail are not asked again
            lost.push(stack)
            found = _ask(ranks, function, args)
            self._pairs[launcher] = lost.pop_all(), ranks
        return found


def _ask(ranks: list[Connection], function: Callable[..., Any], args: tuple) -> list[Any]:
    work = pickle.dumps((function, args))
    for rank in ranks:
        rank.send((sys.path, work))
    for rank in ranks:
        assert rank.poll(DEADLINE), f"a rank did not answer within {DEADLINE} s"
    values, problems = zip(*(rank.recv() for rank in ranks), strict=True)
    assert not any(problems), "".join(problems)
    return list(values)


@contextlib.contextmanager
def _launched(launcher: str) -> Iterator[list[Connection]]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HERE, 0)))
        listener.settimeout(DEADLINE)
        output = stack.enter_context(tempfile.TemporaryFile("w+"))
        line = command(launcher, Path(__file__), listener.getsockname()[1])
        process = start(line, output=output, PYTHONPATH=f"{TESTS}:{ROOT}")
        stack.callback(kill, process)
        try:
            ranks = [Connection(listener.accept()[0].detach()) for _ in range(2)]
            ranks.sort(key=Connection.recv)
            yield ranks
            for rank in ranks:
                rank.close()
            process.wait(DEADLINE)
        except BaseException as error:
            output.seek(0)
            error.add_note(f"the ranks under {launcher} wrote:\n{output.read()}")
            raise


def _serve(port: str) -> None:
    dist_util.setup_dist(device="cpu")
    dist_util.watch.leave()  # commands fail here on purpose, and their ranks live on
    dist_util.watch = None
    leave, dist_util.cleanup = dist_util.cleanup, lambda: None  # the ranks stay together
    gc.freeze()
    with Connection(socket.create_connection((HERE, int(port))).detach()) as tests:
        tests.send(dist_util.rank())
        with contextlib.suppress(EOFError):
            while True:
                sys.path[:], work = tests.recv()
                tests.send(_result(work))
    leave()


def _result(work: bytes) -> tuple[Any, str]:
    try:
        function, args = pickle.loads(work)
        return function(*args), ""
    except Exception:
        return None, traceback.format_exc()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
