"""Upstream's `synthetic_datasets`; the code is in `data/synthetic_datasets.py`."""
# ruff: noqa: F401, F403

from torch.utils.data import DataLoader, Dataset

from ._porch import hand_on
from .data import synthetic_datasets as module
from .data.synthetic_datasets import *
from .runtime.lazy import plt

STAR = """
    BaseSampler ConcentricRingSampler ConcentricSquareSampler DataLoader Dataset
    OlympicRingSampler OlympicSquareSampler RingSampler SquareSampler Synthetic2DDataset
    Synthetic2DType enum heatmap load_2d_data make_checkerboard make_moons normalize np plt
    save_plots scatter
"""
hand_on(__name__, module, STAR)
