"""Choose the depths that an image is decoded from, by the features along its trajectory.

A depth is a number of noising moves, 0..T; row k of the features [T, K] was measured after k + 1
moves. Every policy takes the features of one image and returns `Depths`; each image gets its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..diffusion.schedules import strictly_rising


@dataclass(frozen=True)
class Depths:
    """Rising depths of one image, evenly spaced after a failed search if `fallback` is set."""

    values: tuple[int, ...]
    fallback: bool = False


def uniform(features: np.ndarray, amount: int) -> Depths:
    """Return `amount` evenly spaced depths that end at full depth."""
    total = len(features)
    return Depths(tuple(round(total * i / amount) for i in range(1, amount + 1)))


def even(features: np.ndarray, amount: int) -> Depths:
    """Return the depths that cut the curve of features into parts of equal length.

    Arc length grows with depth whatever the features do, so that features need not be monotone and
    no search can fail. Depth i of n is the first at which i/n of the whole length is covered.
    Depths rise strictly and end at full depth; where the length stands still or jumps, neighbouring
    depths are taken.

    Args:
        features: features of one image, [T, K], after 1..T moves.
        amount: number of depths, 1..T.
    """
    total = len(features)
    pieces = np.linalg.norm(np.diff(features, axis=0, prepend=features[:1]), axis=1)  # [T]
    covered = np.cumsum(pieces)
    indices = np.searchsorted(covered, covered[-1] * np.arange(1, amount + 1) / amount)
    indices[-1] = total - 1
    return Depths(tuple((strictly_rising(indices, total) + 1).tolist()))


def add(features: np.ndarray, amount: int) -> Depths:
    """Return the depths that the published script chooses, faults included.

    The published search is given the features in reverse (index 0 is the noisiest state), and
    the indices it returns are used as depths all the same.

    Args:
        features: features of one image, [T, K], whose mean over K is searched.
        amount: number of depths, 1..T.

    Reference:
        ADD's `get_adaptive_list` and the script that calls it.
    """
    return search_levels(features.mean(axis=1)[::-1], amount)


LOOKS = 101  # looks of the published search for one wanted value


def search_levels(values: np.ndarray, amount: int) -> Depths:
    """Search a list for `amount` equal parts of its range, as published.

    For each wanted value in turn the search takes the first nearest entry, if it lies behind the
    entry taken before (for the first value: behind index 0). Otherwise it writes 0 over the entry
    and looks again. If a value is not found in `LOOKS` looks, the whole search has failed, and the
    depths are evenly spaced. The search works on a list that rises in many steps. In a falling
    list the first value is found near the end and the second before it: with many entries between
    the two the search fails, with few it returns neighbouring indices near the end.

    Args:
        values: float array [T]; the search writes 0 over some entries.
        amount: number of values wanted, 1..T.

    Returns:
        Indices into `values`, rising; evenly spaced ones where the search failed.
    """
    lowest, highest = values.min(), values.max()
    found: list[int] = []
    for part in range(1, amount + 1):
        wanted = lowest + part * (highest - lowest) / amount
        index = _look_behind(found[-1] if found else 0, wanted, values)
        if index is None:
            stride = len(values) // amount
            evenly = *(stride * i for i in range(1, amount)), stride * amount - 1
            return Depths(evenly, fallback=True)
        found.append(index)
    return Depths(tuple(found))


def _look_behind(last: int, wanted: float, values: np.ndarray) -> int | None:
    # The published search looks once more after `LOOKS` looks, and does not take what it finds.
    for look in range(LOOKS + 1):
        nearest = int(np.abs(values - wanted).argmin())
        if nearest > last:
            return nearest if look < LOOKS else None
        values[nearest] = 0
    return None


POLICIES: dict[str, Callable[[np.ndarray, int], Depths]]
POLICIES = {"add": add, "even": even, "uniform": uniform}
