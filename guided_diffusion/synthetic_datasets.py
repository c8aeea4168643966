"""Upstream's `synthetic_datasets`; the code is in `data/synthetic_datasets.py`."""
# ruff: noqa: F401, F403

from torch.utils.data import DataLoader, Dataset

from ._porch import hand_on
from .data import synthetic_datasets as module
from .data.synthetic_datasets import *
from .runtime.lazy import plt

hand_on(__name__, module)
