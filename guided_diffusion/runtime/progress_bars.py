"""Progress bars, seen where rank 0 has a terminal."""

from collections.abc import Iterable
from typing import Any

from . import dist_util


def progress(items: Iterable, **options: Any) -> Iterable:
    """Wrap items in tqdm's bar with these options, seen where rank 0 has a terminal."""
    from tqdm.auto import tqdm

    return tqdm(items, disable=True if dist_util.rank() else None, **options)


def inner_progress(steps: Iterable, desc: str) -> Iterable:
    """Wrap the steps of one item in a bar below the main one, which goes when they are done."""
    return progress(steps, desc=desc, unit="step", leave=False, position=1)
