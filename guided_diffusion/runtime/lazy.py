"""Modules that are imported when they are first used.

Upstream's users take `MPI`, `bf` or `plt` from its modules. Those names are here too, but a
program that does not use them needs neither the packages behind them nor their time to load.
"""

import importlib
import types
from typing import Any


class LazyModule(types.ModuleType):
    """A stand-in for a module, which is imported when something in it is first used.

    Args:
        name: full name of the module.

    Raises:
        ImportError: at the first use, if the module is not installed.
    """

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # inspection of the name alone must not import
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self.__name__), attribute)


MPI = LazyModule("mpi4py.MPI")
bf = LazyModule("blobfile")
color = LazyModule("skimage.color")
cv2 = LazyModule("cv2")
plt = LazyModule("matplotlib.pyplot")
