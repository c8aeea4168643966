"""Progress: what several ranks have made, and what is left."""

import pytest

from guided_diffusion.generation import cost, progress


class Part:
    """Three sequences of two ranks; this rank made two before, by 40 forwards."""

    source = target = type("Domain", (), {"diffusion": None})
    recipe, forwards, decoded = None, 40, 2

    def __len__(self):
        return 3


@pytest.fixture
def ranks(monkeypatch):
    """Return the progress of two ranks, which share their counter."""
    monkeypatch.setattr(cost, "forwards", lambda *_: cost.Forwards(12, 8, 20))
    first, second = (progress.Progress([Part()]) for _ in range(2))
    second.counter = first.counter
    for part in (*first.parts, *second.parts):  # each makes one now, by 24 forwards
        part.forwards, part.decoded = part.forwards + 24, part.decoded + 1
    return first, second


def test_what_is_left_takes_as_much_as_what_is_finished_took(ranks):
    first, second = ranks
    assert first.update() | {"minutes_left": 0} == {
        "forwards": 24,
        "forwards_left": 48,
        "minutes_left": 0,
    }
    assert second.update()["forwards_left"] == 24
    assert second.update()["forwards"] == 48  # nothing new


def test_ranks_that_count_at_once_count_alike(ranks, monkeypatch):
    first, second = ranks
    add, others = first.counter.add, []

    def interrupted(amount):
        found = add(amount)
        if not others:
            others.append(None)
            others[0] = second.update()
        return found

    monkeypatch.setattr(first.counter, "add", interrupted)
    assert first.update()["forwards_left"] == 48
    assert others[0]["forwards_left"] == 24
