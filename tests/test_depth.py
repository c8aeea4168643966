import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_images import reference_add

from guided_diffusion import depth
from guided_diffusion.flags import UserError
from guided_diffusion.fourier_trans import get_adaptive_list

SEARCHES = sorted(
    key.rpartition("/")[0] for key in reference_add() if key.startswith("get_adaptive_list")
)[::2]


@pytest.mark.parametrize("case", SEARCHES)
def test_reference_searches(case):
    values, expected = (reference_add()[f"{case}/{name}"] for name in ("list", "depths"))
    assert get_adaptive_list(values.tolist(), len(expected)) == expected.tolist()


@pytest.mark.parametrize("case", ["pipe1000", "pipe_respaced"])
def test_reference_pipelines(case):
    noisiest_first, expected = (reference_add()[f"{case}/{n}"] for n in ("magnitudes", "depths"))
    chosen = depth.choose("add", noisiest_first[::-1].tolist(), len(expected))
    assert chosen == depth.Depths(tuple(expected.tolist()), fallback=False)


def test_a_search_that_fails_says_so_and_spaces_evenly():
    chosen = depth.search_levels(reference_add()["get_adaptive_list/bump/5/list"], 5)
    assert chosen == depth.Depths((80, 160, 240, 320, 399), fallback=True)


def test_the_list_is_left_as_it_was():
    values = [1.0, 2.0, 4.0, 8.0]
    get_adaptive_list(values, 2)
    assert values == [1.0, 2.0, 4.0, 8.0]


@given(st.integers(1, 300), st.data())
def test_uniform_depths_rise_evenly_to_full_depth(total, data):
    amount = data.draw(st.integers(1, total))
    values = depth.choose("uniform", [0.0] * total, amount).values
    gaps = np.diff([0, *values])
    assert len(values) == amount
    assert values[-1] == total
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60), st.data())
def test_add_depths_stay_within_the_walk_and_never_fall(features, data):
    amount = data.draw(st.integers(1, len(features)))
    chosen = depth.choose("add", features, amount)
    assert len(chosen.values) == amount
    assert 0 <= min(chosen.values) <= max(chosen.values) < len(features)
    assert list(chosen.values) == sorted(chosen.values)


@pytest.mark.parametrize("amount", [0, 11])
def test_amounts_outside_the_walk_are_refused(amount):
    with pytest.raises(UserError, match=f"--amount: expected 1 to 10 .* got {amount}"):
        depth.choose("add", [0.0] * 10, amount)


def test_unknown_policies_are_refused():
    with pytest.raises(UserError, match="--depth_policy: .*'adaptive'"):
        depth.choose("adaptive", [0.0], 1)
