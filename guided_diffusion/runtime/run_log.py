"""The log of a run: log.txt, progress.csv and progress.jsonl in its folder."""

import contextlib
import csv
import json
import os
from pathlib import Path

from . import atomic_files, dist_util, input_files, logger


def open_run_log(out_dir: Path, *, together: bool = True) -> None:
    """Log to the terminal and to log.txt, progress.csv and progress.jsonl of a run folder.

    Args:
        out_dir: the run folder.
        together: whether a row holds the means over all ranks; otherwise ranks above 0 write rows
            of their own to log-rankNNN.txt and so on.
    """
    formats = os.getenv("OPENAI_LOG_FORMAT", "stdout,log,csv,jsonl").split(",")
    if dist_util.rank() > 0:
        formats = [] if together else [name for name in formats if name != "stdout"]
    comm = dist_util.Ranks() if together and dist_util.world_size() > 1 else None
    logger.configure(str(out_dir), formats, comm)


def drop_later_rows(out_dir: Path, done: int) -> None:
    """Drop the rows of later steps, which will be done again, from the progress files of a run.

    A last row that a kill cut short goes too; rows without a readable step stay.

    Args:
        out_dir: the run folder, no log open in it.
        done: the last step whose row stays.
    """
    for path in (out_dir / f"progress.{suffix}" for suffix in ("csv", "json", "jsonl")):
        if path.exists():
            lines = input_files.read_bytes(path).splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            kept = [line for line in whole if not _step(line, lines[0], path.suffix) > done]
            atomic_files.write_if_changed(path, b"".join(kept))


def _step(line: bytes, header: bytes, suffix: str) -> float:
    # nan, which is not above any number, where no step can be read.
    unreadable = ValueError, LookupError, TypeError, OverflowError, RecursionError, csv.Error
    with contextlib.suppress(*unreadable):
        if suffix != ".csv":
            return float(json.loads(line)["step"])
        keys, values = csv.reader([header.decode(), line.decode()])
        return float(values[keys.index("step")])
    return float("nan")
