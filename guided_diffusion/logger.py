"""Upstream's `logger`; the code is in `runtime/logger.py`."""
# ruff: noqa: F401, F403

import json
import os.path as osp
import shutil
import warnings
from contextlib import contextmanager

from ._porch import hand_on
from .runtime import logger as module
from .runtime.log_formats import CSVOutputFormat, JSONOutputFormat, TensorBoardOutputFormat
from .runtime.logger import *
from .runtime.logger import _configure_default_logger

hand_on(__name__, module)
