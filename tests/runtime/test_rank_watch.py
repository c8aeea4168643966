"""Ranks that learn of the end of another one: last words, deaths, and what is neither."""

import json
import os
import re
import signal
import socket

import pytest
import torch.distributed as dist
from support.cli import DEADLINE, ROOT, command, kill, start

from guided_diffusion.errors import UserError
from guided_diffusion.runtime import command as frame
from guided_diffusion.runtime import dist_util, launchers, rank_watch, stop_requests


@pytest.fixture
def ranks():
    """Make the watches of some ranks, in this process; none ends it."""
    made = []

    def arrange(count):
        store = dist.HashStore()
        for rank in range(count):
            watch = rank_watch.Watch(store, rank, "127.0.0.1")
            watch.take_over()
            made.append(watch)
        wait_until(lambda: {peer.rank for peer in made[0]._peers} == set(range(1, count)))
        return made

    yield arrange
    for watch in made:
        watch.leave()


def wait_until(true):
    waiter = rank_watch.threading.Event()
    for _ in range(DEADLINE * 100):
        if true():
            return
        waiter.wait(0.01)
    raise AssertionError("it never came true")


def hang_up(watch):
    """Close the connections of a rank as the system does when its process has ended."""
    watch._conclude = lambda *_: None  # its thread is no more either
    for peer in list(watch._peers):
        peer.socket.shutdown(socket.SHUT_RDWR)


def test_what_a_rank_says_at_its_failure_reaches_all_others(ranks):
    first, second, third = ranks(3)
    third.tell("error: rank 2: --lr: too high", 2)
    for watch in (first, second):
        assert watch.wait_for_verdict(DEADLINE)
        assert watch.verdict == rank_watch.Verdict("error: rank 2: --lr: too high", 2)
        watch.advice = "do it again"
        assert watch.last_line == "error: rank 2: --lr: too high"
    assert third.verdict is None


def test_what_rank_0_says_reaches_all_others(ranks):
    first, second, third = ranks(3)
    first.tell("error: rank 0 failed: KeyError: 3", 1)
    assert second.wait_for_verdict(DEADLINE) and third.wait_for_verdict(DEADLINE)
    assert (
        second.verdict
        == third.verdict
        == rank_watch.Verdict("error: rank 0 failed: KeyError: 3", 1)
    )


@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_that_ends_without_a_word_is_named(ranks, dead):
    watches = ranks(3)
    hang_up(watches[dead])
    other = watches[2]
    assert other.wait_for_verdict(DEADLINE)
    other.advice = "the same command again goes on"
    died = f"rank {dead} (process {os.getpid()} on {socket.gethostname()}) was killed or crashed"
    assert other.last_line == f"error: {died}; the same command again goes on"
    assert other.verdict.code == 1


def test_a_rank_that_leaves_is_not_missed(ranks):
    first, second, third = ranks(3)
    second.leave()
    hang_up(second)
    wait_until(lambda: len(first._peers) == 1)
    assert first.verdict is None and third.verdict is None


@pytest.mark.parametrize(
    "words",
    [
        b'{"line": "error: give up", "code": 0}\n',
        b'{"token": "guessed", "rank": 1, "name": "x"}\n{"line": "error", "code": 0}\n',
        b"\x00\xff\n",
        b"x" * 100_000,
        b"[]\n",
        b"",
    ],
)
def test_a_stranger_is_not_listened_to(ranks, words):
    first, second = ranks(2)
    with socket.create_connection(first._listener.getsockname()[:2]) as stranger:
        stranger.sendall(words)
    second.tell("error: rank 1: true", 2)  # it comes after the stranger's words
    assert first.wait_for_verdict(DEADLINE) and first.verdict.line == "error: rank 1: true"


def test_a_rank_that_does_not_end_by_itself_is_ended(ranks, monkeypatch, capsys):
    first, second = ranks(2)
    ended = []
    monkeypatch.setattr(rank_watch, "GRACE", 0)
    monkeypatch.setattr(rank_watch.os, "_exit", ended.append)
    first._handled.clear()
    second.tell("error: rank 1: wrong", 2)
    wait_until(lambda: ended)
    assert ended == [2] and capsys.readouterr().err == "error: rank 1: wrong\n"


