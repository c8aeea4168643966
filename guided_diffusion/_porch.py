"""Keep upstream's import paths alive: `guided_diffusion.unet` is `guided_diffusion.networks.unet`.

A porch is a module under upstream's name. It imports what the room behind it has, so that type
checkers and readers see it, and what upstream's module happened to import besides. Then it hands
its name on to the room: programs that read, replace or pickle what they find under upstream's
name work with the real module.
"""

import sys
from types import ModuleType


def hand_on(name: str, room: ModuleType) -> None:
    """Let the name of a porch stand for a room, which gets the names that only the porch has.

    Args:
        name: `__name__` of the porch.
        room: the module behind it.
    """
    for key, value in vars(sys.modules[name]).items():
        if key not in ("room", "hand_on"):
            vars(room).setdefault(key, value)
    sys.modules[name] = room
