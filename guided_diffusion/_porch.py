"""Keep upstream's import paths alive: `guided_diffusion.unet` is `guided_diffusion.networks.unet`.

A porch is a module under upstream's name. It imports what the room behind it has, so that type
checkers and readers see it, and what upstream's module happened to import besides: other people's
modules come from here. Then it hands its name on to the room: programs that read, replace or
pickle what they find under upstream's name work with the real module.
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


def hand_on(name: str, room: ModuleType) -> None:
    """Let the name of a porch (its `__name__`) stand for a room, which gets the porch's names."""
    for key, value in vars(sys.modules[name]).items():
        if key not in ("room", "hand_on"):
            vars(room).setdefault(key, value)
    sys.modules[name] = room
