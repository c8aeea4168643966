"""What every write passes: no link out of the run's folder, and failures that name their file."""

import errno
import os

import numpy as np
import pytest
from support import children

from guided_diffusion import logger
from guided_diffusion.errors import UserError
from guided_diffusion.runtime import atomic_files, faults, writing
from guided_diffusion.runtime.faults import Fault


@pytest.fixture
def run(tmp_path):
    """A run's folder, beside a folder of others."""
    for name in ("run", "others"):
        (tmp_path / name).mkdir()
    (tmp_path / "others" / "file").write_text("kept")
    writing.keep_inside(tmp_path / "run")
    yield tmp_path / "run"
    writing.forget_all_but(())
    faults.plan(None)


def write_atomically(path):
    with atomic_files.atomic_write(path) as file:
        file.write(b"x")


def append(path):
    with atomic_files.appending(path) as file:
        file.write(b"x")


def store(path):
    with atomic_files.storing(path):
        raise AssertionError("stored")


def log(path):
    logger.HumanOutputFormat(str(path))


def log_csv(path):
    logger.CSVOutputFormat(str(path)).writekvs({"a": 1})


def create(path):
    atomic_files.create_array(path, np.uint8, (3,))


WRITERS = [
    *(write_atomically, append, store, log, log_csv, create),
    *(atomic_files.make_folder, atomic_files.make_subfolder),
    lambda path: atomic_files.write_if_changed(path, b"x"),
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("target", ["file", "new", "folder"])
def test_no_writer_follows_a_link_out_of_the_run(run, write, target):
    outside = run.parent / "others"
    path = run / "link"
    path.symlink_to(outside if target == "folder" else outside / target)
    path = path / "below" if target == "folder" else path
    with pytest.raises(UserError, match=f"{path}: leads out of the run's folder, to {outside}.*"):
        write(path)
    assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("file", "kept")]


def test_links_that_stay_inside_and_a_run_folder_that_is_a_link_are_followed(run):
    (run / "there").mkdir()
    (run / "here").symlink_to(run / "there")
    write_atomically(run / "here" / "file")
    assert (run / "there" / "file").exists()
    (run.parent / "link").symlink_to(run)
    writing.keep_inside(run.parent / "link")
    write_atomically(run.parent / "link" / "file")
    assert (run / "file").exists()


def test_relative_paths_are_meant_too(run, monkeypatch):
    monkeypatch.chdir(run)
    (run / "link").symlink_to("../others/file")
    with pytest.raises(UserError, match="leads out of"):
        write_atomically("link")


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (write_atomically, append, log_csv, create):
        with pytest.raises(UserError, match="pipe: expected a file"):
            write(tmp_path / "pipe")


WRITING = [write_atomically, append, create, lambda path: store_something(path)]


def store_something(path):
    with atomic_files.storing(path):
        pass


@pytest.mark.parametrize("write", WRITING)
@pytest.mark.parametrize("kind", ["ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS", "ENAMETOOLONG"])
def test_a_write_that_fails_at_any_point_names_its_file(run, write, kind):
    for nth in range(1, 6):
        faults.plan(fault := Fault("any", nth, kind))
        try:
            write(run / "file")
        except OSError as error:
            said = writing.described(error)
            assert error.errno == getattr(errno, kind)
        except UserError as error:
            said = str(error)
        else:
            assert fault.visits < nth
            break
        assert str(run / "file") in said and os.strerror(getattr(errno, kind)) in said
        if kind in ("ENOSPC", "EDQUOT"):
            assert "B are free" in said and "make room" in said
        assert not [path for path in run.iterdir() if "partial" in path.name]
    assert nth > 1


@pytest.mark.parametrize("write", [write_atomically, append, log_csv])
def test_a_write_that_the_system_refuses_names_its_file(tmp_path, write):
    def limited():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            write(tmp_path / "file")
        except OSError as error:
            return writing.described(error)

    said, _, problem = children.ask(limited)
    assert not problem and said.startswith(f"{tmp_path / 'file'}: File too large (")


def test_texts_without_a_number_are_failures_too(run):
    with pytest.raises(OSError) as found, writing.named(run / "file"):
        raise OSError("40 requested and 8 written")  # as numpy says it
    assert writing.described(found.value).startswith(f"{run / 'file'}: 40 requested and 8 written")
    with (
        pytest.raises(MemoryError, match=f"{run / 'file'}: no memory"),
        writing.named(run / "file"),
    ):
        raise MemoryError("no memory")


def test_a_file_that_the_error_names_stays(run):
    with pytest.raises(FileNotFoundError) as found, writing.writing(run / "file"):
        open(run / "other")
    assert found.value.filename == str(run / "other")


def test_an_array_larger_than_the_disk_is_told_before_it_is_made(run):
    with pytest.raises(UserError, match=f"GB of disk are needed for {run}/a.npy, .* GB are free"):
        atomic_files.create_array(run / "a.npy", np.float64, (10**18, 10**6))
    assert not list(run.iterdir())


@pytest.mark.parametrize("problem", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_that_reserves_nothing_is_filled(run, monkeypatch, problem):
    def unable(*_):
        raise OSError(problem, "no")

    monkeypatch.setattr(atomic_files.os, "posix_fallocate", unable, raising=False)
    atomic_files.create_array(run / "a.npy", np.float32, (1000, 700))
    found = np.load(run / "a.npy")
    assert found.shape == (1000, 700) and not found.any()
    assert (run / "a.npy").stat().st_blocks * 512 >= found.nbytes


def test_a_row_that_cannot_be_written_names_its_file(run):
    for name in ("json", "csv", "log"):
        with logger.scoped_configure(str(run), [name]):
            faults.plan(Fault("log.write", 1, "ENOSPC"))
            logger.logkv("a", 1)
            with pytest.raises(OSError) as found:
                logger.dumpkvs()
        assert str(run) in writing.described(found.value)


def test_a_csv_that_cannot_grow_leaves_nothing(run, monkeypatch):
    with logger.scoped_configure(str(run), ["csv"]):
        logger.logkv("a", 1)
        logger.dumpkvs()
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        logger.logkv("b", 1)
        with pytest.raises(OSError) as found:
            logger.dumpkvs()
    assert found.value.filename == str(run / "progress.csv")
