"""Results of many images on disk while they are made: one record per image, in one file.

All ranks write to the file. A killed run leaves it behind, and the same command makes only the
missing records.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from ..errors import blame
from . import atomic_files, dist_util, faults, logger, progress_bars
from .work_sharing import SharedBatches

Make = Callable[[Sequence[int]], Mapping[str, np.ndarray]]


def fill(
    path: Path, fields: Sequence[tuple], count: int, batch_size: int, make: Make
) -> Iterator[np.memmap]:
    """Make the records among 0..count-1 that are missing, on all ranks.

    Every rank iterates to the end. Record i must depend on i alone, not on its batch.

    Args:
        path: path of the .npy file, which the caller removes in the end.
        fields: name, type and shape of each field of a record, as numpy takes them.
        count: number of records, the `--num_samples` of the command.
        batch_size: records per call of `make`.
        make: function of n indices that returns {field: values [n, ...]}.

    Yields:
        All records, after each batch of this rank. Their field "finished" is true for the records
        that any rank has made so far; before the last yield, all ranks wait until all are made.

    Raises:
        UserError: if the disk has no room.
    """

    def unfinished() -> list[int]:
        if not path.exists():
            with blame("num_samples"):
                atomic_files.create_array(path, [("finished", np.bool_), *fields], (count,))
        finished = open_memmap(path, "r")["finished"]
        if finished.any():
            logger.log(f"{finished.sum()} of {count} images are there from an earlier run")
        return np.flatnonzero(~finished).tolist()

    batches = SharedBatches(dist_util.once(unfinished), batch_size)
    records = open_memmap(path, "r+")
    for number, batch in enumerate(progress_bars.progress(batches, unit="batch")):
        if number:
            yield records
        made = make(batch)
        with atomic_files.storing(path):
            for name, values in made.items():
                records[name][batch] = values
            records.flush()  # before they count as finished
            records["finished"][batch] = True
        faults.point("batch.done")
    dist_util.barrier()
    yield records
