"""Settings: values that are allowed, what was given, copies with changes, and groups together."""

import copy
import dataclasses
import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.config import settings
from guided_diffusion.config.network_settings import ModelSettings
from guided_diffusion.config.settings import Limits, Settings, setting
from guided_diffusion.errors import ArgumentError


@dataclass(frozen=True)
class Tool(Settings):
    """A tool."""

    size: int = setting(64, "side, pixels", minimum=1)
    rate: float = setting(0.5, "share", minimum=0, maximum=1, free=True)
    parts: int = setting(-1, "parts; -1: one", minimum=1, also=(-1,))
    mode: str = setting("slow", "pace", choices=("slow", "quick"))
    sides: int = setting(4, "sides", choices=range(3, 9))
    channels: int = setting(3, "channels", choices=(1, 3), minimum=1)
    fast: bool = setting(False, "be quick", free=True)
    note: str = setting("", "remark")


@dataclass(frozen=True)
class Other(Settings):
    """Another tool."""

    size: int = setting(32, "side of the other, pixels")
    name: str = setting("x", "name")


def test_defaults_are_allowed_and_named_values_are_kept():
    tool = Tool(size=8, rate=0, fast=True)
    assert (tool.size, tool.rate, tool.fast, tool.mode) == (8, 0, True, "slow")
    assert tool.values() == settings.defaults(Tool) | {"size": 8, "rate": 0, "fast": True}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("size", 0, "a whole number of at least 1, got 0"),
        ("size", "64", "a whole number of at least 1, got '64'"),
        ("size", None, "a whole number of at least 1, got None"),
        ("size", math.nan, "a whole number of at least 1, got nan"),
        ("size", math.inf, "a whole number of at least 1, got inf"),
        ("size", 64.0, "a whole number of at least 1, got 64.0"),
        ("size", True, "a whole number of at least 1, got True"),
        ("size", [64], r"a whole number of at least 1, got \[64\]"),
        ("size", 10**400, "a whole number from 1 to 2147483647, got 10"),
        ("rate", 1.5, "a number from 0 to 1, got 1.5"),
        ("rate", math.nan, "a number from 0 to 1, got nan"),
        ("rate", "0.5", "a number from 0 to 1, got '0.5'"),
        ("rate", None, "a number from 0 to 1, got None"),
        ("rate", False, "a number from 0 to 1, got False"),
        ("parts", 0, "a whole number of at least 1 or -1, got 0"),
        ("mode", "fast", "one of slow, quick, got 'fast'"),
        ("mode", None, "one of slow, quick, got None"),
        ("mode", ["slow"], r"one of slow, quick, got \['slow'\]"),
        ("sides", 9, "one of 3, 4, 5, 6, 7, 8, got 9"),
        ("sides", "4", "one of 3, .*, got '4'"),
        ("channels", 0, "a whole number of at least 1, got 0"),
        ("channels", True, "a whole number of at least 1, got True"),
        ("fast", "False", "True or False, got 'False'"),
        ("fast", None, "True or False, got None"),
        ("fast", 1, "True or False, got 1"),
        ("note", None, "text, got None"),
        ("note", 5, "text, got 5"),
    ],
)
def test_another_value_is_refused_in_one_line_under_the_name_of_its_setting(name, value, expected):
    for make in (lambda: Tool(**{name: value}), lambda: Tool().replace(**{name: value})):
        with pytest.raises(ArgumentError, match=f"^{name}: expected {expected}") as refused:
            make()
        assert refused.value.name == name and "\n" not in str(refused.value)
        assert refused.value.report.startswith(f"--{name}: expected ")


def test_python_may_take_values_of_the_range_that_commands_do_not_offer():
    assert Tool(channels=6).channels == 6


