"""Key-value logging with upstream's interface: a current logger that writes to several formats.

`logkv` notes the last value of a key, `logkv_mean` the mean of several, `dumpkvs` writes a row to
every format and starts the next.
"""

import contextlib
import datetime
import functools
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .environment import number
from .log_formats import HumanOutputFormat, KVWriter, SeqWriter, make_output_format
from .writing import writing

DEBUG, INFO, WARN, ERROR, DISABLED = 10, 20, 30, 40, 50
MOST_DEFERRED = 1000  # actions, which hold memory
MOST_EARLY = 1000  # lines


class Logger:
    """Collects key-value pairs and writes them, and lines of text, to its formats.

    For its methods see the functions of this module, which call them on the current logger.
    """

    DEFAULT: "Logger | None" = None
    CURRENT: "Logger | None" = None

    def __init__(
        self, dir: str | None, output_formats: Sequence[KVWriter], comm: Any = None
    ) -> None:
        self.dir, self.output_formats, self.comm = dir, list(output_formats), comm
        self.name2val: dict[str, Any] = defaultdict(float)
        self.name2cnt: dict[str, int] = defaultdict(int)
        self.level = INFO
        self.deferred: list[Callable[[], None]] = []
        self.early: list[list[str]] = []  # lines before there is a folder

    def defer(self, action: Callable[[], None]) -> None:
        """Note an action that logs values, to be done before the row is read."""
        self.deferred.append(action)
        if len(self.deferred) >= MOST_DEFERRED:
            self.settle()

    def settle(self) -> None:
        """Run the deferred actions."""
        actions, self.deferred = self.deferred, []
        for action in actions:
            action()

    def logkv(self, key: str, val: Any) -> None:
        self.name2val[key] = val

    def logkv_mean(self, key: str, val: Any) -> None:
        count = self.name2cnt[key]
        self.name2val[key] = self.name2val[key] * count / (count + 1) + val / (count + 1)
        self.name2cnt[key] = count + 1

    def dumpkvs(self) -> dict[str, Any]:
        self.settle()
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
        if self.level <= level:
            self._do_log(args)

    def _do_log(self, args: Sequence[Any]) -> None:
        if self is Logger.DEFAULT and len(self.early) < MOST_EARLY:
            self.early.append(list(map(str, args)))
        for writer in self.output_formats:
            if isinstance(writer, SeqWriter):
                writer.writeseq([str(arg) for arg in args])

    def set_level(self, level: int) -> None:
        self.level = level

    def set_comm(self, comm: Any) -> None:
        self.comm = comm

    def get_dir(self) -> str | None:
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
    for name, (value, count) in (item for part in gathered for item in part.items()):
        with contextlib.suppress(TypeError, ValueError):  # text has no mean
            weighted = float(value) * count
            totals[name] += weighted
            counts[name] += count
    return {name: totals[name] / counts[name] for name in totals}


def get_rank_without_mpi_import() -> int:
    """Return the rank that a launcher put into the environment, 0 without one."""
    names = "RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"
    return next((number(name, 0) for name in names if name in os.environ), 0)


def configure(
    dir: str | None = None,
    format_strs: Sequence[str] | None = None,
    comm: Any = None,
    log_suffix: str = "",
) -> None:
    """Make a new current logger, and log its folder.

    Args:
        dir: folder of the log files; else OPENAI_LOGDIR, else a dated temporary folder.
        format_strs: names of formats; else OPENAI_LOG_FORMAT, else stdout, log and csv on
            rank 0 and log alone on other ranks.
        comm: an MPI communicator over which rows are averaged.
        log_suffix: suffix of the file names; ranks above 0 add their number.
    """
    stamp = datetime.datetime.now().strftime("openai-%Y-%m-%d-%H-%M-%S-%f")
    dir = dir or os.getenv("OPENAI_LOGDIR") or os.path.join(tempfile.gettempdir(), stamp)
    dir = os.path.expanduser(dir)
    with writing(dir):
        os.makedirs(dir, exist_ok=True)
    asked = os.getenv("OPENAI_LOG_FORMAT", "stdout,log,csv")
    if rank := get_rank_without_mpi_import():
        log_suffix += f"-rank{rank:03d}"
        asked = os.getenv("OPENAI_LOG_FORMAT_MPI", "log")
    format_strs = asked.split(",") if format_strs is None else format_strs
    formats = [make_output_format(name, dir, log_suffix) for name in format_strs if name]
    Logger.CURRENT = Logger(dir=dir, output_formats=formats, comm=comm)
    if formats:
        log(f"Logging to {dir}")
    _repeat_early_lines(formats)


def _repeat_early_lines(formats: Sequence[KVWriter]) -> None:
    """Write the lines that only the terminal saw, before there was a log, into its files."""
    if Logger.DEFAULT is None:
        return
    early, Logger.DEFAULT.early = Logger.DEFAULT.early, []
    for writer in formats:
        if isinstance(writer, SeqWriter) and getattr(writer, "owned", True):
            for line in early:
                writer.writeseq(line)


def _configure_default_logger() -> None:
    if Logger.DEFAULT is None:
        Logger.DEFAULT = Logger(dir=None, output_formats=[HumanOutputFormat(sys.stdout)])
    Logger.CURRENT = Logger.DEFAULT


def get_current() -> Logger:
    """Return the current logger; one that writes to stdout alone where none was configured."""
    if Logger.CURRENT is None:
        _configure_default_logger()
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
    """Note one of several values of a key; a dump writes their mean."""
    get_current().logkv_mean(key, val)


def defer(action: Callable[[], None]) -> None:
    """Have an action note values just before the row is read, so that none waits for a device."""
    get_current().defer(action)


def logkvs(d: dict[str, Any]) -> None:
    """Note several values."""
    for key, val in d.items():
        logkv(key, val)


def dumpkvs() -> dict[str, Any]:
    """Write the row to every format, start the next, and return it."""
    return get_current().dumpkvs()


def getkvs() -> dict[str, Any]:
    """Return the row as it stands."""
    get_current().settle()
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
    return profile_kv(n)
