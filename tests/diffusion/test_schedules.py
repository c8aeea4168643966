"""Timestep grids: ends, order and range for every size, and known values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.diffusion.schedules import (
    GRIDS,
    get_named_beta_schedule,
    strictly_rising,
    timestep_grid,
)


def cosine_levels(total: int) -> np.ndarray:
    return np.cumprod(1 - get_named_beta_schedule("cosine", total))


def even_log_snr_levels(total: int) -> np.ndarray:
    """Levels whose log signal-to-noise ratio falls by equal parts."""
    return 1 / (1 + np.exp(np.linspace(-6, 6, total)))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """A number of timesteps, and how many of them a grid has."""
    total = draw(st.integers(1, 300))
    return total, draw(st.integers(1, total))


@st.composite
def rising(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Indices that rise, and their limit."""
    total, count = draw(sizes())
    indices = draw(st.lists(st.integers(0, total - 1), min_size=count, max_size=count))
    return np.sort(np.array(indices, dtype=np.int64)), total


def apart(indices: list[int], total: int) -> list[int]:
    """What `strictly_rising` returns, found one index at a time."""
    found: list[int] = []
    for place, index in enumerate(indices):
        room_after = len(indices) - 1 - place
        least = found[-1] + 1 if found else 0
        found.append(max(least, min(index, total - 1 - room_after)))
    return found


@pytest.mark.parametrize("levels", [cosine_levels, even_log_snr_levels])
@pytest.mark.parametrize("kind", GRIDS)
@given(size=sizes())
def test_a_grid_rises_from_the_first_timestep_to_the_last(kind, levels, size) -> None:
    total, steps = size
    grid = timestep_grid(kind, steps, levels(total))
    assert grid.dtype == np.int64 and grid.shape == (steps,)
    assert (np.diff(grid) > 0).all()
    assert grid[-1] == total - 1
    assert grid[0] == (0 if steps > 1 else total - 1)


@pytest.mark.parametrize("kind", GRIDS)
@given(total=st.integers(1, 300))
def test_as_many_steps_as_timesteps_visit_each(kind, total) -> None:
    assert timestep_grid(kind, total, cosine_levels(total)).tolist() == list(range(total))


def test_grids_of_known_values() -> None:
    levels = even_log_snr_levels(101)
    assert timestep_grid("quadratic", 6, levels).tolist() == [0, 4, 16, 36, 64, 100]
    for kind in ("time", "logsnr", "mixed"):  # the same where the log ratio is even in time
        assert timestep_grid(kind, 5, levels).tolist() == [0, 25, 50, 75, 100]


def test_an_even_grid_of_the_log_ratio_is_even_up_to_one_timestep() -> None:
    levels = np.cumprod(1 - get_named_beta_schedule("linear", 1000))
    ratio = np.log(levels) - np.log1p(-levels)
    grid = timestep_grid("logsnr", 20, levels)
    wanted = np.linspace(ratio[0], ratio[-1], 20)
    gaps = np.abs(np.diff(ratio))
    assert (np.abs(ratio[grid] - wanted) <= np.append(gaps, gaps[-1])[grid] + 1e-9).all()


@pytest.mark.parametrize("steps", [0, 11])
def test_other_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 10 steps, found {steps}"):
        timestep_grid("time", steps, cosine_levels(10))


def test_other_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of .*'logsnr'.*, found 'even'"):
        timestep_grid("even", 3, cosine_levels(10))


@given(rising())
def test_indices_are_moved_apart(drawn) -> None:
    indices, total = drawn
    found = strictly_rising(indices, total)
    assert (np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < total
    assert found.tolist() == apart(indices.tolist(), total)
    assert strictly_rising(found, total).tolist() == found.tolist()


@pytest.mark.parametrize(
    ("indices", "total", "expected"),
    [
        ([0, 0, 0, 5], 6, [0, 1, 2, 5]),
        ([5, 5, 5], 6, [3, 4, 5]),
        ([2, 2, 3, 3], 10, [2, 3, 4, 5]),
        ([0, 2, 9], 10, [0, 2, 9]),
    ],
)
def test_indices_moved_apart_of_known_values(indices, total, expected) -> None:
    assert strictly_rising(np.array(indices), total).tolist() == expected
