"""Broken input to all commands: a documented exit code, no traceback, no hang, no code run.

`support.hostile` makes the cases; the number of a case in a failure makes it again.
"""

import shutil

import pytest
from support.hostile import KINDS, USUAL, Case, Maker, World

CASES, CHUNK = 500, 10
FEW = 2 * len(KINDS)  # in the usual suite


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return Maker(World(tmp_path_factory.mktemp("world")), tmp_path_factory.mktemp("cases"))


def faults_of(maker, indices):
    found = {}
    for index in indices:
        case = maker.make(index)
        fault = case.fault(case.run())
        if fault:
            found[index] = f"{case} => {fault}"
        shutil.rmtree(case.place, ignore_errors=True)
    return "\n\n".join(f"case {index}: {text}" for index, text in found.items())


@pytest.mark.long
def test_some_broken_input_ends_as_documented(maker):
    assert not (found := faults_of(maker, range(CASES, CASES + FEW))), found


@pytest.mark.long
@pytest.mark.parametrize("start", range(0, CASES, CHUNK))
def test_broken_input_ends_as_documented(maker, start):
    assert not (found := faults_of(maker, range(start, start + CHUNK))), found


@pytest.mark.long
@pytest.mark.parametrize("name", USUAL)
def test_the_same_commands_end_well_on_whole_input(maker, tmp_path, name):
    result = Case(name, maker.line(name, tmp_path), "nothing", place=tmp_path).run()
    assert result.code == (2 if name in ("ablate_attention", "benchmark") else 0), result.err
