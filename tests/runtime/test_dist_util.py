"""A single process: which launcher it sees, its device, and what the collectives do alone."""

import io
import json
import os
import platform
import subprocess
import sys
import types

import pytest
import torch
from support.payload import Payload

from guided_diffusion import dist_util
from guided_diffusion.errors import UserError
from guided_diffusion.runtime import launchers


@pytest.fixture
def environment(monkeypatch):
    return lambda **values: [monkeypatch.setenv(k, v) for k, v in values.items()]


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
        return chosen

    chosen = []
    return pretend


SRUN = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "none"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "torchrun"),
        ({"RANK": "0"}, "none"),
        ({"WORLD_SIZE": "1"}, "none"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "mpi"),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, "none"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, "mpi"),
        ({"SLURM_NTASKS": "4"}, "none"),
        ({"SLURM_NTASKS": ""}, "none"),
        (SRUN, "slurm"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "4"}, "slurm"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, "none"),
        (SRUN | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, "none"),
        (SRUN | {"SLURM_STEP_ID": "4294967290"}, "none"),  # a shell of salloc
        (SRUN | {"SLURM_STEP_ID": "4294967291"}, "none"),  # a batch script
        ({"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, "none"),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, "none"),
        (SRUN | {"PMI_RANK": "1", "PMI_SIZE": "4"}, "slurm"),  # srun --mpi=pmi2
        (SRUN | {"PMI_RANK": "3", "PMI_SIZE": "8"}, "mpi"),  # mpiexec, whose helpers srun started
        (SRUN | {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8"}, "mpi"),
        (SRUN | {"PMI_RANK": "0", "PMI_SIZE": "1"}, "slurm"),
        (SRUN | {"RANK": "1", "WORLD_SIZE": "2"}, "torchrun"),
        ({"RANK": "1", "WORLD_SIZE": "2", "PMI_RANK": "0", "PMI_SIZE": "2"}, "torchrun"),
    ],
)
def test_the_launcher_is_known_from_the_environment(environment, variables, expected):
    environment(**variables)
    assert launchers.launcher() == expected


@pytest.mark.parametrize(
    "variables",
    [{}, {"RANK": "0"}, {"LOCAL_RANK": "3"}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}],
)
def test_a_single_process_is_a_group_of_one_and_changes_no_variable(environment, variables):
    environment(**variables)
    before = dict(os.environ)
    dist_util.setup_dist(device="cpu")
    assert torch.distributed.get_backend() == "gloo"
    assert (dist_util.rank(), dist_util.world_size()) == (0, 1)
    gathered = [torch.zeros(2)]
    torch.distributed.all_gather(gathered, torch.ones(2))
    torch.distributed.barrier()
    assert gathered[0].tolist() == [1, 1]
    assert dict(os.environ) == before
    assert dist_util.dev() == torch.device("cpu")


def test_a_torchrun_of_one_rank_joins_once_and_leaves(environment):
    port = str(dist_util._find_free_port())
    environment(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    try:
        dist_util.setup_dist(device="cpu")
        dist_util.setup_dist(device="nonsense")  # has joined already
        assert torch.distributed.get_backend() == "gloo"
        assert (dist_util.rank(), dist_util.world_size()) == (0, 1)
        dist_util.barrier()
        counters = dist_util.Counter(), dist_util.Counter()
        assert [counters[i].add(n) for i, n in ((0, 1), (0, 5), (1, 2), (0, 0))] == [1, 6, 2, 6]
    finally:
        dist_util.cleanup()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("n[01-03,7],gpu2", "n01"),
        ("n[3,5-7]", "n3"),
        ("gpu2,n[01-03]", "gpu2"),
        ("a-b[12-14]c", "a-b12c"),
        ("rack[2-3]n[07-09]", "rack2n07"),
    ],
)
def test_the_first_host_of_a_slurm_list_is_read(nodes, host):
    assert launchers.first_host(nodes) == host


@pytest.fixture
def slurm(environment):
    """Agree on an address as a task of a step does; returns the variables that come of it."""

    def agree(**variables):
        before = dict(os.environ)
        environment(**SRUN | {"SLURM_LOCALID": "1", "SLURM_JOB_ID": "4711"} | variables)
        names = "MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK".split()
        try:
            launchers._agree_through_slurm()
            return {name: os.environ[name] for name in names}
        finally:
            os.environ.clear()
            os.environ |= before

    return agree


