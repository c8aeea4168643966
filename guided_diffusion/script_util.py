"""Upstream's `script_util`; the code is in `models/script_util.py`."""
# ruff: noqa: F401, F403

import argparse
import inspect

from ._porch import hand_on
from .config.parser import add_dict_to_argparser, args_to_dict, str2bool
from .models import script_util as module
from .models.script_util import *

hand_on(__name__, module)