def test_ranks_whose_launcher_has_died_are_asked_to_end(ranks, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    first, _ = ranks(2)
    with stop_requests.StopSignal() as asked:
        first._look_at_launcher()
        assert not asked.asked
        first._parent = -1
        first._look_at_launcher()
        wait_until(lambda: asked.asked)


class Told:
    """A watch that notes what it is told."""

    rank, verdict, advice, last_line = 1, None, "", "error: rank 0: first"

    def __init__(self):
        self.said, self.left = [], False

    def wait_for_verdict(self, seconds):
        return self.verdict is not None

    def take_over(self):
        pass

    def tell(self, line, code):
        self.said.append((line, code))

    def leave(self):
        self.left = True


@pytest.fixture
def told(monkeypatch):
    watch = Told()
    monkeypatch.setattr(dist_util, "watch", watch)
    monkeypatch.setattr(dist_util, "cleanup", lambda: None)
    return watch


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("a.png: broken"), "error: rank 1: a.png: broken", 2),
        (KeyError("x"), "error: rank 1 failed: KeyError: 'x'", 1),
        (MemoryError(), "error: rank 1: out of memory; take smaller or fewer images", 2),
        (KeyboardInterrupt(), frame.GOES_ON, 130),
        (SystemExit(3), "error: rank 1 ended with exit code 3", 1),
    ],
)
def test_a_command_that_fails_tells_the_other_ranks(told, capsys, error, line, code):
    with pytest.raises(BaseException) as found, frame.reported():
        raise error
    assert isinstance(found.value, KeyError if isinstance(error, KeyError) else SystemExit)
    assert len(told.said) == 1 and told.said[0][1] == code and told.said[0][0].startswith(line)


def test_ranks_that_stop_together_leave_in_peace(told, capsys):
    with pytest.raises(SystemExit), frame.reported():
        stop_requests.stop(stop_requests.BY_SIGNAL)
    assert told.left and not told.said


@pytest.mark.parametrize("error", [RuntimeError("Connection closed by peer"), KeyboardInterrupt()])
def test_a_command_that_another_rank_brought_down_ends_with_its_line(told, capsys, error):
    told.verdict = rank_watch.Verdict("error: rank 0: first", 2)
    with pytest.raises(SystemExit) as stop, frame.reported():
        raise error
    assert stop.value.code == 2 and capsys.readouterr().err == "error: rank 0: first\n"
    assert not told.said


def test_torchrun_gets_the_line_for_its_report(told, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit), frame.reported():
        raise UserError("--lr: wrong")
    assert json.loads((tmp_path / "error.json").read_text()) == {"message": "error: --lr: wrong"}


def two_processes(*flags):
    """Start two ranks of a command, as somebody does who starts them by hand."""
    place = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    place["MASTER_PORT"] = launchers._find_free_port()
    line = command("python", *flags)
    return [start(line, RANK=rank, LOCAL_RANK=rank, **place) for rank in range(2)]


@pytest.mark.parametrize("dead", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_rank_that_is_killed_ends_the_other(runs, tmp_path, dead):
    rare = ["--log_interval", 1000, "--save_interval", 1000, "--max_steps", 0]
    folder = tmp_path / "run"
    both = two_processes("image_train", *runs.training, *rare, "--out_dir", folder)
    try:
        log = folder / "log.txt"
        wait_until(lambda: log.exists() and "arithmetic" in log.read_text())
        both[dead].send_signal(signal.SIGKILL)
        _, err = both[1 - dead].communicate(timeout=DEADLINE)
    finally:
        for process in both:
            kill(process)
            process.communicate()
    assert both[1 - dead].returncode == 1
    died = rf"error: rank {dead} \(process {both[dead].pid} on \S+\) was killed or crashed"
    assert re.fullmatch(f"{died}; the same command again goes on", err.strip()), err


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["mpiexec", "torchrun"])
def test_a_mistake_on_one_rank_alone_is_the_line_of_all(runs, tmp_path, launcher):
    program = tmp_path / "one_rank_fails.py"
    program.write_text(
        "from guided_diffusion.errors import UserError\n"
        "from guided_diffusion.runtime import dist_util\n"
        "from guided_diffusion.commands import image_sample\n"
        "from guided_diffusion.sampling import new_images\n"
        "draw = new_images.draw\n"
        "def broken(*args, **options):\n"
        "    if dist_util.rank() == 1:\n"
        "        raise UserError('weights: broken')\n"
        "    return draw(*args, **options)\n"
        "new_images.draw = broken\n"
        "image_sample.main()\n"
    )
    flags = ["--model_path", runs.source, "--num_samples", 4000, "--batch_size", 4]
    line = command(launcher, program, *flags, "--device", "cpu", "--out_dir", tmp_path / "run")
    with start(line, PYTHONPATH=ROOT) as process:
        try:
            _, err = process.communicate(timeout=DEADLINE)
        finally:
            kill(process)
    assert process.returncode == (2 if launcher == "mpiexec" else 1)
    assert "error: weights: broken\n" in err and "error: rank 1: weights: broken\n" in err
    if launcher == "torchrun":
        assert "traceback : error: weights: broken" in err
