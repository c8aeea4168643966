"""One run at a time in a folder: who is refused, what is stale, what is let go."""

import dataclasses
import json
import os
import signal
import time

import pytest
from support import children

from guided_diffusion.errors import ArgumentError, UserError
from guided_diffusion.runtime import atomic_files, lock_holder, run_lock
from guided_diffusion.runtime.lock_holder import Holder, is_alive
from guided_diffusion.runtime.run_lock import NAME


def take(folder, command="train"):
    with run_lock.scope():
        run_lock.hold(folder, command)
    return "taken"


def try_to_take(folder):
    try:
        return take(folder)
    except UserError as error:
        return str(error)


def in_child(work, *args):
    return children.ask(lambda: work(*args))[0]


def leave(folder, age=0.0, **changes):
    """Leave the lock file of another process."""
    holder = dataclasses.replace(Holder.here("train", False), token="other", **changes)
    path = folder / NAME
    path.write_bytes(holder.content())
    before = time.time() - age
    os.utime(path, (before, before))
    return path


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_a_second_run_is_told_who_is_at_work_and_the_way_out(tmp_path):
    with run_lock.scope():
        run_lock.hold(tmp_path, "image_train")
        said = in_child(try_to_take, tmp_path)
        host, pid = os.uname().nodename, os.getpid()
        assert f"{tmp_path} is in use by image_train on {host}, process {pid}, since 20" in said
        assert f"(if no such run exists any more, remove {tmp_path / NAME})" in said
        assert said.startswith("out_dir: ") and "\n" not in said
        run_lock.hold(tmp_path, "image_train")  # the same run, once more
        with run_lock.scope():  # a command inside the command
            run_lock.hold(tmp_path, "image_train")
        assert (tmp_path / NAME).exists()
    assert not list(tmp_path.iterdir())
    assert in_child(try_to_take, tmp_path) == "taken"


def test_it_is_the_same_folder_by_another_name(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with run_lock.scope():
        run_lock.hold(tmp_path / "link", "train")
        run_lock.hold(tmp_path / "run", "train")
        assert "is in use by" in in_child(try_to_take, tmp_path / "run")


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, ValueError, None])
def test_it_is_let_go_however_the_command_ends(tmp_path, ending):
    try:
        with run_lock.scope():
            run_lock.hold(tmp_path, "train")
            if ending:
                raise ending
    except BaseException as error:
        assert type(error) is ending
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_a_lock_that_the_next_run_takes(tmp_path):
    def killed():
        with run_lock.scope():
            run_lock.hold(tmp_path, "train")
            os.kill(os.getpid(), signal.SIGKILL)

    assert children.ask(killed)[1] == -signal.SIGKILL and (tmp_path / NAME).exists()
    assert take(tmp_path) == "taken" and not list(tmp_path.iterdir())


def test_of_many_that_come_at_once_one_wins_also_over_a_stale_lock(tmp_path, ended):
    for stale in (False, True, True):
        if stale:
            leave(tmp_path, pid=ended, start="")
        (start, go), (wait, finish) = os.pipe(), os.pipe()
        racers = []
        for _ in range(6):
            racers.append(os.fork())
            if not racers[-1]:
                os.close(go)
                os.close(finish)
                os.read(start, 1)
                with run_lock.scope():
                    try:
                        run_lock.hold(tmp_path, "train")
                    except BaseException as error:
                        os._exit(2 if isinstance(error, UserError) else 3)
                    os.read(wait, 1)  # holds it until all have tried
                os._exit(0)
        os.close(go)  # all start
        codes = [os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) for _ in racers[1:]]
        os.close(finish)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]))
        os.close(start), os.close(wait)
        assert codes == [2] * 5 + [0] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({}, True),  # this very process
        ({"pid": "ended", "start": ""}, False),
        ({"start": "1"}, False),  # its number went to another process
        ({"system": True}, False),  # it had locked the file, which is free now
        ({"machine": "other"}, None),
        ({"numbers": "pid:[1]"}, None),  # of another container
        ({"numbers": "pid:[1]", "system": True}, False),
        ({"start": ""}, None),
    ],
)
def test_what_is_known_of_the_holder(tmp_path, ended, changes, alive):
    changes = {k: ended if v == "ended" else v for k, v in changes.items()}
    assert is_alive(leave(tmp_path, **changes)) is alive


@pytest.mark.parametrize("kind", ["dangling link", "link", "pipe", "folder"])
def test_what_is_no_file_in_the_place_of_the_lock_is_refused_at_once(tmp_path, kind):
    path = tmp_path / NAME
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere" if kind == "dangling link" else "/etc/passwd")
    with pytest.raises(UserError, match=f"{path}: expected a lock file of a run, got something"):
        take(tmp_path)


