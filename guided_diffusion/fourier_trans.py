"""Upstream's `fourier_trans`; the code is in `translation/fourier_trans.py`."""
# ruff: noqa: F401, F403

from ._porch import cv2, hand_on, torch, warnings
from .translation import fourier_trans as module
from .translation.fourier_trans import *

hand_on(__name__, module)
