"""Names of files that are not finished yet, which a killed run leaves behind.

    .NAME.XXXXXXXX.guided-diffusion.partial   a file being written; the next run removes it
    NAME.npy.partial                          an array being filled; the next run goes on with it
    .NAME.unfinished.npy                      a record for each image; the next run goes on with it

The first has 8 hexadecimal digits. No other program makes such names, so that it can be removed.
"""

import re
import secrets
from pathlib import Path

KEPT = 40  # letters of a name that its temporary name keeps, as names have a longest length
_PARTIAL = re.compile(r"\..*\.[0-9a-f]{8}\.guided-diffusion\.partial", re.DOTALL)


def partial_of(path: Path) -> Path:
    """Return a new temporary name beside a path."""
    return path.with_name(f".{path.name[:KEPT]}.{secrets.token_hex(4)}.guided-diffusion.partial")


def is_partial(name: str) -> bool:
    """Return whether a name is a temporary name of ours."""
    return _PARTIAL.fullmatch(name) is not None


def array_of(path: Path) -> Path:
    """Return the name that an array has while a run is filling it."""
    return path.with_name(f"{path.name}.partial")


def records_of(folder: Path, name: str) -> Path:
    """Return the file in a run folder that holds the results of a name until all are made."""
    return folder / f".{name}.unfinished.npy"
