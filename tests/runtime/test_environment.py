"""Environment variables that make no sense: one line each, which names the variable."""

import importlib.util
import socket
import sys

import pytest
from support.cli import call, command, launch

from guided_diffusion import logger
from guided_diffusion.errors import UserError
from guided_diffusion.runtime import environment, launchers

RANKS = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "23456"}
TASK = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n"}
NO_NUMBERS = ["", " ", "x", "1.5", "-1", "1_0", "0x1", "\u0661", "9" * 400, "nan", "1;ls"]


@pytest.fixture
def variables(monkeypatch):
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("RANK", RANKS),
        ("WORLD_SIZE", RANKS),
        ("LOCAL_RANK", RANKS),
        ("LOCAL_RANK", {}),
        ("LOCAL_WORLD_SIZE", RANKS),
        ("MASTER_PORT", RANKS),
        ("PMI_RANK", {"PMI_SIZE": "2"}),
        ("PMI_SIZE", {"PMI_RANK": "0"}),
        ("OMPI_COMM_WORLD_RANK", {"OMPI_COMM_WORLD_SIZE": "2"}),
        ("OMPI_COMM_WORLD_SIZE", {"OMPI_COMM_WORLD_RANK": "0"}),
        ("SLURM_PROCID", TASK),
        ("SLURM_STEP_ID", TASK),
        ("SLURM_LOCALID", TASK),
        ("SLURM_JOB_ID", TASK),
        ("SLURM_STEP_NUM_TASKS", TASK),
    ],
)
def test_what_is_no_number_is_refused(variables, name, beside, text):
    if name == "SLURM_STEP_NUM_TASKS" and not text:
        return  # then SLURM_NTASKS counts
    variables(beside | {name: text})
    with pytest.raises(UserError) as found:
        launchers.find_place()
    assert found.value.report.startswith(f"{name}: expected a whole number ")
    assert "\n" not in found.value.report and repr(text) in found.value.report


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RANKS | {"RANK": "2"}, r"RANK: .* from 0 to 1 \(WORLD_SIZE is 2\), got '2'"),
        (RANKS | {"WORLD_SIZE": "0"}, "WORLD_SIZE: .* from 1 to .*, got '0'"),
        (
            RANKS | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"},
            r"LOCAL_RANK: .* from 0 to 0 \(LOCAL_WORLD_SIZE is 1\)",
        ),
        (RANKS | {"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE: .* from 1 to 2"),
        (RANKS | {"MASTER_PORT": "0"}, "MASTER_PORT: .* from 1 to 65535"),
        (RANKS | {"MASTER_PORT": "65536"}, "MASTER_PORT: .* from 1 to 65535"),
        (RANKS | {"MASTER_ADDR": ""}, "MASTER_ADDR: expected the host of rank 0, got none"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_PORT: .* it is not set"),
        ({"WORLD_SIZE": "2"}, "RANK: .* it is not set; the launcher sets it"),
        ({"RANK": "1"}, "WORLD_SIZE: .* it is not set"),
        ({"PMI_SIZE": "2"}, "PMI_RANK: .* it is not set"),
        ({"PMI_RANK": "0"}, "PMI_SIZE: .* it is not set"),
        ({"PMI_RANK": "2", "PMI_SIZE": "2"}, "PMI_RANK: .* from 0 to 1"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE: .* it is not set"),
        (TASK | {"SLURM_PROCID": "2"}, r"SLURM_PROCID: .* from 0 to 1 \(SLURM_NTASKS is 2\)"),
        (TASK | {"SLURM_STEP_NODELIST": "["}, "SLURM_STEP_NODELIST names no node"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(variables, values, message):
    variables(values)
    with pytest.raises(UserError, match=message):
        launchers.find_place()


def test_a_host_that_nobody_knows_is_refused_at_once(variables, monkeypatch):
    def unknown(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    variables(RANKS | {"MASTER_ADDR": "no.such.host"})
    with pytest.raises(UserError, match="MASTER_ADDR: .* got 'no.such.host', which is not known"):
        launchers.meet(launchers.find_place())


def test_a_port_that_is_taken_is_refused(variables):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        variables(RANKS | {"MASTER_PORT": str(port)})
        with pytest.raises(UserError, match=f"MASTER_PORT: expected a free port, got {port}"):
            launchers.meet(launchers.find_place())


def test_ranks_that_do_not_come_are_told_of(variables, monkeypatch):
    monkeypatch.setattr(launchers, "_MEETING", launchers.timedelta(seconds=1))
    variables(RANKS | {"MASTER_PORT": str(launchers._find_free_port())})
    with pytest.raises(UserError, match="rank 0 of 2 met no others at MASTER_ADDR 127.0.0.1"):
        launchers.meet(launchers.find_place())


def test_an_mpi_that_sees_one_process_of_several_is_refused(variables):
    variables({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"})
    message = r"started 4 processes, but the MPI of mpi4py \(MPICH 5\) sees one"
    with pytest.raises(UserError, match=message):
        launchers._refuse_another_mpi(1, "MPICH 5\nbuilt yesterday")
    launchers._refuse_another_mpi(4, "")


@pytest.mark.parametrize("text", ["x", "-1", "9999"])
def test_the_pipe_of_an_mpiexec_that_is_gone_is_refused(variables, text):
    variables({"PMI_RANK": "0", "PMI_SIZE": "2", "PMI_FD": text})
    with pytest.raises(UserError, match="PMI_FD: expected"):
        launchers.find_place()


@pytest.mark.parametrize("text", ["1", "8", " 4 ", "4,2", "64"])
def test_numbers_of_threads_are_left_to_openmp(variables, text):
    variables({"OMP_NUM_THREADS": text})
    environment.check()


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1.5", "4;2", "4,", "100000", "1 2"])
def test_numbers_of_threads_that_openmp_would_pass_over_are_refused(variables, text):
    variables({"OMP_NUM_THREADS": text})
    with pytest.raises(UserError, match="OMP_NUM_THREADS: expected a number of threads"):
        environment.check()


@pytest.mark.parametrize(
    "text", ["", "-1", "0", "0,1", "0, 1", "GPU-8932f937-d72c", "MIG-GPU-8932/1/0", "NoDevFiles"]
)
def test_names_of_gpus_are_left_to_cuda(variables, text):
    variables({"CUDA_VISIBLE_DEVICES": text})
    environment.check()


@pytest.mark.parametrize("text", ["x", "0;1", "cuda:0", "0 1", "all", "1.5", "0,,1"])
def test_gpus_that_cuda_would_not_find_are_refused(variables, text):
    variables({"CUDA_VISIBLE_DEVICES": text})
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES: expected numbers of GPUs"):
        environment.check()


def test_log_formats_and_folders_are_checked_before_anything_is_written(variables, tmp_path):
    (tmp_path / "file").write_text("")
    for name, text, message in (
        ("OPENAI_LOG_FORMAT", "stdout,tabel", "got 'tabel'"),
        ("OPENAI_LOG_FORMAT_MPI", "tabel", "got 'tabel'"),
        ("OPENAI_LOGDIR", str(tmp_path / "file"), "OPENAI_LOGDIR: expected a folder"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, text)
            with pytest.raises(UserError, match=message):
                environment.check()
    environment.check()


def test_tensorboard_names_its_package_where_it_is_missing(variables, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    variables({"OPENAI_LOG_FORMAT": "csv,tensorboard"})
    with pytest.raises(UserError, match="pip install tensorboard"):
        environment.check()


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", "x"), ("OMP_NUM_THREADS", "many"), ("OPENAI_LOG_FORMAT", "table")]
)
def test_every_command_checks_them_at_its_start(monkeypatch, name, value, tmp_path):
    monkeypatch.setenv(name, value)
    beside = {"WORLD_SIZE": "2"} if name == "RANK" else {}
    for key, text in beside.items():
        monkeypatch.setenv(key, text)
    # Ranks matter where networks run.
    for script in ("image_train", *["make_tissue", "evaluate"] * (name != "RANK")):
        words = ["a", "b"] if script == "evaluate" else ["--out_dir", tmp_path / "run"]
        result = call(script, *words)
        assert result.code == 2 and result.err.count("\n") == 1 and name in result.err, script
    assert not (tmp_path / "run").exists()


def test_a_log_is_not_named_for_a_rank_that_is_no_number(variables, tmp_path):
    variables({"OMPI_COMM_WORLD_RANK": "first"})
    with pytest.raises(UserError, match="OMPI_COMM_WORLD_RANK: expected a whole number"):
        logger.configure(str(tmp_path / "log"))


def test_nonsense_is_told_before_torch_is_loaded():
    line = [sys.executable, "-X", "importtime", "-m", "guided_diffusion", "train"]
    result = launch(line, OMP_NUM_THREADS="-2", CUDA_VISIBLE_DEVICES="0")
    assert result.code == 2 and "error: OMP_NUM_THREADS: expected a number" in result.last
    assert "torch" not in result.err


def test_two_processes_without_a_meeting_point_end_in_one_line(tmp_path):
    flags = ["--data_dir", tmp_path, "--device", "cpu"]
    result = launch(command("python", "image_train", *flags), WORLD_SIZE=2, RANK=0)
    assert result.code == 2 and result.err.startswith("error: MASTER_PORT: ")
    assert result.err.count("\n") == 1
