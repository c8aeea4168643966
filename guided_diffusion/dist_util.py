"""Upstream's `dist_util`; the code is in `runtime/dist_util.py`."""
# ruff: noqa: F401, F403

from ._porch import hand_on
from .runtime import dist_util as module
from .runtime.dist_util import *
from .runtime.dist_util import _find_free_port
from .runtime.lazy import MPI, bf

STAR = """
    GPUS_PER_NODE MPI SETUP_RETRY_COUNT bf dev dist io load_state_dict os setup_dist socket
    sync_params th
"""
hand_on(__name__, module, STAR)
