"""Files whole or not at all, folders that can be written to, and disks that are full."""

import os
from pathlib import Path

import numpy as np
import pytest

from guided_diffusion import dist_util
from guided_diffusion.errors import ArgumentError, UserError, blame
from guided_diffusion.runtime import atomic_files


@pytest.mark.parametrize(("mode", "content"), [("wb", b"a\r\nb"), ("w", "a\r\nb\né")])
def test_a_written_file_holds_what_was_written_and_nothing_lies_beside_it(tmp_path, mode, content):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with atomic_files.atomic_write(path, mode) as file:
        file.write(content)
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == (content if mode == "wb" else content.encode())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, b"before"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_what_was_there(tmp_path, before, error):
    path = tmp_path / "file"
    if before:
        path.write_bytes(before)
    with pytest.raises(error), atomic_files.atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_a_file_in_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_files.atomic_write(tmp_path / "no" / "file"):
        pass


def test_paths_may_be_text(tmp_path):
    with atomic_files.atomic_write(str(tmp_path / "file"), "w") as file:
        file.write("x")
    assert Path(tmp_path / "file").read_text() == "x"


def test_a_file_that_holds_the_content_already_is_left_alone(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        atomic_files.write_if_changed(path, content)
        assert path.read_bytes() == content
    before = path.stat()
    atomic_files.write_if_changed(path, b"two")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_reserved_file_has_its_size(tmp_path):
    with open(tmp_path / "file", "w+b") as file:
        atomic_files.reserve(file, 10_000)
    assert (tmp_path / "file").stat().st_size == 10_000


def test_a_full_disk_is_a_user_error_that_names_the_flag(tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "posix_fallocate", full, raising=False)
    with (
        open(tmp_path / "file", "w+b") as file,
        pytest.raises(UserError, match="flag: 2.00 GB of disk.*No space left"),
        blame("flag"),
    ):
        atomic_files.reserve(file, 2 * 10**9)


def test_an_array_is_there_at_its_full_size_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "array.npy"
    atomic_files.create_array(path, np.float16, [3, 2])
    assert np.load(path).shape == (3, 2) and not np.load(path).any()

    def full(descriptor, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="^0.00 GB of disk are needed"):
        atomic_files.create_array(tmp_path / "other.npy", np.uint8, (4,))
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_to_write_to_is_made_and_left_empty(tmp_path):
    for _ in range(2):
        atomic_files.make_folder(tmp_path / "a" / "b")
        assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "b"]


def test_a_file_in_the_place_of_a_folder_is_refused_under_the_name_of_its_flag(tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    for place in (path, path / "below"):
        expected = pytest.raises(ArgumentError, match=f"^output: expected a folder .*got {place}")
        with expected, blame("output"):
            atomic_files.make_folder(place)
    assert path.read_text() == "kept"


def test_a_folder_is_made_by_the_first_rank_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(dist_util, "rank", lambda: 1)
    atomic_files.make_folder(tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("replacing", [True, False])
def test_a_file_that_can_be_written_later_is_not_made_yet(tmp_path, replacing):
    atomic_files.refuse_unwritable("")
    atomic_files.refuse_unwritable(str(tmp_path / "new"), replacing)
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").write_text("kept")
    atomic_files.refuse_unwritable(str(tmp_path / "old"), replacing)
    assert (tmp_path / "old").read_text() == "kept" and len(list(tmp_path.iterdir())) == 1
    for place in (tmp_path, tmp_path / "no" / "file"):
        with pytest.raises(ArgumentError, match="^out: expected a file in a folder that can be"):
            atomic_files.refuse_unwritable(str(place), replacing)


@pytest.mark.parametrize("replacing", [True, False])
def test_a_pipe_or_device_for_results_is_refused_at_the_start(tmp_path, replacing):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(
            ArgumentError, match="^out: .*: expected a file, got a (device|named pipe)"
        ):
            atomic_files.refuse_unwritable(str(place), replacing)


def test_a_long_name_has_a_temporary_name_too(tmp_path):
    path = tmp_path / ("\u00e9" * 120 + ".json")
    with atomic_files.atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"
    assert atomic_files.is_partial(atomic_files.partial_of(path).name)


def test_what_a_killed_run_left_beside_its_file_is_removed_by_the_next(tmp_path):
    path, other = tmp_path / "report[1].json", tmp_path / "other.json"
    left, kept = atomic_files.partial_of(path), atomic_files.partial_of(other)
    for partial in (left, kept, tmp_path / ".report[1].json.0.partial"):
        partial.write_text("half")
    atomic_files.refuse_unwritable(str(path))
    assert not left.exists() and kept.exists() and len(list(tmp_path.iterdir())) == 2
