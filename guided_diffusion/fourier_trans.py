"""Upstream's `fourier_trans`; the code is in `translation/fourier_trans.py`."""
# ruff: noqa: F401, F403

import warnings

import torch

from ._porch import hand_on
from .runtime.lazy import cv2
from .translation import fourier_trans as module
from .translation.fourier_trans import *

hand_on(__name__, module)
