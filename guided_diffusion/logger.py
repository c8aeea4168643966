"""Key-value logging with upstream's interface: a current logger that writes to several formats.

`logkv` notes the last value of a key, `logkv_mean` averages what it is given, `dumpkvs` writes a
row to every format and starts the next. Formats: stdout, log (log.txt), csv (progress.csv),
json and jsonl (one JSON object per line in progress.json or progress.jsonl), tensorboard.
"""

import contextlib
import csv
import datetime
import functools
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

DEBUG, INFO, WARN, ERROR, DISABLED = 10, 20, 30, 40, 50


class KVWriter:
    """A format that takes rows of key-value pairs."""

    def writekvs(self, kvs: dict[str, Any]) -> None:
        """Write one row."""
        raise NotImplementedError


class SeqWriter:
    """A format that takes lines of text."""

    def writeseq(self, seq: Sequence[str]) -> None:
        """Write the words of one line."""
        raise NotImplementedError


class _FileFormat(KVWriter):
    def __init__(self, filename: str) -> None:
        self.file = open(filename, "a+", encoding="utf-8", errors="replace", newline="")
        self._end_cut_line()

    def _end_cut_line(self) -> None:
        # A killed run can leave a row without its end; the next row must not join it.
        self.file.seek(0)
        if self.file.read()[-1:] not in ("", "\n"):
            self.file.write("\n")

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class HumanOutputFormat(KVWriter, SeqWriter):
    """Tables and lines for people; to a file name or an open text file."""

    def __init__(self, filename_or_file: str | TextIO) -> None:
        self.owned = isinstance(filename_or_file, str)
        self.file = (
            open(filename_or_file, "a", encoding="utf-8") if self.owned else filename_or_file
        )

    def writekvs(self, kvs: dict[str, Any]) -> None:
        rows = [(_shorten(key), _shorten(_shown(value))) for key, value in sorted(kvs.items())]
        if not rows:
            return
        key_width, value_width = (max(len(row[i]) for row in rows) for i in (0, 1))
        rule = "-" * (key_width + value_width + 7)
        lines = [f"| {key:<{key_width}} | {value:<{value_width}} |" for key, value in rows]
        self.file.write("\n".join([rule, *lines, rule]) + "\n")
        self.file.flush()

    def writeseq(self, seq: Sequence[str]) -> None:
        self.file.write(" ".join(seq) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self.owned:
            self.file.close()


def _shown(value: Any) -> str:
    return f"{float(value):.4g}" if hasattr(value, "__float__") else str(value)


def _shorten(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


class JSONOutputFormat(_FileFormat):
    """One JSON object per row."""

    def writekvs(self, kvs: dict[str, Any]) -> None:
        self.file.write(json.dumps({key: _plain(value) for key, value in kvs.items()}) + "\n")
        self.file.flush()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


class CSVOutputFormat(_FileFormat):
    """A table whose columns grow when a new key comes up."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename)
        self.file.seek(0)
        self.keys: list[str] = next(csv.reader(self.file), [])
        self.file.seek(0, os.SEEK_END)

    def writekvs(self, kvs: dict[str, Any]) -> None:
        new = sorted(kvs.keys() - set(self.keys))
        if new:
            self._widen(new)
        csv.writer(self.file).writerow([kvs.get(key, "") for key in self.keys])
        self.file.flush()

    def _widen(self, new: list[str]) -> None:
        self.file.seek(0)
        rows = list(csv.reader(self.file))[1:]
        self.keys += new
        self.file.seek(0)
        self.file.truncate()
        blank = [""] * len(new)
        csv.writer(self.file).writerows([self.keys, *(row + blank for row in rows)])


class TensorBoardOutputFormat(KVWriter):
    """Event files for TensorBoard; needs `pip install tensorboard`."""

    def __init__(self, dir: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(dir)
        self.step = 1

    def writekvs(self, kvs: dict[str, Any]) -> None:
        for key, value in kvs.items():
            self.writer.add_scalar(key, float(value), self.step)
        self.writer.flush()
        self.step += 1

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


def make_output_format(format: str, ev_dir: str, log_suffix: str = "") -> KVWriter:
    """Open one format in a folder.

    Raises:
        ValueError: for an unknown name.
    """
    os.makedirs(ev_dir, exist_ok=True)
    makers: dict[str, Callable[[], KVWriter]] = {
        "stdout": lambda: HumanOutputFormat(sys.stdout),
        "log": lambda: HumanOutputFormat(os.path.join(ev_dir, f"log{log_suffix}.txt")),
        "json": lambda: JSONOutputFormat(os.path.join(ev_dir, f"progress{log_suffix}.json")),
        "jsonl": lambda: JSONOutputFormat(os.path.join(ev_dir, f"progress{log_suffix}.jsonl")),
        "csv": lambda: CSVOutputFormat(os.path.join(ev_dir, f"progress{log_suffix}.csv")),
        "tensorboard": lambda: TensorBoardOutputFormat(os.path.join(ev_dir, f"tb{log_suffix}")),
    }
    if format not in makers:
        raise ValueError(f"log format: expected one of {sorted(makers)}, got {format!r}")
    return makers[format]()


class Logger:
    """Collects key-value pairs and writes them, and lines of text, to its formats."""

    DEFAULT: "Logger | None" = None
    CURRENT: "Logger | None" = None

    def __init__(
        self, dir: str | None, output_formats: Sequence[KVWriter], comm: Any = None
    ) -> None:
        self.name2val: dict[str, Any] = defaultdict(float)
        self.name2cnt: dict[str, int] = defaultdict(int)
        self.level = INFO
        self.dir = dir
        self.output_formats = list(output_formats)
        self.comm = comm

    def logkv(self, key: str, val: Any) -> None:
        """Note a value; the last one before a dump counts."""
        self.name2val[key] = val

    def logkv_mean(self, key: str, val: Any) -> None:
        """Note one of several values of a key, of which a dump writes the mean."""
        count = self.name2cnt[key]
        self.name2val[key] = self.name2val[key] * count / (count + 1) + val / (count + 1)
        self.name2cnt[key] = count + 1

    def dumpkvs(self) -> dict[str, Any]:
        """Write the row to every format, start the next, and return it."""
        row = dict(self.name2val)
        if self.comm is not None:
            counted = {k: (v, self.name2cnt.get(k, 1)) for k, v in row.items()}
            row = mpi_weighted_mean(self.comm, counted)
        if self.level != DISABLED and row:
            for writer in self.output_formats:
                if isinstance(writer, KVWriter):
                    writer.writekvs(row)
        self.name2val.clear()
        self.name2cnt.clear()
        return row

    def log(self, *args: Any, level: int = INFO) -> None:
        """Write a line of text to the formats that take lines."""
        if self.level <= level:
            for writer in self.output_formats:
                if isinstance(writer, SeqWriter):
                    writer.writeseq([str(arg) for arg in args])

    def set_level(self, level: int) -> None:
        """Write lines of this level and above only."""
        self.level = level

    def set_comm(self, comm: Any) -> None:
        """Average rows over an MPI communicator before they are written."""
        self.comm = comm

    def get_dir(self) -> str | None:
        """Return the folder of the log files."""
        return self.dir

    def close(self) -> None:
        """Close every format."""
        for writer in self.output_formats:
            writer.close()


def mpi_weighted_mean(
    comm: Any, local_name2valcount: dict[str, tuple[float, int]]
) -> dict[str, float]:
    """Average values over the ranks of a communicator, weighted by their counts.

    Returns:
        the means on rank 0, an empty dict elsewhere.
    """
    gathered = comm.gather(local_name2valcount)
    if comm.rank != 0:
        return {}
    totals: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    for part in gathered:
        for name, (value, count) in part.items():
            with contextlib.suppress(TypeError, ValueError):  # text has no mean
                weighted = float(value) * count
                totals[name] += weighted
                counts[name] += count
    return {name: totals[name] / counts[name] for name in totals}


def get_rank_without_mpi_import() -> int:
    """Return the rank that a launcher put into the environment, 0 without one."""
    for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def configure(
    dir: str | None = None,
    format_strs: Sequence[str] | None = None,
    comm: Any = None,
    log_suffix: str = "",
) -> None:
    """Make a new current logger.

    Args:
        dir: folder of the log files; else OPENAI_LOGDIR, else a dated temporary folder.
        format_strs: names of formats; else OPENAI_LOG_FORMAT, else stdout, log and csv on
            rank 0 and log alone on other ranks.
        comm: an MPI communicator over which rows are averaged.
        log_suffix: put into the file names; ranks above 0 add their own.
    """
    stamp = datetime.datetime.now().strftime("openai-%Y-%m-%d-%H-%M-%S-%f")
    dir = dir or os.getenv("OPENAI_LOGDIR") or os.path.join(tempfile.gettempdir(), stamp)
    dir = os.path.expanduser(dir)
    os.makedirs(dir, exist_ok=True)
    rank = get_rank_without_mpi_import()
    if rank > 0:
        log_suffix += f"-rank{rank:03d}"
    if format_strs is None:
        name, fallback = (
            ("OPENAI_LOG_FORMAT", "stdout,log,csv")
            if rank == 0
            else ("OPENAI_LOG_FORMAT_MPI", "log")
        )
        format_strs = os.getenv(name, fallback).split(",")
    formats = [make_output_format(name, dir, log_suffix) for name in format_strs if name]
    Logger.CURRENT = Logger(dir=dir, output_formats=formats, comm=comm)


def get_current() -> Logger:
    """Return the current logger; one that writes to stdout alone where none was configured."""
    if Logger.CURRENT is None:
        if Logger.DEFAULT is None:
            Logger.DEFAULT = Logger(dir=None, output_formats=[HumanOutputFormat(sys.stdout)])
        Logger.CURRENT = Logger.DEFAULT
    return Logger.CURRENT


def reset() -> None:
    """Close the current logger and go back to the default one."""
    if Logger.CURRENT is not Logger.DEFAULT and Logger.CURRENT is not None:
        Logger.CURRENT.close()
    Logger.CURRENT = Logger.DEFAULT


@contextlib.contextmanager
def scoped_configure(
    dir: str | None = None, format_strs: Sequence[str] | None = None, comm: Any = None
) -> Iterator[None]:
    """Use another logger inside a block."""
    previous = Logger.CURRENT
    configure(dir=dir, format_strs=format_strs, comm=comm)
    try:
        yield
    finally:
        get_current().close()
        Logger.CURRENT = previous


def logkv(key: str, val: Any) -> None:
    """Note a value; the last one before a dump counts."""
    get_current().logkv(key, val)


def logkv_mean(key: str, val: Any) -> None:
    """Note one of several values of a key, of which a dump writes the mean."""
    get_current().logkv_mean(key, val)


def logkvs(d: dict[str, Any]) -> None:
    """Note several values."""
    for key, val in d.items():
        logkv(key, val)


def dumpkvs() -> dict[str, Any]:
    """Write the row to every format, start the next, and return it."""
    return get_current().dumpkvs()


def getkvs() -> dict[str, Any]:
    """Return the row as it stands."""
    return get_current().name2val


def log(*args: Any, level: int = INFO) -> None:
    """Write a line of text."""
    get_current().log(*args, level=level)


debug = functools.partial(log, level=DEBUG)
info = functools.partial(log, level=INFO)
warn = functools.partial(log, level=WARN)
error = functools.partial(log, level=ERROR)


def set_level(level: int) -> None:
    """Write lines of this level and above only."""
    get_current().set_level(level)


def set_comm(comm: Any) -> None:
    """Average rows over an MPI communicator before they are written."""
    get_current().set_comm(comm)


def get_dir() -> str | None:
    """Return the folder of the log files."""
    return get_current().get_dir()


record_tabular = logkv
dump_tabular = dumpkvs


@contextlib.contextmanager
def profile_kv(scopename: str) -> Iterator[None]:
    """Add the seconds that a block takes to the key `wait_<scopename>`."""
    start = time.time()
    try:
        yield
    finally:
        get_current().name2val[f"wait_{scopename}"] += time.time() - start


def profile(n: str) -> Callable:
    """Decorate a function so that its seconds add up under `wait_<n>`."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with profile_kv(n):
                return function(*args, **kwargs)

        return timed

    return decorate
