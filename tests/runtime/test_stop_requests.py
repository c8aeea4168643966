"""Requests to end: which signals count, what they do where, and the limit of time."""

import signal

import pytest

from guided_diffusion.errors import ArgumentError
from guided_diffusion.runtime import stop_requests, work_sharing
from guided_diffusion.runtime.settings import RunSettings

WARNINGS = [getattr(signal, name) for name in stop_requests.WARNINGS if hasattr(signal, name)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_the_second_passed_over_and_the_third_ends(number):
    before = signal.getsignal(number)
    with stop_requests.StopSignal() as stop:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked
        signal.raise_signal(number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt, match="interrupted at once"):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", WARNINGS)
def test_warnings_are_noted_and_may_come_any_number_of_times(number):
    before = signal.getsignal(number)
    with stop_requests.StopSignal() as stop:
        for _ in range(5):
            signal.raise_signal(number)
        assert stop.asked and stop.due() == stop_requests.BY_SIGNAL
        signal.raise_signal(signal.SIGTERM)  # the order after a warning is not the third order
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *WARNINGS])
def test_outside_of_the_work_a_request_interrupts_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stop_requests.interrupting():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests.interrupting(), stop_requests.StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_system_without_some_signals_knows_the_others(monkeypatch):
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGKILL"):
        monkeypatch.delattr(signal, name, raising=False)
    with stop_requests.interrupting(), stop_requests.StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked


def test_in_another_thread_nothing_is_installed(monkeypatch):
    other = stop_requests.threading.Thread()
    monkeypatch.setattr(stop_requests.threading, "current_thread", lambda: other)
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests.interrupting(), stop_requests.StopSignal() as stop:
        assert signal.getsignal(signal.SIGTERM) == before
    assert not stop.due()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0),
        ("00:01", 60),
        ("23:30", 84600),
        ("100:00", 360000),
        ("0:00:05", 5),
        ("1:2:3", 3723),
        ("1-12", 129600),
        ("2-00:30", 174600),
        ("1-02:03:04", 93784),
    ],
)
def test_times_are_read_as_batch_systems_write_them(text, seconds):
    assert stop_requests.seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["90", "1h", "00:00", "0:60", "1:00:60", "-1:00", "1:2:3:4", "1-", ":30", "1:", "٣x", " "],
)
def test_other_times_are_refused_with_the_form(text):
    with pytest.raises(ArgumentError, match="^time_limit: expected HH:MM, HH:MM:SS or D-HH:MM"):
        RunSettings(time_limit=text)


class Clock:
    """A clock that stands still unless it is told."""

    now = 0.0

    def __call__(self):
        return self.now


def test_the_limit_leaves_time_for_another_piece_and_its_save():
    clock = Clock()
    limit = stop_requests.TimeLimit(100.0, began=0.0, clock=clock)
    found = []
    for now, piece in [(30, None), (32, 2), (34, 2), (44, 10), (54, 10), (69, 10), (70, 1)]:
        clock.now = float(now)
        if piece is None:
            assert not limit.near()
        else:
            found.append(limit.near())
    # Ten are kept for a save, and thirty for two pieces like the longest.
    assert found == [False, False, False, False, True, True]


def test_a_run_that_had_no_time_left_makes_one_piece():
    clock = Clock()
    limit = stop_requests.TimeLimit(10.0, began=0.0, clock=clock)
    clock.now = 99.0
    assert not limit.near()
    clock.now = 100.0
    assert limit.near()


def test_the_time_counts_from_the_beginning_of_the_process(monkeypatch):
    monkeypatch.setattr(stop_requests, "_began", 5.0)
    with stop_requests.limited("0:01"):
        assert stop_requests._limit.end == 65.0
    assert stop_requests._limit is None and stop_requests._began is None
    with stop_requests.limited(""):
        assert stop_requests._limit is None


def test_batches_stop_after_the_one_at_hand_and_not_after_the_last():
    taken = []
    with pytest.raises(KeyboardInterrupt):
        for batch in work_sharing.SharedBatches(range(3), 1):
            taken += batch
            if batch == [1]:
                signal.raise_signal(signal.SIGUSR1)
    assert taken == [0, 1]
    for batch in work_sharing.SharedBatches(range(3), 1):
        if batch == [2]:
            signal.raise_signal(signal.SIGTERM)


def test_batches_stop_within_the_limit_of_time(monkeypatch):
    monkeypatch.setattr(stop_requests, "_limit", stop_requests.TimeLimit(1.0, began=-9.0))
    batches = iter(work_sharing.SharedBatches(range(3), 1))
    assert next(batches) == [0]
    with pytest.raises(stop_requests.TimeUp):
        next(batches)


def test_a_command_inside_another_ends_in_the_time_of_the_other():
    with stop_requests.limited("1:00"):
        around = stop_requests._limit
        with stop_requests.limited():
            assert stop_requests._limit is around
        assert stop_requests._limit is around
    assert stop_requests._limit is None
