"""Upstream's `color_datasets`; the code is in `data/color_datasets.py`."""
# ruff: noqa: F401, F403

from ._porch import DataLoader, Dataset, Image, bf, color, hand_on
from .data import color_datasets as module
from .data.color_datasets import *

hand_on(__name__, module)
