"""Time of generation, alone on the machine and beside busy processes.

It depends on how threads wait for one another. The sampler's own command makes sequences of the
demo in a new process, with each way of waiting in turn. The neighbours are processes that do
nothing but compute.
"""

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..generation import demo
from ..runtime import dist_util
from . import scaling, timing
from .settings import NeighboursSettings

UNSET = dict.fromkeys(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"))
# The defaults of the two runtimes of OpenMP that torch is delivered with, GNU's and LLVM's.
TORCHS_OWN = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
WAITING = {
    "torch's own": UNSET | TORCHS_OWN,
    "passive": UNSET | {"OMP_WAIT_POLICY": "PASSIVE"},
    "as delivered": UNSET,
}
LONGEST = 3600  # seconds; no neighbour lives longer
BUSY = """
import os, sys, time
parent, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while os.getppid() == parent and time.monotonic() < end:
    sum(range(100_000))
"""


def neighbours(asked: NeighboursSettings) -> dict[str, Any]:
    """Measure the time of the sampler with each way of waiting, alone and beside neighbours."""
    start, busy_count = time.perf_counter(), asked.neighbours or dist_util.cores()
    own = {name: getattr(asked, name) for name in ("num_images", "amount", "preset", "device")}
    flags = [f"--{name}={value}" for name, value in (demo.PLACES | own).items()]
    seconds: dict[tuple[int, str], list[float]] = {
        contestant: [] for contestant in itertools.product((0, busy_count), WAITING)
    }
    with tempfile.TemporaryDirectory() as folder:
        for turn, (count, name) in itertools.product(range(asked.rounds), seconds):
            with busy(count):
                begun, out_dir = time.perf_counter(), Path(folder, f"{turn}_{count}_{name}")
                scaling.run(scaling.SAMPLER, [*flags, f"--out_dir={out_dir}"], **WAITING[name])
                seconds[count, name].append(time.perf_counter() - begun)
    rows = [
        {
            "neighbours": count,
            "name": name,
            "seconds": each,
            "median": statistics.median(each),
            "ratio": timing.ratios(seconds[count, "torch's own"], each),
        }
        for (count, name), each in seconds.items()
    ]
    return {
        "measurement": "neighbours",
        "rows": rows,
        "rounds": asked.rounds,
        **own,
        "extrapolated": False,
    } | timing.circumstances(start)


def lines(record: dict[str, Any]) -> list[str]:
    """Return the record as lines of text."""
    found = [
        f"{record['num_images']} sequences of {record['amount']} images, preset "
        f"{record['preset']}, on {record['cores']} cores of {record['device']}",
        f"median of {record['rounds']} rounds in turn; how many times as quick as with torch's own "
        "waiting, median (least to largest of a round)",
    ]
    for row in record["rows"]:
        ratio = "{median:6.3f} times as quick ({min:.3f} to {max:.3f})".format(**row["ratio"])
        name = f"{row['neighbours']} neighbours, {row['name']:13s}"
        found.append(f"{name} {row['median']:8.2f} s  {ratio}")
    return found


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run busy processes during a block; they end with it, with this process, or in an hour.

    Args:
        count: number of processes; each fills a core.
    """
    program = [sys.executable, "-c", BUSY, str(os.getpid()), str(LONGEST)]
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(program, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        yield
