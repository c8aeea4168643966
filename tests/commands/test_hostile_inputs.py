"""Broken input to all commands: a documented exit code, no traceback, no hang, no code run.

`support.hostile` makes the cases; the number of a case in a failure makes it again.
"""

import shutil

import pytest
from support.hostile import USUAL, Case, Maker, World

CASES, CHUNK = 500, 10
FEW = 12  # in the usual suite


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return Maker(World.whole(tmp_path_factory.mktemp("world")), tmp_path_factory.mktemp("cases"))


def faults_of(maker, indices, kind=""):
    found = {}
    for index in indices:
        case = maker.make(index, kind)
        fault = case.fault(case.run())
        if fault:
            found[index] = f"{case} => {fault}"
        shutil.rmtree(case.place, ignore_errors=True)
    return "\n\n".join(f"case {index}: {text}" for index, text in found.items())


@pytest.mark.parametrize("kind", ["flags", "variables"])
def test_nonsense_in_a_flag_or_variable_ends_as_documented(runs, tmp_path, kind):
    assert not (found := faults_of(Maker(World.of(runs), tmp_path), range(FEW), kind)), found


@pytest.mark.long
@pytest.mark.parametrize("start", range(0, CASES, CHUNK))
def test_broken_input_ends_as_documented(maker, start):
    assert not (found := faults_of(maker, range(start, start + CHUNK))), found


@pytest.mark.long
@pytest.mark.parametrize("name", USUAL)
def test_the_same_commands_end_well_on_whole_input(maker, tmp_path, name):
    result = Case(name, maker.line(name, tmp_path), "nothing", place=tmp_path).run()
    assert result.code == (2 if name in ("ablate_attention", "benchmark") else 0), result.err
