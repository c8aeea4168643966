"""Flags that take numbers: whatever is written there is a number in range, or a mistake told."""

import contextlib
import dataclasses
import io
import math

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.parsers import COMMANDS

NUMBER_FLAGS = [
    (command, field.name)
    for command, made in COMMANDS.items()
    for group in made.groups
    for field in dataclasses.fields(group)
    if type(field.default) in (int, float) and not field.metadata["choices"]
]
TEXTS = st.one_of(
    st.text(),
    st.integers().map(str),
    st.integers(1, 6000).map("9".__mul__),
    st.floats().map(repr),
    st.from_regex(r"\A[-+ ]?[0-9_.,eExX]{0,12}(inf|nan|j)?\Z"),
)


def parse(command, *words):
    """Return what a command parses, with any word for each argument that must be given."""
    fields = [f for group in COMMANDS[command].groups for f in dataclasses.fields(group)]
    return COMMANDS[command].parse([f.name for f in fields if f.metadata["place"]] + list(words))


def in_range(value, field) -> bool:
    """Whether a flag may have a value: of its type, finite, and between its limits or beside."""
    limits = field.metadata["limits"]
    if type(value) is not type(field.default) or not math.isfinite(value):
        return False
    return limits.minimum <= value <= limits.maximum or value in limits.also


@settings(max_examples=400)
@given(st.sampled_from(NUMBER_FLAGS), TEXTS)
@example(("train", "batch_size"), "1" + "0" * 400)
@example(("train", "lr"), "1e999")
@example(("train", "microbatch"), "-1")
@example(("train", "microbatch"), "-2")
def test_any_text_is_a_number_in_range_or_one_line_and_exit_code_2(place, text):
    (command, name), errors = place, io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = parse(command, f"--{name}={text}")
    except SystemExit as stop:
        assert stop.code == 2
        assert errors.getvalue().startswith(f"error: argument --{name}: expected a")
        assert errors.getvalue().endswith("\n") and errors.getvalue().count("\n") == 1
        return
    assert errors.getvalue() == ""
    found = [(group, f) for group in parsed for f in dataclasses.fields(group) if f.name == name]
    assert all(in_range(getattr(group, name), field) for group, field in found)
    assert all(name in group.given for group, _ in found)


@given(st.sampled_from(NUMBER_FLAGS), st.integers(-3, 3) | st.floats(-2, 2))
def test_a_number_in_range_is_taken_as_it_is(place, value):
    command, name = place
    group, field = next(
        (group, field)
        for group in COMMANDS[command].groups
        for field in dataclasses.fields(group)
        if field.name == name
    )
    value = type(field.default)(value)
    if in_range(value, field):
        parsed = parse(command, f"--{name}", str(value))
        assert getattr(next(g for g in parsed if type(g) is group), name) == value
        assert getattr(group(**{name: value}), name) == value
