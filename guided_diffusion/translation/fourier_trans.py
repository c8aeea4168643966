"""ADD's two public functions: the spectral magnitude of an image, and the search for depths."""

from collections.abc import MutableSequence

import numpy as np
import torch as th

from ..data.image_features import reference_magnitude
from .depth_policies import search_levels


def image_fourier_trans(image: th.Tensor | np.ndarray, filter: str = "HP") -> float:
    """Return the published spectral magnitude of an image, see `reference_magnitude`.

    Args:
        image: tensor [N, C, H, W], whose first image alone is measured, as published; or array
            [H, W, C].
        filter: accepted for compatibility; the published result does not depend on it.
    """
    if not th.is_tensor(image):
        image = th.from_numpy(np.moveaxis(image, -1, 0).astype(np.float64))[None]
    return reference_magnitude(image[:1]).item()


def get_adaptive_list(total_list: MutableSequence[float], amount: int) -> list[int]:
    """Search a list for `amount` equal parts of its range, as published; see `search_levels`.

    Args:
        total_list: list of numbers; the search writes 0 over each entry that it passes over.
        amount: number of indices wanted.

    Returns:
        Indices into the list, rising; evenly spaced ones where the search fails.
    """
    values = np.array(total_list, dtype=np.float64)
    before = values.copy()
    found = search_levels(values, amount)
    for index in np.flatnonzero(values != before):
        total_list[int(index)] = 0
    return list(found.values)
