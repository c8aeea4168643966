"""Results of many images on disk while they are made: one record per image, in one file.

All ranks write to the file. A killed run leaves it behind, and the same command makes only what is
missing in it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from ..errors import blame
from . import atomic_files, dist_util, logger, progress_bars
from .work_sharing import Dealing

Make = Callable[[Sequence[int]], Mapping[str, np.ndarray]]


def fill(
    path: Path, fields: Sequence[tuple], count: int, batch_size: int, make: Make
) -> Iterator[np.memmap]:
    """Make a record for each of 0..count-1 that has none, on all ranks.

    Every rank iterates to the end. Record i must depend on i alone, not on its batch.

    Args:
        path: of the .npy file; the caller removes it in the end.
        fields: name, type and shape of what a record holds, as numpy takes them.
        count: number of records, the `--num_samples` of the command.
        batch_size: records per call of `make`.
        make: takes n indices, returns {field: [n, ...]}.

    Yields:
        all records, after each batch of this rank; those of any rank that are made so far are
        "finished", and in the end, for which every rank waits, all are.

    Raises:
        UserError: if the disk has no room.
    """
    todo = dist_util.once(lambda: _unfinished(path, fields, count))
    records = open_memmap(path, "r+")
    for number, batch in enumerate(progress_bars.progress(Dealing(todo, batch_size), unit="batch")):
        if number:
            yield records
        _store(records, batch, make(batch))
    dist_util.barrier()
    yield records


def _unfinished(path: Path, fields: Sequence[tuple], count: int) -> list[int]:
    if not path.exists():
        dtype = [("finished", np.bool_), *fields]
        with blame("num_samples"):
            atomic_files.create_array(path, dtype, (count,))
    finished = open_memmap(path, "r")["finished"]
    if finished.any():
        logger.log(f"{finished.sum()} of {count} images are there from an earlier run")
    return np.flatnonzero(~finished).tolist()


def _store(records: np.memmap, batch: Sequence[int], made: Mapping[str, np.ndarray]) -> None:
    for name, values in made.items():
        records[name][batch] = values
    records.flush()  # before they count as finished
    records["finished"][batch] = True
