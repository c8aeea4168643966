"""Time and memory of several ways to do one thing, measured so that they can be compared.

The contestants run in turn, A B A B, so that disturbances of the machine meet all of them. The
result is the ratio of seconds within a round: its median, least and largest over the rounds. Times
are seconds of the wall clock, which is read when the device has finished.
"""

import contextlib
import multiprocessing
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch as th

from ..runtime import dist_util, execution, run_folder
from .settings import TimingSettings

MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}
BASELINE = "published"
GRACE = 10  # seconds for a worker to end in
DTYPES = {"fp32": th.float32, "bf16": th.bfloat16}


@dataclass(frozen=True)
class Timed:
    """One run: its seconds, its result, and the most bytes that were held up to its end."""

    seconds: float
    result: Any
    memory: int


def timed(action: Callable[[], Any], device: th.device) -> Timed:
    """Run an action once, and measure it."""
    wait = th.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    result = action()
    wait()
    return Timed(time.perf_counter() - start, result, peak_memory(device))


def interleaved(
    contestants: Mapping[str, Callable[[], Timed]], rounds: int
) -> dict[str, list[Timed]]:
    """Run every contestant once a round; return the runs of each, [rounds]."""
    turns = [
        {name: contestant() for name, contestant in contestants.items()} for _ in range(rounds)
    ]
    return {name: [turn[name] for turn in turns] for name in contestants}


def operators(action: Callable[[], Any], device: th.device, most: int = 6) -> dict[str, float]:
    """Run an action once under torch's profiler.

    Returns:
        {operator: share of the whole time} for the `most` that took longest, the largest first;
        an operator's time leaves out the operators that it calls.
    """
    with th.profiler.profile() as seen:
        timed(action, device)
    own = f"self_{'device' if device.type == 'cuda' else 'cpu'}_time_total"
    times = {event.key: getattr(event, own) for event in seen.key_averages()}
    whole = sum(times.values())
    leading = sorted(times, key=times.__getitem__, reverse=True)[:most]
    return {name: times[name] / whole for name in leading}