@pytest.mark.parametrize("value", [0.25, 1, np.float64(0.25)])
def test_a_number_is_whole_or_not(value):
    assert Tool(rate=value).rate == value


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(JSON, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_whatever_a_record_holds_an_instance_has_allowed_values_only(value):
    for field in dataclasses.fields(ModelSettings):
        try:
            found = ModelSettings(**{field.name: value})
        except ArgumentError as refused:
            assert refused.name == field.name
        else:
            kinds = (int, float) if field.type is float else field.type
            assert isinstance(getattr(found, field.name), kinds)


@pytest.mark.parametrize(
    ("limits", "kind", "text"),
    [
        (Limits(), int, "a whole number"),
        (Limits(), float, "a number"),
        (Limits(minimum=1), int, "a whole number of at least 1"),
        (Limits(0, 1), float, "a number from 0 to 1"),
        (Limits(0, 9, told=False), int, "a whole number of at least 0"),
        (Limits(minimum=1, also=(-1,)), int, "a whole number of at least 1 or -1"),
    ],
)
def test_limits_say_what_they_allow(limits, kind, text):
    assert limits.expected(kind) == text


def test_nothing_changes_an_instance():
    tool = Tool()
    with pytest.raises(dataclasses.FrozenInstanceError):
        tool.size = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        del tool.size
    with pytest.raises(TypeError, match="speed"):
        Tool(speed=3)


def test_in_python_given_are_the_settings_that_are_not_at_their_defaults():
    assert Tool().given == set() and Tool().given_values() == {}
    assert Tool(size=64).given == set()
    assert Tool(size=8, mode="quick").given == {"size", "mode"}
    assert Tool(size=8, mode="quick").given_values() == {"mode": "quick", "size": 8}


def test_what_a_copy_changes_counts_as_given_too():
    tool = Tool().with_given({"size", "fast"})
    changed = tool.replace(size=8, mode="quick")
    assert (changed.size, changed.mode, changed.fast) == (8, "quick", False)
    assert changed.given == {"size", "fast", "mode"}
    assert tool == Tool()  # is as it was
    assert Tool(size=8).replace(mode="quick").given == {"size", "mode"}
    assert Tool(size=8).replace(size=64).given == {"size"}
    with pytest.raises(TypeError, match="speed"):
        tool.replace(speed=3)


def test_what_was_given_is_recorded_anew():
    tool = Tool(size=8).with_given({"mode"}, rate=1.0)
    assert (tool.size, tool.rate, tool.given) == (8, 1.0, {"mode"})
    assert tool.given_values() == {"mode": "slow"}


def test_settings_are_equal_by_their_values_whatever_was_given():
    assert Tool(size=8) == Tool().with_given({"fast"}, size=8)
    assert hash(Tool(size=8)) == hash(Tool().with_given({"fast"}, size=8))
    assert Tool(size=8) != Tool(size=9) and Tool() != Other()


def pickled(tool):
    return pickle.loads(pickle.dumps(tool))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_copied_instance_knows_what_was_given(copied):
    tool = Tool(size=8).with_given({"mode"})
    assert copied(tool) == tool and copied(tool).given == {"mode"}


def test_groups_together_have_each_name_once_with_what_the_first_has():
    names = ["size", "rate", "parts", "mode", "sides", "channels", "fast", "note", "name"]
    assert [field.name for field in settings.fields_of(Tool, Other)] == names
    assert settings.defaults(Tool, Other)["size"] == 64
    assert settings.defaults(Other, Tool)["size"] == 32
    assert settings.joined(Tool(size=8), Other(size=9))["size"] == 8
    assert settings.joined(Other(size=9), Tool(size=8)) == settings.defaults(Tool, Other) | {
        "size": 9
    }


def test_free_settings_are_those_that_a_continued_run_may_change():
    assert settings.free_settings(Tool, Other) == {"rate", "fast"}
    assert settings.free_settings(Other) == set()


def test_a_group_may_extend_another():
    @dataclass(frozen=True)
    class More(Tool):
        """A tool with more."""

        depth: int = setting(2, "depth", minimum=1)

    assert list(settings.defaults(More)) == [*settings.defaults(Tool), "depth"]
    with pytest.raises(ArgumentError, match="^size: "):
        More(size=0)
