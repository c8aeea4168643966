"""Commands that are asked to end: in one process, on one rank of two, while they load, by time."""

import os
import signal
import sys
import time

import numpy as np
import pytest
from support.cli import (
    DEADLINE,
    ROOT,
    SEQUENCES,
    call,
    command,
    kill,
    launch,
    read_csv,
    start,
    succeed,
)

from guided_diffusion.generation import export
from guided_diffusion.models import checkpoint
from guided_diffusion.runtime import console, dist_util, stop_requests
from guided_diffusion.runtime.command import INTERRUPTED
from guided_diffusion.training.train_util import TrainLoop

RARE = ["--log_interval", 1000, "--save_interval", 1000, "--sample_interval", 0]
ENDLESS = [*RARE, "--max_steps", 0]
DRAWING = "--num_samples 5 --batch_size 2 --use_ddim True --timestep_respacing 8 --device cpu"
AGAIN = "interrupted; the same command again goes on"


def train_with_a_signal_on_rank_1(number, step, *flags):
    """Train; rank 1 alone gets a signal before a step. Returns the result of the rank."""
    run_step = TrainLoop.run_step

    def noisy(self, *batch):
        if dist_util.rank() == 1 and self.done == step:
            signal.raise_signal(number)
        run_step(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainLoop, "run_step", noisy)
        return call("image_train", *flags)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_one_rank_of_a_training_stops_both_soon(two_ranks, runs, tmp_path, number):
    flags = [*runs.training, *ENDLESS, "--out_dir", tmp_path]
    results = two_ranks.each("mpiexec", train_with_a_signal_on_rank_1, number, 3, *flags)
    assert [result.code for result in results] == [INTERRUPTED] * 2
    assert [result.last for result in results] == [AGAIN] * 2
    saved = [int(path.stem[5:]) for path in tmp_path.glob("model*.pt")]
    assert len(saved) == 1 and 4 <= saved[0] <= 4 + dist_util._MOST_STEPS
    assert f"asked to stop after {saved[0]} steps" in results[0].out


def signal_after_saving(folder, kind, number, *flags):
    """Run a command of generation; rank 1, or the only one, gets a signal when it has saved one."""
    save = export.Exporter.save

    def noisy(self, sequence):
        save(self, sequence)
        if dist_util.rank() == dist_util.world_size() - 1:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.Exporter, "save", noisy)
        return call(kind, *flags, "--out_dir", folder)


def test_a_signal_to_one_rank_of_a_generation_stops_both_with_what_is_finished(
    two_ranks, runs, tmp_path
):
    flags = [*runs.sequences, "--num_images", 5, "--amount", 1, "--batch_size", 1]
    folder, number = tmp_path / "run", signal.SIGUSR1
    results = two_ranks.each("mpiexec", signal_after_saving, folder, SEQUENCES, number, *flags)
    assert [result.code for result in results] == [INTERRUPTED] * 2
    assert [result.last for result in results] == [AGAIN] * 2
    again = succeed(SEQUENCES, *flags, "--out_dir", folder)
    left = next(line for line in again.out.splitlines() if "sequences to make" in line)
    assert 1 <= int(left.split()[0]) < 5
    assert len(read_csv(folder / "translation_0_1" / "manifest.csv")) == 10


@pytest.mark.parametrize("name", ["image_sample", SEQUENCES])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_one_process_ends_after_the_batch_at_hand(runs, tmp_path, number, name):
    taken = []
    flags = [*runs.sequences, "--batch_size", 1]
    if name == "image_sample":
        flags = ["--model_path", runs.source, *DRAWING.split()]
    due = stop_requests.StopSignal.due

    def after_one(self):
        taken.append(None)
        if len(taken) == 2:
            signal.raise_signal(number)
        return due(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stop_requests.StopSignal, "due", after_one)
        result = call(name, *flags, "--out_dir", tmp_path / "run")
    assert result.code == INTERRUPTED and result.last == AGAIN and len(taken) == 2
    again = succeed(name, *flags, "--out_dir", tmp_path / "run")
    succeed(name, *flags, "--out_dir", tmp_path / "other")
    if name == "image_sample":
        assert "2 of 5 images are there from an earlier run" in again.out
        drawn = [np.load(tmp_path / f / "samples_5x16x16x3.npz")["arr_0"] for f in ("run", "other")]
        assert (drawn[0] == drawn[1]).all()
    else:
        assert "2 of 3 sequences to make" in again.out


