"""Upstream's `logger`; the code is in `runtime/logger.py`."""
# ruff: noqa: F401, F403

from ._porch import contextmanager, hand_on, json, osp, shutil, warnings
from .runtime import logger as module
from .runtime.log_formats import *
from .runtime.logger import *
from .runtime.logger import _configure_default_logger

hand_on(__name__, module)
