"""The ranks of a program: the device of this one, and messages between them.

`launchers` says how they find one another. Tensors travel through torch.distributed (nccl on GPUs,
gloo on CPUs). CUDA_VISIBLE_DEVICES is read, never written.
"""

import atexit
import contextlib
import ctypes
import gc
import io
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import IO, Any, TypeVar

import torch as th
import torch.distributed as dist

from ..errors import ArgumentError, UserError
from . import faults, launchers, rank_watch
from .launchers import _find_free_port as _find_free_port  # a name that upstream's users import
from .writing import named

T = TypeVar("T")
_LEAVE_WITHIN = 60.0  # seconds for which a rank that is done waits for the others
# Upstream's constants, which programs read or set; devices are chosen by LOCAL_RANK here, and
# joining is not tried again.
GPUS_PER_NODE, SETUP_RETRY_COUNT = 8, 3
_PATIENCE = timedelta(days=7)  # a rank with more to do keeps the others waiting
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt in glibc's malloc.h
_SPACING, _MOST_STEPS = 0.25, 8  # seconds and steps between two exchanges of a ballot

_store: dist.Store | None = None  # holds the counters
_device: th.device | None = None
watch: rank_watch.Watch | None = None  # of the other ranks, if there are any


def setup_dist(*, device: str = "") -> None:
    """Join the ranks that were launched together, and choose the device.

    A single process is a group of one afterwards, as upstream's code takes for granted.

    Args:
        device: name of the device; empty: cuda where there is one.

    Raises:
        UserError: if the launcher's variables do not tell where the ranks meet, or if the device
            does not exist.
    """
    global _store, watch
    if dist.is_initialized():
        return
    place = launchers.find_place()
    _choose_device(device, place.local_rank, place.size)
    keep_freed_memory()
    backend = "nccl" if dev().type == "cuda" and dist.is_nccl_available() else "gloo"
    if not place.address:  # a store in memory: no port that another process could want
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return
    # Ranks that each start a thread per core slow one another down many times over; srun binds its
    # tasks to cores itself.
    if place.launcher != "slurm" and place.neighbours > 1 and "OMP_NUM_THREADS" not in os.environ:
        th.set_num_threads(max(1, cores() // place.neighbours))
    # The group's store is made here, since torch would keep it to itself.
    store = launchers.meet(place)
    store.set_timeout(_PATIENCE)
    if place.size > 1:
        watch = rank_watch.Watch(dist.PrefixStore("watch", store), place.rank, place.address[0])
    group, _store = (dist.PrefixStore(name, store) for name in ("group", "counters"))
    options = {"rank": place.rank, "world_size": place.size, "timeout": _PATIENCE}
    dist.init_process_group(backend, store=group, **options)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, up to 2 GiB, for what it allocates next.

    glibc hands large blocks back to the system, which clears each page anew for the next tensor:
    on a CPU that took a third of a forward of 10 images. Without glibc this does nothing.

    Reference: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    if not mallopt(_MMAP_THRESHOLD, 2**30):  # larger blocks go back at once
        mallopt(_MMAP_THRESHOLD, 2**25)  # the most before glibc 2.35


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _choose_device(name: str, local_rank: int, size: int) -> None:
    global _device
    usable = th.cuda.is_available()
    if name.startswith("cuda") and not usable:
        problem = f"expected a usable device, got {name!r}, but torch finds no GPU"
        raise ArgumentError("device", problem)
    try:
        _device = th.device(name or ("cuda" if usable else "cpu"))
    except RuntimeError:
        _device = None
    if _device is None or _device.type not in ("cpu", "cuda", "mps"):
        raise ArgumentError("device", f"expected cpu, cuda, cuda:N or mps, got {name!r}")
    if _device.type == "mps":
        _device = None
        if not th.backends.mps.is_available():
            problem = f"expected a usable device, got {name!r}, but torch finds no Apple GPU"
            raise ArgumentError("device", problem)
        if size > 1:
            raise ArgumentError("device", f"expected one process with mps, got {size}")
        _device = th.device("mps")
    elif _device.type == "cuda":
        count = th.cuda.device_count()
        index = local_rank % count if _device.index is None else _device.index
        if index >= count:
            raise ArgumentError("device", f"expected cuda:0 to cuda:{count - 1}, got {name!r}")
        _device = th.device("cuda", index)
        th.cuda.set_device(_device)


def dev() -> th.device:
    """Return the device of this rank."""
    return _device or th.device("cuda" if th.cuda.is_available() else "cpu")


def rank() -> int:
    """Return the index of this process among all, 0 for a single one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every rank has come here."""
    if world_size() > 1:
        dist.barrier()


def _attempt(action: Callable[[], T]) -> tuple[T | None, UserError | OSError | None]:
    try:
        return action(), None
    except (UserError, OSError) as error:
        return None, error


def once(action: Callable[[], T]) -> T:
    """Run an action on rank 0 alone, and return its result on every rank.

    Raises:
        UserError: on every rank, if the action raised it.
    """
    result, problem = broadcast_object(_attempt(action) if rank() == 0 else (None, None))
    if problem:
        raise problem
    return result


def everywhere(action: Callable[[], T]) -> T:
    """Run an action on every rank, and return the result of this one.

    Raises:
        UserError: on every rank, if the action raised it on any.
    """
    result, problem = _attempt(action)
    for found in Ranks().gather(problem):
        if found:
            raise found
    return result


class Ranks:
    """All ranks, as the part of an MPI communicator that the logger uses."""

    @property
    def rank(self) -> int:
        """The index of this process."""
        return rank()

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in their order."""
        values = [value] * world_size()
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_gather_object(values, value)
        return values


class Counter:
    """A number that all ranks add to, without waiting for one another.

    Every rank creates it, at the same point of the program.
    """

    _created = itertools.count()

    def __init__(self) -> None:
        self.key, self.alone = f"{next(self._created)}", 0

    def add(self, amount: int) -> int:
        """Add to the number, and return what it is now."""
        if _store is not None:
            return _store.add(self.key, amount)
        self.alone += amount
        return self.alone

    def add_below(self, limit: int, amount: int) -> bool:
        """Add to the number, if it is below a limit; return whether it was, on one rank alone."""
        while (now := self.add(0)) < limit:
            if _store is None:
                self.alone += amount
                return True
            wanted = str(now + amount)
            if _store.compare_set(self.key, str(now), wanted) == wanted.encode():
                return True
        return False


class Ballot:
    """A question to all ranks after each step of a loop, which they answer together.

    Every rank creates it, and asks after the same steps. They exchange their answers no more often
    than four times a second, and after eight steps at the latest: the exchange takes about as long
    as a small all-reduce.
    """

    def __init__(self) -> None:
        self._left, self._span, self._since = 1, 1, time.monotonic()

    def ask(self, own: int) -> int:
        """Return the largest answer of all ranks, or 0 after a step at which none is exchanged.

        Args:
            own: answer of this rank, at least 0; 0 for "no".
        """
        if world_size() == 1:
            return own
        self._left -= 1
        if self._left:
            return 0
        seconds = (time.monotonic() - self._since) / self._span
        found = th.tensor([own, seconds], dtype=th.float32, device=dev())
        dist.all_reduce(found, dist.ReduceOp.MAX)
        answer, seconds = found.tolist()
        self._span = self._left = max(1, min(_MOST_STEPS, int(_SPACING / max(seconds, 1e-6))))
        self._since = time.monotonic()
        return int(answer)


def broadcast_object(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=dev() if dev().type == "cuda" else None)
    return box[0]


@atexit.register
def cleanup() -> None:
    """Leave the process group, so that launchers see a clean exit.

    Done at exit too: upstream's programs leave without it, and then torch's threads abort a
    process under torchrun now and then.
    """
    global _store, watch
    if not dist.is_initialized():
        return
    gc.collect()  # a DDP model in a cycle would outlive the group, whose threads then abort
    well = sys.exc_info()[0] is None and not hasattr(sys, "last_value")
    if watch is not None and well:
        watch.leave()
    if _store is not None and well:
        # Ranks leave together, since torch sometimes aborts one where another left well before.
        # The wait has an end, as another rank may have failed; a failed one does not wait.
        deadline = time.monotonic() + _LEAVE_WITHIN
        with contextlib.suppress(RuntimeError):  # the host of the store has left
            here = _store.add("leaving", 1)
            while here < dist.get_world_size() and time.monotonic() < deadline:
                time.sleep(0.02)
                here = _store.add("leaving", 0)
    # torch 2.4 joins gloo's threads without letting go of Python's lock, which the last collective
    # may still be waiting for.
    time.sleep(0.01)
    dist.destroy_process_group()
    _store = watch = None


def open_bytes(path: str | os.PathLike) -> IO[bytes]:
    """Open a local file, or a remote one (gs://, az://, https://) through blobfile."""
    if "://" in str(path):
        import blobfile

        return blobfile.BlobFile(str(path), "rb")
    faults.point("read.file")
    return open(path, "rb")


def load_state_dict(path: str | os.PathLike, **kwargs: Any) -> Any:
    """Load tensors from a file; never runs code from it (`weights_only`).

    Other keywords go to torch.load. The path may be a URL that blobfile understands.
    """
    with named(path), open_bytes(path) as file:
        content = file.read()
    return th.load(io.BytesIO(content), **{**kwargs, "weights_only": True})


def sync_params(params: Iterable[th.Tensor]) -> None:
    """Overwrite the tensors of every rank with rank 0's."""
    if world_size() > 1:
        with th.no_grad():
            for param in params:
                sent = param.contiguous()  # memory is sent as it lies: on all ranks in one order
                dist.broadcast(sent, 0)
                param.copy_(sent)