def ratios(baseline: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Return the ratio of seconds, baseline over other, in each round: least, median, largest."""
    each = [b / o for b, o in zip(baseline, other, strict=True)]
    return {"min": min(each), "median": statistics.median(each), "max": max(each)}


def affordable(asked: TimingSettings, once: float, left: float, most: int) -> int:
    """Return the number of repeats in a round that the budget affords, at least one.

    Args:
        asked: budget and rounds.
        once: seconds of one repeat by all contestants.
        left: seconds left of the budget.
        most: number of repeats without a budget.
    """
    return max(1, min(most, int(left / (asked.rounds * once)))) if asked.budget else most


def compared(
    runs: Mapping[str, Sequence[Timed]],
    name: str,
    forwards: int,
    flops: int,
    peak: float,
    scales: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the row of a contestant: its seconds, and the ratio of the baseline's over them.

    Args:
        runs: runs of all contestants.
        name: name of the contestant.
        forwards: network evaluations of one whole run.
        flops: FLOPs of one evaluation.
        peak: FLOP/s of a product of matrices in the precision of the contestant.
        scales: factor for the seconds of each contestant; None: 1.
    """
    scales = scales or dict.fromkeys(runs, 1.0)
    seconds = {key: [one.seconds * scales[key] for one in runs[key]] for key in (name, BASELINE)}
    median = statistics.median(seconds[name])
    return {
        "seconds": seconds[name],
        "median": median,
        "ratio": ratios(seconds[BASELINE], seconds[name]),
        "forwards": forwards,
        "share_of_peak": forwards * flops / median / peak,
        "peak_memory": max(one.memory for one in runs[name]),
    }


def record(
    kind: str, asked: TimingSettings, start: float, peaks: dict[str, float], rows: list[dict]
) -> dict[str, Any]:
    """Return the record of a measurement that began at `start`, with a row per contestant."""
    return {
        "measurement": kind,
        "against": asked.against,
        "rounds": asked.rounds,
        "budget": asked.budget,
        "extrapolated": any(row.get("extrapolated", False) for row in rows),
        "rows": rows,
        "matmul_peak": peaks,
        "threads": th.get_num_threads(),
    } | circumstances(start)


def circumstances(start: float) -> dict[str, Any]:
    """Return device, number of cores, seconds since `start`, and versions."""
    machine = {"device": device_name(dist_util.dev()), "cores": dist_util.cores()}
    return machine | {"seconds": time.perf_counter() - start} | run_folder.versions()


def lines(record: Mapping[str, Any]) -> list[str]:
    """Return a record as lines of text."""
    peaks = ", ".join(f"{p} {v / 1e9:.0f}" for p, v in record["matmul_peak"].items())
    head = [
        f"{record['measurement']} on {record['device']}, {record['threads']} threads, torch "
        f"{record['torch']}; products of matrices reach {peaks} GFLOP/s",
        f"median of {record['rounds']} rounds in turn; ratio over {record['against']}, median "
        "(least to largest of a round)",
    ]
    if record["extrapolated"]:
        head.append(
            f"budget of {record['budget']:g} s: seconds marked extrapolated were timed on "
            "a part of the forwards and scaled by the exact count of them"
        )
    return head + [_line(row) for row in record["rows"]]


def _line(row: Mapping[str, Any]) -> str:
    each, ratio = 1000 * row["median"] / row["forwards"], "{median:7.2f} ({min:.2f} to {max:.2f})"
    batch = f", {row['batch_size']} images" if "batch_size" in row else ""
    end = f"  extrapolated from {row['forwards_timed']}" if row.get("extrapolated") else ""
    if "operators" in row:
        shares = (f"{name} {share:.0%}" for name, share in row["operators"].items())
        end += f"\n    its time: {', '.join(shares)}"
    memory = f"{row['peak_memory'] / 1e6:6.0f} MB" if row["peak_memory"] else "memory not measured"
    return (
        f"{row['name'] + batch:32s} {row['median']:9.3f} s {row['forwards']:7d} x {each:8.2f} ms  "
        f"ratio {ratio.format(**row['ratio'])}  {row['share_of_peak']:4.0%} of peak  "
        f"{memory}{end}"
    )


def device_name(device: th.device) -> str:
    """Return the name of a GPU, or "cpu" with the instructions that bound its matrix products."""
    if device.type == "cuda":
        return th.cuda.get_device_name(device)
    return " ".join(["cpu", *execution.bf16_instructions()])


def matmul_peaks(device: th.device, repeats: int = 20) -> dict[str, float]:
    """Return {precision: FLOP/s of the quickest of some products of large square matrices}."""
    side, peaks = MATMUL_SIDE[device.type], {}
    for precision, dtype in DTYPES.items():
        matrix = th.ones(side, side, device=device, dtype=dtype)
        best = min(timed(lambda m=matrix: m @ m, device).seconds for _ in range(repeats))
        peaks[precision] = 2 * side**3 / best
    return peaks


def peak_memory(device: th.device) -> int:
    """Return the most bytes held so far: by tensors on a GPU, else by this process.

    It is 0 where the system does not tell, as on Windows.
    """
    if device.type == "cuda":
        return th.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # in kilobytes, except on macOS


class Worker:
    """A contestant in a process of its own, which holds no other contestant's memory.

    It is built there once by `build(*args)`, which returns the function to run, and must be a
    function of a module.
    """

    def __init__(self, build: Callable[..., Callable], *args: Any, device: str) -> None:
        context = multiprocessing.get_context("spawn")  # threads do not survive a fork
        self._pool = ProcessPoolExecutor(1, context)
        others = multiprocessing.active_children()
        # A process that starts while Ctrl-C is blocked never sees one. A terminal sends it to all
        # processes, and the first alone is to tell, and to end the others.
        with _without_interrupts():
            built = self._pool.submit(_build, build, args, device, th.get_num_threads())
        self._own = [each for each in multiprocessing.active_children() if each not in others]
        try:
            built.result()
        except BaseException:
            self.end()
            self.close()
            raise

    def run(self, *args: Any) -> Timed:
        """Run the contestant and wait for it."""
        return self._pool.submit(_measure, timed, args).result()

    def operators(self, *args: Any) -> dict[str, float]:
        """Run the contestant under the profiler, see `operators`."""
        return self._pool.submit(_measure, operators, args).result()

    def end(self) -> None:
        """Ask the process to end at once."""
        for process in self._own:
            process.terminate()

    def close(self) -> None:
        """Wait for the end of the process, at most `GRACE` seconds."""
        # The pool's thread joins the process too, and whichever is second learns nothing.
        ending = threading.Thread(target=self._pool.shutdown)
        ending.start()
        ending.join(GRACE)
        for process in self._own:
            process.kill()
        ending.join()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_contestant: Callable | None = None  # of this process, where it is a worker's


def _build(build: Callable[..., Callable], args: Sequence[Any], device: str, threads: int) -> None:
    global _contestant
    signal.signal(signal.SIGTERM, _leave)
    th.set_num_threads(threads)
    dist_util.setup_dist(device=device)
    _contestant = build(*args)


def _leave(number: int, frame: Any) -> None:
    # So that the worker ends its own processes, which a signal unhandled would leave behind.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit


def _measure(by: Callable, args: Sequence[Any]) -> Any:
    return by(lambda: _contestant(*args), dist_util.dev())


@contextlib.contextmanager
def workers(
    names: Sequence[str], build: Callable[..., Callable], *args: Any, device: str
) -> Iterator[dict[str, Worker]]:
    """Lend a worker for each name, built as `build(name, *args)`, and end them after the block."""
    found: dict[str, Worker] = {}
    try:
        for name in names:
            found[name] = Worker(build, name, *args, device=device)
        yield found
    finally:
        for worker in found.values():
            worker.end()
        for worker in found.values():
            worker.close()
