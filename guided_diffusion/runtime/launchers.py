"""How the ranks of a program find one another, from what their launcher says.

Four launchers are understood: torchrun (RANK, WORLD_SIZE), an MPI launcher (mpiexec, mpirun),
Slurm's srun and none. MPI is imported only where an MPI launcher started several ranks, and only
to agree on an address; srun's own variables suffice for that.
"""

import os
import re
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from ..errors import ArgumentError, UserError
from .environment import number

_MPI = (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
_MOST_RANKS = 2**20
_SLURM_INTERNAL_STEPS = 0xFFFFFFF0  # first step id of batch scripts and shells, one task each
_PORTS = range(12000, 32000)  # below the ports that systems hand out by themselves
_MEETING = timedelta(minutes=30)  # the ranks may import torch from a slow disk, one after another


@dataclass(frozen=True)
class Place:
    """The place of this process among all that were launched together.

    Attributes:
        launcher: "torchrun", "mpi", "slurm" or "none".
        rank: index among all `size` processes.
        local_rank: index among the processes on this machine.
        neighbours: number of processes on this machine; 1 where it is not known.
        address: host and port of the meeting point; None: there are no others.
    """

    launcher: str = "none"
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    neighbours: int = 1
    address: tuple[str, int] | None = None


def launcher() -> str:
    """Return "torchrun", "mpi", "slurm" or "none", from the environment alone.

    Raises:
        ArgumentError: naming a variable that makes no sense.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _rank_and_size("RANK", "WORLD_SIZE")
        return "torchrun"
    slurm = _slurm_place()
    for names in _MPI:
        if not os.environ.keys() & set(names):
            continue
        place = _rank_and_size(*names)
        # srun may set these too, to its own place; mpirun under Slurm sets another.
        if place[1] > 1 and place != slurm:
            return "mpi"
    if slurm and slurm[1] > 1:
        return "slurm"
    # Half of a description would quietly become as many runs as there are processes.
    if "WORLD_SIZE" in os.environ and number("WORLD_SIZE", 1, _MOST_RANKS) > 1:
        _rank_and_size("RANK", "WORLD_SIZE")
    if "RANK" in os.environ and number("RANK", 0, _MOST_RANKS) > 0:
        _rank_and_size("RANK", "WORLD_SIZE")
    return "none"


def _rank_and_size(rank: str, size: str) -> tuple[int, int]:
    count = number(size, 1, _MOST_RANKS, what=f"with {rank}")
    return number(rank, 0, count - 1, what=f"{size} is {count}"), count


def _slurm_place() -> tuple[int, int] | None:
    # A job's script or shell knows the job's SLURM_NTASKS, but is no task of an srun step.
    if not {"SLURM_PROCID", "SLURM_STEP_ID"} <= os.environ.keys():
        return None
    if number("SLURM_STEP_ID", 0) >= _SLURM_INTERNAL_STEPS:
        return None
    names = [name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if os.environ.get(name)]
    tasks = number(names[0], 1, _MOST_RANKS) if names else 1
    what = f"{names[0] if names else 'SLURM_NTASKS'} is {tasks}"
    return number("SLURM_PROCID", 0, tasks - 1, what=what), tasks


def find_place() -> Place:
    """Return the place of this process; one that MPI or Slurm tells enters the environment.

    Raises:
        UserError: if an MPI launcher started several ranks but MPI cannot be loaded or sees others,
            if Slurm started them but names no node, or if a variable makes no sense.
    """
    started_by = launcher()
    if started_by == "none":
        return Place(local_rank=number("LOCAL_RANK", 0, _MOST_RANKS, 0))
    if started_by == "mpi":
        _agree_through_mpi()
    elif started_by == "slurm":
        _agree_through_slurm()
    rank, size = _rank_and_size("RANK", "WORLD_SIZE")
    neighbours = number("LOCAL_WORLD_SIZE", 1, size, 1, f"WORLD_SIZE is {size}")
    most = neighbours if "LOCAL_WORLD_SIZE" in os.environ else _MOST_RANKS
    local = number("LOCAL_RANK", 0, most - 1, 0, f"LOCAL_WORLD_SIZE is {neighbours}")
    port = number("MASTER_PORT", 1, 65535, what="rank 0 listens there, and all ranks have the same")
    host = os.environ.get("MASTER_ADDR", "").strip()
    if not host:
        raise ArgumentError(
            "MASTER_ADDR", "expected the host of rank 0, got none; set it, or start with torchrun"
        )
    return Place(started_by, rank, size, local, neighbours, (host, port))


def meet(place: Place) -> dist.Store:
    """Wait for the other ranks at the meeting point, and return the store that all share.

    Raises:
        UserError: if the host is not known, the port is taken, or others do not come.
    """
    host, port = place.address
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError):
        raise ArgumentError(
            "MASTER_ADDR", f"expected the host of rank 0, got {host!r}, which is not known here"
        ) from None
    # torchrun's agent may keep a store at this place, which its ranks then share.
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if place.rank == 0 and not shared:
        _refuse_taken(port)
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=_MEETING))
        return store
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"rank {place.rank} of {place.size} met no others at MASTER_ADDR {host}, MASTER_PORT "
            f"{port}: {reason}; are all started, with the same address and a free port?"
        ) from None


def _refuse_taken(port: int) -> None:
    with socket.socket() as listener:
        # As the store listens: ports of connections that were just closed are free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen()
        except OSError as error:
            expected = f"expected a free port, got {port} ({error.strerror})"
            advice = "another program or run listens there; set another port for all ranks"
            raise ArgumentError("MASTER_PORT", f"{expected}; {advice}") from None


def _refuse_lost_pipe() -> None:
    """Refuse the variables of an mpiexec that is gone: MPI itself would abort the process."""
    if "PMI_FD" in os.environ:
        try:
            os.fstat(number("PMI_FD", 0, 2**31 - 1))
        except OSError:
            problem = "expected the pipe to mpiexec, got one that is closed; start with mpiexec"
            raise ArgumentError("PMI_FD", problem) from None


def _agree_through_mpi() -> None:
    _refuse_lost_pipe()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"an MPI launcher started this process, but MPI cannot be loaded ({error}); "
            "install a runtime (pip install mpich) or launch with torchrun"
        ) from None
    comm = MPI.COMM_WORLD
    _refuse_another_mpi(comm.size, MPI.Get_library_version())
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    address = comm.bcast((socket.gethostname(), _find_free_port()) if comm.rank == 0 else None)
    if local.size == comm.size:
        address = ("127.0.0.1", address[1])  # one machine: needs no name resolution
    os.environ |= {
        "MASTER_ADDR": address[0],
        "MASTER_PORT": str(address[1]),
        "RANK": str(comm.rank),
        "WORLD_SIZE": str(comm.size),
        "LOCAL_RANK": str(local.rank),
        "LOCAL_WORLD_SIZE": str(local.size),
    }


def _refuse_another_mpi(found: int, library: str) -> None:
    """Refuse an MPI that does not see the launcher's ranks: each would make the whole run."""
    told = [number(size, 1, _MOST_RANKS) for _, size in _MPI if size in os.environ]
    if found == 1 < max(told):
        name = " ".join(library.split(",")[0].split("\n")[0].split())
        raise UserError(
            f"the launcher started {max(told)} processes, but the MPI of mpi4py ({name}) sees one: "
            "start with the mpiexec of that MPI, or with torchrun"
        )


def _agree_through_slurm() -> None:
    # MASTER_ADDR and MASTER_PORT of a job script win, as is the custom.
    env, (rank, size) = os.environ, _slurm_place()
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    # One machine needs no name resolution.
    first = first_host(nodes) if set(nodes) & set(",[") else nodes and "127.0.0.1"
    address = env.get("MASTER_ADDR") or first or env.get("SLURM_LAUNCH_NODE_IPADDR")
    if not address:
        raise UserError(
            "Slurm started this process, but SLURM_STEP_NODELIST names no node; "
            "set MASTER_ADDR to the host of rank 0"
        )
    job = number("SLURM_JOB_ID", 0, default=0)
    port = _PORTS[(31 * job + number("SLURM_STEP_ID", 0)) % len(_PORTS)]  # on every rank the same
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": env.get("MASTER_PORT") or str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(number("SLURM_LOCALID", 0, size - 1, 0)),
    }


def first_host(nodes: str) -> str:
    """Return the first host of a node list in Slurm's short form: n01 for "n[01-03,7],gpu2"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first[0]) if first else ""


def _find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]
