"""Upstream's `color_datasets`; the code is in `data/color_datasets.py`."""
# ruff: noqa: F401, F403

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ._porch import hand_on
from .data import color_datasets as module
from .data.color_datasets import *
from .runtime.lazy import bf, color

hand_on(__name__, module)
