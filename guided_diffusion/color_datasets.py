"""Upstream's `color_datasets`; the code is in `data/color_datasets.py`."""
# ruff: noqa: F401, F403

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ._porch import hand_on
from .data import color_datasets as module
from .data.color_datasets import *
from .runtime.lazy import bf, color

STAR = """
    ColorDataset DataLoader Dataset Image bf color load_color_data_for_training
    load_color_data_for_translation np rgb_sample_to_image sample_to_image
"""
hand_on(__name__, module, STAR)
