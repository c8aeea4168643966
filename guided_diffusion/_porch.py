"""Keep upstream's import paths alive: `guided_diffusion.unet` is `guided_diffusion.networks.unet`.

A porch is a file under upstream's name. It imports the names of the real module, so that type
checkers and readers see them, and names that upstream's module happened to import; those of other
packages stand below. Then `hand_on` puts the real module in its place: programs that read, replace
or pickle something under upstream's name work with the real module.
"""
# ruff: noqa: F401

import argparse
import functools
import inspect
import json
import math
import os.path as osp
import random
import shutil
import sys
import warnings
from abc import abstractmethod
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import torch
import torch as th
import torch.distributed as dist
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from .runtime.lazy import MPI, bf, color, cv2, plt


def hand_on(name: str, module: ModuleType) -> None:
    """Put the real module in the place of a porch (its `__name__`), and add the porch's names."""
    for key, value in vars(sys.modules[name]).items():
        if key not in ("module", "hand_on"):
            vars(module).setdefault(key, value)
    sys.modules[name] = module
