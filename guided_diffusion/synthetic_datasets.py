"""Upstream's `synthetic_datasets`; the code is in `data/synthetic_datasets.py`."""
# ruff: noqa: F401, F403

from ._porch import DataLoader, Dataset, hand_on, plt
from .data import synthetic_datasets as module
from .data.synthetic_datasets import *

hand_on(__name__, module)