def test_what_a_lock_of_strangers_says_is_printed_safely(tmp_path):
    holder = dataclasses.replace(Holder.here("train", False), host="a\x1b[2J\nb" * 99, pid=10**30)
    (tmp_path / NAME).write_bytes(holder.content() + b" " * 10**6)
    assert is_alive(tmp_path / NAME) is False
    (tmp_path / NAME).write_bytes(dataclasses.replace(holder, host="a\x1b[2J\nb").content())
    assert "train on a?[2J?b, process" in str(run_lock.refusal(tmp_path / NAME))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'{"pid": "x"}', b"\xff", b"[" * 9999])
def test_a_file_that_is_no_lock_of_ours_is_one_whose_holder_is_unknown(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    assert is_alive(tmp_path / NAME) is None
    assert "a run on an unknown host, process 0, since an" in str(run_lock.refusal(tmp_path / NAME))


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 100_000])
def test_a_damaged_lock_is_taken_over_soon(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    before = time.time() - run_lock.DAMAGED - 1
    os.utime(tmp_path / NAME, (before, before))
    assert in_child(try_to_take, tmp_path) == "taken" and not list(tmp_path.iterdir())


def test_a_silent_run_of_another_machine_has_ended(tmp_path):
    leave(tmp_path, age=run_lock.SILENCE + 60, machine="other")
    assert take(tmp_path) == "taken" and not list(tmp_path.iterdir())


def test_a_run_of_another_machine_is_waited_for_and_refuses_by_its_next_sign_of_life(
    tmp_path, monkeypatch, recorder
):
    path = leave(tmp_path, machine="other", host="node7")

    def beat(seconds):
        os.utime(path)

    monkeypatch.setattr(run_lock.time, "sleep", beat)
    with pytest.raises(ArgumentError, match="in use by train on node7, process"):
        take(tmp_path)
    assert "waiting up to 120 s for a sign of life of its run" in recorder.text
    assert path.exists()


def test_a_run_of_another_machine_that_gives_no_sign_of_life_is_followed(
    tmp_path, monkeypatch, recorder
):
    leave(tmp_path, machine="other")
    clock = iter(range(0, 10000, 50))
    monkeypatch.setattr(run_lock.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(run_lock.time, "monotonic", lambda: next(clock))
    assert take(tmp_path) == "taken" and not list(tmp_path.iterdir())


def test_the_holder_gives_signs_of_life(tmp_path, monkeypatch):
    lock = run_lock.RunLock(tmp_path, "train")
    lock.take()
    os.utime(lock.path, (1, 1))
    beats = iter([False, True])
    monkeypatch.setattr(lock._end, "wait", lambda seconds: next(beats))
    lock._keep()
    assert lock.path.stat().st_mtime > 1
    lock.path.unlink()  # by someone who took the run for ended
    beats = iter([False, True])
    lock._keep()
    assert json.loads(lock.path.read_bytes())["pid"] == os.getpid()
    lock.let_go()


def test_a_run_whose_folder_was_taken_writes_no_more(tmp_path, monkeypatch):
    with run_lock.scope():
        run_lock.hold(tmp_path, "train")
        (lock,) = run_lock._held.values()
        lock.path.unlink()
        leave(tmp_path, host="node7")
        monkeypatch.setattr(lock._end, "wait", lambda seconds: False)
        lock._keep()
        with (
            pytest.raises(UserError, match="train on node7, process .*, has taken its folder"),
            atomic_files.atomic_write(tmp_path / "file"),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [NAME]  # the other's


def test_a_disk_without_hard_links_has_locks_too(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with run_lock.scope():
        run_lock.hold(tmp_path, "train")
        assert "is in use by" in in_child(try_to_take, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert not list(tmp_path.iterdir())


def test_a_system_without_locks_knows_the_process(tmp_path, monkeypatch):
    for module in (run_lock, lock_holder):
        monkeypatch.setattr(module, "system_lock", lambda *_, **__: None)
    with run_lock.scope():
        run_lock.hold(tmp_path, "train")
        assert "is in use by" in in_child(try_to_take, tmp_path)
    assert in_child(try_to_take, tmp_path) == "taken"


def test_looking_writes_nothing(tmp_path):
    run_lock.refuse_running(tmp_path / "missing")
    path = leave(tmp_path)
    with pytest.raises(ArgumentError, match="in use by train"):
        run_lock.refuse_running(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_code_that_runs_in_no_command_locks_nothing(tmp_path):
    run_lock.hold(tmp_path, "train")
    assert not list(tmp_path.iterdir())
