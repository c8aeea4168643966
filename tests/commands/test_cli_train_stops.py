"""Trainings that are asked to stop or killed: what they leave, and how the next one mends it."""

import json
import shutil
import signal

import pytest
from support.cli import call, read_csv, snapshot, succeed

from guided_diffusion.models import checkpoint
from guided_diffusion.runtime import command, stop_requests
from guided_diffusion.runtime.run_log import drop_later_rows
from guided_diffusion.training import training_run


@pytest.fixture
def signals_at(monkeypatch):
    """Return a function that has signals come before files of these names are saved."""

    def arrange(*names: str, number: int = signal.SIGTERM):
        def save_state(state, path, save=checkpoint.save_state):
            for _ in range(names.count(path.name)):
                signal.raise_signal(number)
            save(state, path)

        monkeypatch.setattr(checkpoint, "save_state", save_state)

    return arrange


@pytest.fixture
def asked_at_once(monkeypatch):
    """The next training is asked to stop before its first step is done."""
    stop = stop_requests.StopSignal()
    stop.asked = True
    monkeypatch.setattr(training_run, "StopSignal", lambda: stop)
    return stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_break_the_last_save(
    runs, tmp_path, signals_at, asked_at_once, number
):
    signals_at("model000001.pt", number=number)
    result = call("image_train", *runs.training, "--out_dir", tmp_path)
    assert result.code == command.INTERRUPTED
    assert result.last == "interrupted; the same command again goes on"
    assert "asked to stop after 1 steps" in result.out
    asked_at_once.asked = False
    again = succeed("image_train", *runs.training, "--out_dir", tmp_path)
    assert f"training on from {tmp_path / 'model000001.pt'}" in again.out
    for name in ("model000008.pt", "ema_0.5_000008.pt"):
        assert (tmp_path / name).read_bytes() == (runs.source / name).read_bytes()


def test_two_signals_during_a_save_of_the_interval_end_it_with_that_save(
    runs, tmp_path, signals_at
):
    signals_at("opt000004.pt", "ema_0.5_000004.pt")
    result = call("image_train", *runs.training, "--out_dir", tmp_path)
    assert result.code == command.INTERRUPTED and "interrupted;" in result.last
    assert result.out.count("saved ") == 1
    assert (tmp_path / "model000004.pt").exists() and not (tmp_path / "model000005.pt").exists()


def test_a_third_signal_ends_at_once_and_what_it_left_goes_with_the_next_run(
    runs, tmp_path, signals_at
):
    signals_at("opt000004.pt", "ema_0.5_000004.pt", "model000004.pt")
    result = call("image_train", *runs.training, "--out_dir", tmp_path)
    assert result.code == command.INTERRUPTED and result.last.startswith("interrupted at once")
    assert {path.name for path in tmp_path.glob("*.pt")} == {"opt000004.pt", "ema_0.5_000004.pt"}
    flags = ["--out_dir", tmp_path, "--save_interval", 8]
    assert "from scratch" in succeed("image_train", *runs.training, *flags).out
    assert {path.name for path in tmp_path.glob("*.pt")} == {
        "model000008.pt",
        "ema_0.5_000008.pt",
        "opt000008.pt",
    }


def test_a_run_of_other_flags_is_refused_with_the_way_to_train_on(runs, tmp_path):
    longer = [*runs.training, "--lr_anneal_steps", 9, "--max_steps", 9]
    result = call("image_train", *longer, "--out_dir", runs.source)
    assert result.code == 2 and "--lr_anneal_steps was 0, is 9" in result.last
    way = f"--out_dir ANOTHER_FOLDER --resume_checkpoint {runs.source}"
    assert result.last.endswith(way)
    told = way.replace("ANOTHER_FOLDER", str(tmp_path)).split()
    assert "training on from" in succeed("image_train", *longer, *told).out


def test_a_run_without_a_checkpoint_is_nothing_to_train_on_from(runs, tmp_path):
    shutil.copy(runs.source / "args.json", tmp_path)
    result = call("image_train", *runs.training, "--lr", 1, "--out_dir", tmp_path)
    assert result.code == 2 and result.last.endswith("or another folder")


def test_the_picture_that_a_kill_cost_is_made_with_the_next_run(runs, tmp_path):
    shutil.copytree(runs.source, tmp_path, dirs_exist_ok=True)
    for step in (4, 8):
        (tmp_path / "samples" / f"00000{step}.png").unlink()
    other = [*runs.training, "--max_steps", 8, "--resume_checkpoint", tmp_path]
    succeed("image_train", *other, "--out_dir", tmp_path / "other")
    assert not (tmp_path / "other" / "samples").exists()
    succeed("image_train", *runs.training, "--out_dir", tmp_path)
    succeed("image_train", *runs.training, "--out_dir", tmp_path, "--max_steps", 9)
    (tmp_path / "samples" / "000009.png").write_bytes(b"there already")
    succeed("image_train", *runs.training, "--out_dir", tmp_path, "--max_steps", 9)
    made = {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    assert made.keys() == {"000008.png", "000009.png"}
    assert made["000009.png"] == b"there already"
    assert made["000008.png"] == (runs.source / "samples" / "000008.png").read_bytes()


def test_a_run_that_goes_on_from_an_earlier_step_logs_each_step_once(runs, tmp_path):
    shutil.copytree(runs.source, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model000008.pt").unlink()
    with open(tmp_path / "progress.jsonl", "a") as file:
        file.write('{"loss": 0.1, "st')  # as a kill leaves it
    succeed("image_train", *runs.training, "--out_dir", tmp_path)
    for folder in (tmp_path, runs.source):
        rows = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
        table = read_csv(folder / "progress.csv")
        assert [row["step"] for row in rows] == [int(row["step"]) for row in table]
        assert [row["step"] for row in rows] == list(range(1, 9))


@pytest.mark.parametrize(
    ("done", "steps"), [(0, []), (10, [10]), (25, [10, 20]), (99, [10, 20, 30])]
)
def test_rows_beyond_a_step_are_dropped_and_all_others_left_as_they_are(tmp_path, done, steps):
    header, row = b"loss,step,note\r\n", b'0.50,%d,"a, b"\r\n'
    other = b'["no step"]\nnot even json\n{"loss": 1}\n'
    line = b'{"loss": 0.50, "step": %d}\n'
    all_steps = (10, 20, 30)
    (tmp_path / "progress.csv").write_bytes(
        header + b"".join(row % n for n in all_steps) + b"0.5,4"
    )
    (tmp_path / "progress.jsonl").write_bytes(other + b"".join(line % n for n in all_steps))
    drop_later_rows(tmp_path, done)
    assert snapshot(tmp_path) == {
        "progress.csv": header + b"".join(row % n for n in steps),
        "progress.jsonl": other + b"".join(line % n for n in steps),
    }


def test_older_files_without_a_model_stay(runs, tmp_path):
    shutil.copytree(runs.source, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model000004.pt").unlink()
    (tmp_path / "ema_0.5_000012.pt").write_bytes(b"an average that its owner kept")
    succeed("image_train", *runs.training, "--out_dir", tmp_path)
    kept = {"opt000004.pt", "ema_0.5_000004.pt", "ema_0.5_000012.pt", "opt000008.pt"}
    assert kept <= snapshot(tmp_path).keys()
