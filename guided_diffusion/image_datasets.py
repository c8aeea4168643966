"""Upstream's `image_datasets`; the code is in `data/image_datasets.py`."""
# ruff: noqa: F401, F403

import math
import random

from ._porch import hand_on
from .data import image_datasets as module
from .data.image_datasets import *
from .data.image_files import _list_image_files_recursively, list_image_files
from .data.imagenet import get_image_filenames_for_label
from .runtime.lazy import MPI, bf

hand_on(__name__, module)
