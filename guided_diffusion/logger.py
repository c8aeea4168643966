"""Upstream's `logger`; the code is in `runtime/logger.py`."""
# ruff: noqa: F401, F403

import json
import os.path as osp
import shutil
import warnings
from contextlib import contextmanager

from ._porch import hand_on
from .runtime import logger as room
from .runtime.log_formats import (
    CSVOutputFormat,
    HumanOutputFormat,
    JSONOutputFormat,
    KVWriter,
    SeqWriter,
    TensorBoardOutputFormat,
    make_output_format,
)
from .runtime.logger import *

hand_on(__name__, room)
