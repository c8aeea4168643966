"""Upstream's `synthetic`; the code is in `networks/synthetic.py`."""
# ruff: noqa: F401, F403

from ._porch import abstractmethod, hand_on, th
from .networks import synthetic as module
from .networks.nn import *
from .networks.synthetic import *

hand_on(__name__, module)
