"""Upstream's `image_datasets`; the code is in `data/image_datasets.py`."""
# ruff: noqa: F401, F403

from ._porch import MPI, bf, hand_on, math, random
from .data import image_datasets as module
from .data.image_datasets import *
from .data.image_files import *
from .data.image_files import _list_image_files_recursively
from .data.imagenet import get_image_filenames_for_label

hand_on(__name__, module)
