"""Busy neighbours: they compute while a block runs, and none of them outlives it or its parent."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from guided_diffusion.benchmark import neighbours, scaling
from guided_diffusion.errors import UserError

PARENT = """
import os, sys
from guided_diffusion.benchmark import neighbours
with neighbours.busy(2):
    print("started", flush=True)
    sys.stdin.read()
"""


def started(monkeypatch):
    """Collect the processes that this one starts."""
    found = []

    class Seen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(subprocess, "Popen", Seen)
    return found


@pytest.mark.parametrize("error", [None, UserError, KeyboardInterrupt])
def test_neighbours_end_with_the_block(monkeypatch, error):
    found = started(monkeypatch)
    with contextlib.suppress(UserError, KeyboardInterrupt), neighbours.busy(2):
        assert [process.poll() for process in found] == [None, None]
        if error:
            raise error
    assert [process.returncode for process in found] == [-signal.SIGKILL] * 2


def test_a_neighbour_ends_in_time_by_itself():
    program = [sys.executable, "-c", neighbours.BUSY, str(os.getpid()), "0.1"]
    assert subprocess.run(program).returncode == 0


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("as delivered", "None None None"),
        ("passive", "PASSIVE None None"),
        ("torch's own", "None 300000 200"),
    ],
)
def test_each_way_of_waiting_is_said_in_the_environment(monkeypatch, way, expected):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "2000")
    code = f"import os; print(*map(os.environ.get, {list(neighbours.UNSET)}))"
    assert scaling.run(["-c", code], [], **neighbours.WAITING[way]).strip() == expected


def test_neighbours_end_when_their_parent_is_killed():
    program = [sys.executable, "-c", PARENT]
    read, write = os.pipe()  # which neighbours hold open as long as they live
    pipes = {"stdin": subprocess.PIPE, "stdout": write}
    with subprocess.Popen(program, **pipes) as parent:
        os.close(write)
        with open(read) as file:
            assert file.readline() == "started\n"
            parent.kill()
            assert file.read() == ""  # the end of the file comes when the last of them has ended
