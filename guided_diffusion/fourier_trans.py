"""ADD's two names, on this project's functions."""

from collections.abc import Sequence

import torch as th

from .depth import search_levels
from .spectrum import reference_magnitude


def image_fourier_trans(image: th.Tensor, filter: str = "HP") -> float:
    """Return the spectral magnitude of the first image of a batch [N, C, H, W].

    Args:
        image: batch; the published code measures its first image alone.
        filter: accepted for compatibility; the published result does not depend on it.
    """
    return reference_magnitude(image[:1]).item()


def get_adaptive_list(total_list: Sequence[float], amount: int) -> list[int]:
    """Return the published depth search on a list; see `depth.search_levels`."""
    return list(search_levels(total_list, amount).values)
