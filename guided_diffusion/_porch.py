"""Keep upstream's import paths alive: `guided_diffusion.unet` is `guided_diffusion.networks.unet`.

A porch is a file under upstream's name. It imports the names of the real module, so that type
checkers and readers see them, and names that upstream's module happened to import. Then `hand_on`
puts the real module in its place: programs that read, replace or pickle something under upstream's
name work with the real module.
"""

import sys
from types import ModuleType


def hand_on(name: str, module: ModuleType, star: str) -> None:
    """Put the real module in the place of a porch, and add the porch's names.

    Args:
        name: the porch's `__name__`.
        module: the real module.
        star: names that `import *` brings, with spaces between: upstream's and no other, since
            another could hide a name of the program that imports.
    """
    for key, value in vars(sys.modules[name]).items():
        if key not in ("module", "hand_on", "STAR"):
            vars(module).setdefault(key, value)
    vars(module)["__all__"] = star.split()
    sys.modules[name] = module
