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

STAR = """
    CSVOutputFormat DEBUG DISABLED ERROR HumanOutputFormat INFO JSONOutputFormat KVWriter Logger
    SeqWriter TensorBoardOutputFormat WARN configure contextmanager datetime debug defaultdict
    dump_tabular dumpkvs error get_current get_dir get_rank_without_mpi_import getkvs info json
    log logkv logkv_mean logkvs make_output_format mpi_weighted_mean os osp profile profile_kv
    record_tabular reset scoped_configure set_comm set_level shutil sys tempfile time warn
    warnings
"""
hand_on(__name__, module, STAR)
