"""Upstream's `script_util`; the code is in `models/script_util.py`."""
# ruff: noqa: F401, F403

from ._porch import argparse, hand_on, inspect
from .config.parser import add_dict_to_argparser, args_to_dict, str2bool
from .config.settings import defaults
from .errors import ArgumentError, UserError
from .models import script_util as module
from .models.script_util import *

hand_on(__name__, module)
