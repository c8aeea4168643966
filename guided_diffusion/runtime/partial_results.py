"""Results of many images on disk while they are made: one record per image, in one file.

All ranks write to the file. A killed run leaves it behind, and the same command makes only the
missing records.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import ArgumentError, blame
from . import atomic_files, dist_util, faults, input_files, logger, progress_bars
from .work_sharing import SharedBatches

Make = Callable[[Sequence[int]], Mapping[str, np.ndarray]]


def refuse_too_many(path: Path, fields: Sequence[tuple], count: int, copies: int = 1) -> None:
    """Refuse more records than the disk has room for.

    Args:
        path: path of the .npy file, which need not exist, nor its folder.
        fields: name, type and shape of each field of a record, as numpy takes them.
        count: number of records, the `--num_samples` of the command.
        copies: number of files that hold the records at once in the end.

    Raises:
        UserError: with the room that is needed and the room that is free.
    """
    there = next(place for place in path.absolute().parents if place.exists())
    size = np.dtype([("finished", np.bool_), *fields]).itemsize * count
    needed, disk = size * (copies - path.exists()), shutil.disk_usage(there)
    free = disk.free
    if needed > free and disk.total:  # a system of no size says nothing
        raise ArgumentError(
            "num_samples",
            f"{count} images need {needed / 1e9:,.2f} GB of disk in {path.parent}, where "
            f"{free / 1e9:,.2f} GB are free; ask for fewer, or name a folder on another disk "
            "(out_dir)",
        )


def _fits(path: Path, dtype: np.dtype, count: int) -> bool:
    try:
        records = input_files.mapped_array(path)
    except (ValueError, FileNotFoundError):  # cut off, or no such file
        return False
    return records.dtype == dtype and records.shape == (count,)


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

    dtype = np.dtype([("finished", np.bool_), *fields])

    def missing() -> list[int]:
        if path.exists() and not _fits(path, dtype, count):
            logger.warn(f"{path} is damaged; what it held is made again")
            path.unlink()
        if not path.exists():
            with blame("num_samples"):
                atomic_files.create_array(path, dtype, (count,))
        finished = input_files.mapped_array(path)["finished"]
        if finished.any():
            logger.log(f"{finished.sum()} of {count} images are there from an earlier run")
        return np.flatnonzero(~finished).tolist()

    batches = SharedBatches(dist_util.once(missing), batch_size)
    records = input_files.mapped_array(path, "r+")
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