def test_the_tasks_of_a_slurm_step_know_one_another_without_mpi(slurm):
    many = {"SLURM_STEP_NODELIST": "n[05-06]", "SLURM_JOB_NODELIST": "n[04-06]"}
    first = slurm(**many, SLURM_PROCID="0", SLURM_LOCALID="0")
    last = slurm(**many, SLURM_PROCID="3", SLURM_LOCALID="1")
    assert first["MASTER_ADDR"] == last["MASTER_ADDR"] == "n05"
    assert first["MASTER_PORT"] == last["MASTER_PORT"]
    places = [tuple(v[k] for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK")) for v in (first, last)]
    assert places == [("0", "4", "0"), ("3", "4", "1")]


def test_steps_and_jobs_meet_at_ports_of_their_own(slurm):
    keys = [("1", "0"), ("1", "1"), ("2", "0"), ("2", "1"), ("99999999", "0")]
    ports = [
        int(slurm(SLURM_JOB_ID=job, SLURM_STEP_ID=step, SLURM_STEP_NODELIST="n1")["MASTER_PORT"])
        for job, step in keys
    ]
    assert len(set(ports)) == len(ports) and all(1024 < port < 32768 for port in ports)


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({"SLURM_STEP_NODELIST": "n7"}, "127.0.0.1"),
        ({"SLURM_JOB_NODELIST": "n[7-8]"}, "n7"),
        ({"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}, "10.0.0.1"),
        ({"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "SLURM_STEP_NODELIST": "n[2,4]"}, "n2"),
        ({"SLURM_STEP_NODELIST": "n[2,4]", "MASTER_ADDR": "head"}, "head"),
    ],
)
def test_the_meeting_place_is_the_first_node_unless_one_is_named(slurm, variables, address):
    assert slurm(**variables)["MASTER_ADDR"] == address
    assert slurm(**variables, MASTER_PORT="5")["MASTER_PORT"] == "5"


def test_a_slurm_step_without_nodes_is_a_user_error(slurm):
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST names no node; set MASTER_ADDR"):
        slurm()


def test_alone_the_collectives_do_nothing():
    value, tensor = {"a": [1]}, torch.ones(2)
    assert dist_util.broadcast_object(value) is value
    dist_util.sync_params([tensor])
    dist_util.barrier()
    dist_util.cleanup()
    assert torch.equal(tensor, torch.ones(2))


LAYOUTS = (torch.contiguous_format, torch.channels_last)


def synchronised():
    """What two parameters are after `sync_params`, whose memory layouts differ by rank."""
    rank, numbers = dist_util.rank(), torch.arange(16.0).view(1, 4, 2, 2)
    own = [(numbers + 100 * rank).to(memory_format=layout) for layout in LAYOUTS]
    params = [torch.nn.Parameter(values) for values in (own, own[::-1])[rank]]
    dist_util.sync_params(params)
    strides = [values.stride() for values in own]
    assert [p.stride() for p in params] == (strides, strides[::-1])[rank]
    return [p.detach().flatten().tolist() for p in params]


def test_parameters_of_any_memory_layout_become_those_of_rank_0(two_ranks):
    assert two_ranks.each("mpiexec", synchronised) == [[list(range(16))] * 2] * 2


def test_once_returns_the_result_and_raises_user_errors_again():
    def fail():
        raise UserError("flag: wrong")

    assert dist_util.once(lambda: [1]) == [1]
    with pytest.raises(UserError, match="flag: wrong"):
        dist_util.once(fail)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_done_once_is_done_on_the_first_rank(monkeypatch, rank):
    done = []
    monkeypatch.setattr(dist_util, "rank", lambda: rank)
    dist_util.once(lambda: done.append(1))
    assert len(done) == 1 - rank


def test_alone_a_counter_counts():
    counter = dist_util.Counter()
    assert [counter.add(n) for n in (1, 4, 0)] == [1, 5, 5]
    assert dist_util.Counter().add(0) == 0


def test_alone_gathering_returns_the_own_value():
    assert (dist_util.Ranks().rank, dist_util.Ranks().gather("x")) == (0, ["x"])


def test_an_mpi_launcher_without_mpi_is_a_user_error(environment, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    environment(PMI_RANK="0", PMI_SIZE="2")
    with pytest.raises(UserError, match="MPI cannot be loaded .*torchrun"):
        dist_util.setup_dist(device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "'cuda', but torch finds no GPU"),
        ("cuda:0", "'cuda:0', but torch finds no GPU"),
        ("tpu", "device: expected cpu, cuda, cuda:N or mps, got 'tpu'"),
        ("mps", "'mps', but torch finds no Apple GPU"),
        ("cpu:x", "device: expected cpu, cuda, cuda:N or mps, got 'cpu:x'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(gpus, name, message):
    gpus(0)
    with pytest.raises(UserError, match=message):
        dist_util.setup_dist(device=name)


@pytest.mark.parametrize(
    ("name", "local_rank", "expected"),
    [("", "0", 0), ("cuda", "1", 1), ("cuda", "5", 1), ("cuda:1", "0", 1)],
)
def test_ranks_share_out_the_gpus_of_a_machine(gpus, environment, name, local_rank, expected):
    chosen = gpus(2)
    environment(LOCAL_RANK=local_rank)
    dist_util.setup_dist(device=name)
    assert dist_util.dev() == torch.device("cuda", expected)
    assert chosen == [torch.device("cuda", expected)]


def test_a_gpu_beyond_the_last_is_refused(gpus):
    gpus(2)
    with pytest.raises(UserError, match="device: expected cuda:0 to cuda:1, got 'cuda:2'"):
        dist_util.setup_dist(device="cuda:2")


def test_an_apple_gpu_is_taken_where_torch_has_one(gpus, monkeypatch):
    gpus(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    dist_util.setup_dist(device="mps")
    assert dist_util.dev() == torch.device("mps")
    assert torch.distributed.get_backend() == "gloo"


def test_an_apple_gpu_serves_one_process(gpus, monkeypatch, environment):
    gpus(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    environment(RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="12345")
    with pytest.raises(UserError, match="device: expected one process with mps, got 2"):
        dist_util.setup_dist(device="mps")


def test_before_setup_the_device_is_a_guess(gpus):
    gpus(0)
    assert dist_util.dev() == torch.device("cpu")


def test_tensors_load_from_a_file(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "a.pt")
    for path in (tmp_path / "a.pt", str(tmp_path / "a.pt")):
        loaded = dist_util.load_state_dict(path, map_location="cpu")
        assert torch.equal(loaded["a"], torch.arange(3))


def test_loading_never_runs_code_even_if_asked_to(tmp_path):
    torch.save({"a": Payload(tmp_path / "made")}, tmp_path / "a.pt")
    with pytest.raises(Exception, match="(?i)weights.only"):
        dist_util.load_state_dict(tmp_path / "a.pt", weights_only=False)
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "made").exists()  # the code would have run


def test_remote_files_are_opened_through_blobfile(monkeypatch):
    opened = []

    def blob_file(path, mode):
        opened.append((path, mode))
        return io.BytesIO(b"remote")

    monkeypatch.setitem(sys.modules, "blobfile", types.SimpleNamespace(BlobFile=blob_file))
    with dist_util.open_bytes("gs://bucket/a") as file:
        assert file.read() == b"remote"
    assert opened == [("gs://bucket/a", "rb")]


ALLOCATE_AGAIN = """
import resource
import torch
from guided_diffusion import dist_util

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def allocate():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(6 * 2**20) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

dist_util.setup_dist(device="cpu")
before = resident()
allocate()
print(resident() - before)
print([allocate() for _ in range(24)][-4:])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept_and_used_again_rather_than_cleared_by_the_system():
    # In a process of its own, since it cannot be undone. The first blocks are kept, all 100 MB of
    # them. Where they lie is a matter of chance, so that others may not fit in at first.
    line = [sys.executable, "-c", ALLOCATE_AGAIN]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.splitlines()
    assert int(kept) > 95e6
    assert all(count < 100 for count in json.loads(faults))


def test_memory_is_left_to_other_c_libraries(monkeypatch):
    monkeypatch.setattr(dist_util.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(dist_util.ctypes, "CDLL", lambda _: pytest.fail("looked for mallopt"))
    dist_util.keep_freed_memory()