@pytest.mark.parametrize("name", ["image_train", "image_sample"])
def test_a_limit_of_time_saves_and_ends_and_the_same_command_goes_on(runs, tmp_path, name):
    flags = [*runs.training, *RARE, "--max_steps", 8]
    if name == "image_sample":
        flags = ["--model_path", runs.source, *DRAWING.split()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stop_requests.TimeLimit, "near", lambda self: True)
        patch.setattr(stop_requests.StopSignal, "due", due_from_the_second_piece())
        result = call(name, *flags, "--time_limit", "00:10", "--out_dir", tmp_path)
    assert result.code == INTERRUPTED
    assert result.last == "stopped within the time limit; the same command again goes on"
    again = succeed(name, *flags, "--time_limit", "1-00:00", "--out_dir", tmp_path)
    if name == "image_train":
        assert "the time limit is near: stopped after 2 steps" in result.out
        assert "training on from" in again.out
        state = checkpoint.load_state(tmp_path / "model000008.pt")
        other = checkpoint.load_state(runs.source / "model000008.pt")
        assert all((state[key] == other[key]).all() for key in other)
    else:
        assert "of 5 images are there from an earlier run" in again.out


def due_from_the_second_piece():
    pieces, due = [], stop_requests.StopSignal.due

    def later(self):
        pieces.append(due(self))
        return pieces[-1] if len(pieces) > 1 else 0

    return later


def test_a_time_limit_that_is_none_is_refused(runs, tmp_path):
    result = call("image_train", *runs.training, "--time_limit", "90", "--out_dir", tmp_path / "x")
    assert result.code == 2 and not (tmp_path / "x").exists()
    expected = "error: --time_limit: expected HH:MM, HH:MM:SS or D-HH:MM, as 23:30 or 2-12:00"
    assert result.last == f"{expected}, got '90'"


TOLD = [*ENDLESS, "--log_interval", 1]  # a log that shows when the first step is done


def wait_for(path, text):
    deadline = time.monotonic() + DEADLINE
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"no {text!r} in {path}"
        time.sleep(0.02)


def test_a_terminal_that_closes_costs_a_training_nothing(runs, tmp_path):
    line = command("python", "image_train", *runs.training, *TOLD, "--out_dir", tmp_path)
    with start(line) as process:
        try:
            process.stdout.close()
            process.stderr.close()
            wait_for(tmp_path / "log.txt", "| step ")
            process.send_signal(signal.SIGHUP)
            assert process.wait(DEADLINE) == INTERRUPTED
        finally:
            kill(process)
    assert len(list(tmp_path.glob("model*.pt"))) == 1
    assert "asked to stop after" in (tmp_path / "log.txt").read_text()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["mpiexec", "torchrun"])
def test_a_signal_to_the_launcher_alone_saves_the_training(runs, tmp_path, launcher):
    line = command(launcher, "image_train", *runs.training, *TOLD, "--out_dir", tmp_path)
    with start(line) as process:
        try:
            wait_for(tmp_path / "log.txt", "| step ")
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=DEADLINE)
        finally:
            kill(process)
    # torchrun has an exit code of its own.
    assert process.returncode == (INTERRUPTED if launcher == "mpiexec" else 1), err
    assert AGAIN in err and len(list(tmp_path.glob("model*.pt"))) == 1


INTERRUPT = """
import os, runpy, signal, sys
class Interrupt:
    def find_spec(name, *_):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
SCRIPT = "runpy.run_path(sys.argv[1], run_name='__main__')"
MODULE = (
    "sys.argv[:2] = ['guided-diffusion']; runpy.run_module('guided_diffusion', run_name='__main__')"
)


@pytest.mark.parametrize("at", ["torch", "guided_diffusion.runtime.environment"])
@pytest.mark.parametrize(("code", "word"), [(SCRIPT, "image_train"), (MODULE, "train")])
def test_ctrl_c_while_a_command_loads_is_one_line(code, word, at):
    script = ROOT / "scripts" / "image_train.py"
    line = [sys.executable, "-c", INTERRUPT + code, script, word, "--data_dir", "x", at]
    result = launch([str(part) for part in line])
    assert result.code == INTERRUPTED and result.out == ""
    assert result.err.count("\n") == 1 and result.err.startswith("interrupted")


ALL = "<&- >&- 2>&-"
ONE = [pytest.param(closed, marks=pytest.mark.long) for closed in ALL.split()]


@pytest.mark.parametrize("closed", [ALL, *ONE])
def test_streams_that_are_closed_from_the_start_do_no_harm(runs, tmp_path, closed):
    flags = [*runs.training, *RARE, "--max_steps", 1, "--out_dir", tmp_path / "run"]
    words = " ".join(command("python", "image_train", *flags))
    result = launch(["sh", "-c", f"{words} {closed}"])
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "model000001.pt").exists()
    assert "trained 1 steps" in (tmp_path / "run" / "log.txt").read_text()


def test_a_full_disk_behind_a_stream_stays_an_error():
    stream = console._Stream(os.open("/dev/full", os.O_WRONLY), "w", closefd=True)
    with stream, pytest.raises(OSError, match="No space left"):
        stream.write(b"x")


def test_what_nobody_reads_any_more_goes_nowhere():
    reader, writer = os.pipe()
    os.close(reader)
    with console._Stream(writer, "w", closefd=True) as stream:
        assert stream.write(b"four") == 4
