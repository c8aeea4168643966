import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.reference_images import reference_add, reference_searches

from guided_diffusion.errors import UserError
from guided_diffusion.fourier_trans import get_adaptive_list
from guided_diffusion.translation import depth_policies
from guided_diffusion.translation.settings import DepthSettings

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
    chosen = depth_policies.add(noisiest_first[::-1, None], len(expected))
    assert chosen == depth_policies.Depths(tuple(expected.tolist()), fallback=False)


@pytest.mark.parametrize("case", range(96))
def test_reference_lists(case):
    values, amount, expected, after = (
        reference_searches()[f"{case:03d}/{name}"]
        for name in ("list", "amount", "depths", "list_after")
    )
    ours = values.tolist()
    assert get_adaptive_list(ours, int(amount)) == expected.tolist()
    assert ours == after.tolist()


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1000, [*range(100, 1000, 100), 999]), (200, [*range(179, 189)])],
)
def test_falling_lists_fall_back_or_end_in_neighbours(length, expected):
    # The second value lies before the first: as many entries are passed over as lie between.
    values = np.linspace(20, 10, length).tolist()
    assert get_adaptive_list(values, 10) == expected


def test_a_feature_that_falls_with_depth_is_searched():
    falling = np.arange(999.0, -1, -1)[:, None]  # the search gets it noisiest first: rising
    chosen = depth_policies.add(falling, 9)
    assert chosen == depth_policies.Depths(tuple(range(111, 1000, 111)), fallback=False)


def test_a_search_that_fails_says_so_and_spaces_evenly():
    values = reference_add()["get_adaptive_list/bump/5/list"]
    chosen = depth_policies.search_levels(values.copy(), 5)
    assert chosen == depth_policies.Depths((80, 160, 240, 320, 399), fallback=True)


@pytest.mark.parametrize(("before", "fails"), [(99, False), (100, False), (101, True)])
def test_a_value_is_looked_for_a_hundred_and_one_times(before, fails):
    values = np.array([10.0] * before + [5.0, 0.0, 10.0])
    chosen = depth_policies.search_levels(values, 2)  # the second 10 lies behind `before` others
    expected = (before, before + 2)
    assert chosen.fallback is fails
    assert (chosen.values == expected) is not fails
    assert not values[:before].any()


def test_the_list_keeps_what_the_search_wrote():
    values = [8, 4, 2, 1]
    assert get_adaptive_list(values, 2) == [1, 2]
    assert values == [0, 0, 2, 1]


def test_the_policy_leaves_its_features_alone():
    features = np.array([1.0, 2.0, 4.0, 8.0])[:, None]
    depth_policies.add(features, 2)
    assert features[:, 0].tolist() == [1, 2, 4, 8]


@given(st.integers(1, 300), st.data())
def test_uniform_depths_rise_evenly_to_full_depth(total, data):
    amount = data.draw(st.integers(1, total))
    values = depth_policies.uniform(np.zeros((total, 1)), amount).values
    gaps = np.diff([0, *values])
    assert len(values) == amount
    assert values[-1] == total
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60), st.data())
def test_add_depths_stay_within_the_walk_and_never_fall(features, data):
    amount = data.draw(st.integers(1, len(features)))
    chosen = depth_policies.add(np.array(features)[:, None], amount)
    assert len(chosen.values) == amount
    assert 0 <= min(chosen.values) <= max(chosen.values) < len(features)
    assert list(chosen.values) == sorted(chosen.values)


CURVES = arrays(
    np.float64, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=st.floats(-1e3, 1e3)
)


@given(CURVES, st.data())
def test_even_depths_rise_strictly_to_full_depth_whatever_the_curve(features, data):
    amount = data.draw(st.integers(1, len(features)))
    chosen = depth_policies.even(features, amount)
    assert not chosen.fallback
    assert len(chosen.values) == amount
    assert chosen.values[-1] == len(features)
    assert np.diff([0, *chosen.values]).min() >= 1


@given(CURVES)
def test_as_many_even_depths_as_levels_are_all_of_them(features):
    every = tuple(range(1, len(features) + 1))
    assert depth_policies.even(features, len(features)).values == every


@given(st.lists(st.integers(1, 9), min_size=20, max_size=80), st.integers(1, 5))
def test_even_depths_part_the_arc_length_to_within_a_piece(pieces, amount):
    # There and back: the length counts, not the height.
    signs = np.where(np.arange(len(pieces)) % 2, 1, -1)
    curve = np.cumsum([0, *signs * pieces])[:, None]
    covered = np.cumsum([0, *pieces])
    values = depth_policies.even(curve, amount).values
    for i, value in enumerate(values[:-1], start=1):
        beyond = covered[value - 1] - covered[-1] * i / amount
        assert 0 <= beyond < max(pieces)


def test_even_depths_are_close_where_the_feature_changes_fast():
    curve = np.concatenate([np.zeros(50), np.linspace(0, 1, 21), np.ones(29)])[:, None]
    assert depth_policies.even(curve, 4).values == (56, 61, 66, 100)


@pytest.mark.parametrize(("amount", "expected"), [(0, "at least 1"), (11, "1 to 10 ")])
def test_amounts_outside_the_walk_are_refused(amount, expected):
    with pytest.raises(UserError, match=f"amount: expected .*{expected}.* got {amount}"):
        DepthSettings(amount).choose(np.zeros((10, 1)))


@pytest.mark.parametrize("policy", depth_policies.POLICIES)
def test_settings_choose_by_their_policy(policy):
    features = np.linspace(0, 1, 30)[:, None] ** 2
    found = DepthSettings(4, policy).choose(features.copy())
    assert found == depth_policies.POLICIES[policy](features, 4)


def test_unknown_policies_are_refused():
    with pytest.raises(UserError, match="depth_policy: .*'adaptive'"):
        DepthSettings(1, "adaptive")
