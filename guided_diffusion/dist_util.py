"""Upstream's `dist_util`; the code is in `runtime/dist_util.py`."""
# ruff: noqa: F401, F403

import socket

from ._porch import hand_on
from .runtime import dist_util as module
from .runtime.dist_util import *
from .runtime.dist_util import _find_free_port
from .runtime.lazy import MPI, bf

hand_on(__name__, module)
