"""Faults on purpose: where they happen, and that nothing happens where none is asked for."""

import os
import signal

import pytest
from support import children

from guided_diffusion.errors import UserError
from guided_diffusion.runtime import faults
from guided_diffusion.runtime.faults import Fault


@pytest.fixture(autouse=True)
def _none_after():
    yield
    faults.plan(None)


def test_without_the_variable_nothing_happens(monkeypatch):
    monkeypatch.setattr(faults, "_read", False)
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    faults.point("write.open")
    assert faults.planned is None


def test_the_variable_is_read_at_the_first_point(monkeypatch):
    monkeypatch.setattr(faults, "_read", False)
    monkeypatch.setenv(faults.VARIABLE, "write.data:2:ENOSPC")
    for name in ("write.data", "write.open"):
        faults.point(name)
    with pytest.raises(OSError, match="No space left"):
        faults.point("write.data")
    faults.point("write.data")  # once


@pytest.mark.parametrize(
    ("point", "visits"), [("any", 4), ("write.open", 1), ("write.", 3), ("array.create", 1)]
)
def test_a_point_is_one_or_several(point, visits):
    faults.plan(fault := Fault(point, 99, "kill"))
    for name in ("write.open", "write.data", "write.done", "array.create"):
        faults.point(name)
    assert fault.visits == visits


def test_memory_can_lack_and_the_process_can_be_killed():
    faults.plan(Fault("train.step", 1, "MemoryError"))
    with pytest.raises(MemoryError, match="asked for by GUIDED_DIFFUSION_FAULT"):
        faults.point("train.step")

    def killed():
        faults.plan(Fault("train.step", 1, "kill"))
        faults.point("train.step")

    assert children.ask(killed)[1] == -signal.SIGKILL


@pytest.mark.parametrize(
    "text", ["x", "any:1", "any:0:kill", "any:x:kill", ":1:kill", "a:1:ENO", "a:1:errorcode"]
)
def test_another_text_is_refused(text, monkeypatch):
    monkeypatch.setattr(faults, "_read", False)
    monkeypatch.setenv(faults.VARIABLE, text)
    with pytest.raises(UserError, match="GUIDED_DIFFUSION_FAULT: expected POINT:NTH:KIND"):
        faults.point("any")


def test_names_of_failures_are_known():
    for kind in ("ENOSPC", "EACCES", "EIO", "EDQUOT"):
        assert Fault.read(f"any:1:{kind}").kind == kind and os.strerror(1)
