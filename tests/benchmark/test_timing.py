"""Measuring: ratios within rounds, what a budget affords, and contestants in their processes."""

import argparse
import atexit
import multiprocessing
import os
import signal
import sys

import pytest
import torch

from guided_diffusion.benchmark import sequence_timing, timing
from guided_diffusion.benchmark.timing import Timed


def budget(seconds, rounds=2):
    return argparse.Namespace(budget=seconds, rounds=rounds, amount=10)


def test_contestants_take_turns():
    order = []
    runs = timing.interleaved(
        {name: lambda name=name: order.append(name) for name in ("a", "b")}, 3
    )
    assert order == ["a", "b"] * 3
    assert [len(each) for each in runs.values()] == [3, 3]


def test_a_ratio_is_that_of_its_round():
    found = timing.ratios([4.0, 6.0, 20.0], [2.0, 2.0, 4.0])
    assert found == {"min": 2.0, "median": 3.0, "max": 5.0}


def endless(name, folder):
    """A contestant that says so when it begins, and never ends by itself."""
    atexit.register((folder / f"{name} ended").touch)

    def run():
        (folder / name).open("w").close()  # a pipe: waits for its reader
        while True:  # at work: one that waits may miss a signal just before it begins to
            pass

    return run


def ignores_interrupts():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_leave_an_interruption_to_their_parent_which_ends_them(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "GRACE", None)  # however busy the machine is
    os.mkfifo(tmp_path / "busy")
    with (
        pytest.raises(KeyboardInterrupt),
        timing.workers(("idle", "busy"), endless, tmp_path, device="cpu") as workers,
    ):
        for worker in workers.values():
            assert worker._pool.submit(ignores_interrupts).result()
        workers["busy"]._pool.submit(timing._measure, timing.timed, ())
        (tmp_path / "busy").open().close()
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()
    ended = {path.name for path in tmp_path.iterdir() if not path.is_fifo()}
    assert ended == {"idle ended", "busy ended"}
    assert not ignores_interrupts()


def test_a_row_scales_what_was_run_in_part():
    runs = {"published": [Timed(1.0, None, 5)], "ours": [Timed(2.0, None, 7)]}
    scales = {"published": 10.0, "ours": 1.0}
    row = timing.compared(runs, "ours", 4, 100, 1000.0, scales)
    assert row["ratio"]["median"] == 5 and row["seconds"] == [2.0]
    assert row["share_of_peak"] == 4 * 100 / 2 / 1000 and row["peak_memory"] == 7


def test_a_budget_buys_repeats_but_never_none():
    assert timing.affordable(budget(0), 1.0, 0.0, 7) == 7
    assert timing.affordable(budget(10), 1.0, 8.0, 7) == 4
    assert timing.affordable(budget(10), 1.0, -3.0, 7) == 1


def test_a_budget_buys_levels_then_gives_up_rounds():
    made = sequence_timing.Sequenced([(1,) * 10], 100)
    warm = {"published": Timed(3.0, made, 0), "fp32": Timed(1.0, made, 0)}
    few = warm | {"fast": Timed(1.0, made, 0)}  # 272 forwards at most, of 0.01 s each
    assert sequence_timing.plan(budget(0), warm, 10, 1000, 5.0) == (1000, 2)
    assert sequence_timing.plan(budget(85), warm, 10, 1000, 5.0) == (100, 2)
    assert sequence_timing.plan(budget(85), few, 10, 1000, 5.0) == (93, 2)
    assert sequence_timing.plan(budget(10), warm, 10, 1000, 5.0) == (12, 1)
    assert sequence_timing.plan(budget(6), warm, 10, 1000, 5.0) == (10, 1)
    assert sequence_timing.plan(budget(1e6), warm, 10, 1000, 5.0) == (1000, 2)


CPU = torch.device("cpu")


def test_operators_are_those_that_took_the_time():
    matrix = torch.ones(256, 256)

    def action():
        return [matrix @ matrix.exp() for _ in range(9)]

    found = timing.operators(action, CPU, 50)
    assert {"aten::mm", "aten::exp"} <= set(found)  # those that compute
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert min(found.values()) >= 0 and sum(found.values()) == pytest.approx(1)
    assert len(timing.operators(action, CPU, 1)) == 1


@pytest.fixture
def clock(monkeypatch):
    """Let the clock, at each look in turn, show these seconds."""

    def shows(*seconds):
        monkeypatch.setattr(timing.time, "perf_counter", iter(seconds).__next__)

    return shows


def test_what_is_timed_is_the_action_alone(clock):
    clock(5.0, 7.5)
    found = timing.timed(lambda: "made", CPU)
    assert (found.seconds, found.result) == (2.5, "made") and found.memory > 50e6


def test_the_peak_is_that_of_the_quickest_of_several_products(clock, monkeypatch):
    monkeypatch.setattr(timing, "MATMUL_SIDE", {"cpu": 10})
    clock(0, 4, 10, 10.5, 20, 22, 0, 4, 10, 10.25, 20, 22)
    assert timing.matmul_peaks(CPU, repeats=3) == {"fp32": 2000 / 0.5, "bf16": 2000 / 0.25}


def build(name, step):
    total = []

    def add(value):
        total.append(step * value)
        return name, sum(total)

    return add


def test_a_worker_is_built_once_and_keeps_its_state():
    with timing.workers(("it",), build, 2, device="cpu") as workers:
        assert workers["it"].run(3).result == ("it", 6)
        again = workers["it"].run(1)
    assert again.result == ("it", 8) and again.memory > 50e6


@pytest.mark.parametrize("name", ["published", "fp32"])
def test_forwards_are_counted_from_depths(name):
    expected = 40 + 12 + 30 + (30 if name == "published" else 0)
    assert sequence_timing.count_forwards(name, [(12, 30)], 40) == expected


def test_a_system_without_resource_and_signal_masks_measures_no_memory(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(signal, "pthread_sigmask")
    assert timing.peak_memory(torch.device("cpu")) == 0
    with timing._without_interrupts():
        pass
