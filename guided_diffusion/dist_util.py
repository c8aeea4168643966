"""Upstream's `dist_util`; the code is in `runtime/dist_util.py`."""
# ruff: noqa: F401, F403

from ._porch import MPI, bf, hand_on
from .runtime import dist_util as module
from .runtime.dist_util import *
from .runtime.dist_util import _find_free_port

hand_on(__name__, module)
