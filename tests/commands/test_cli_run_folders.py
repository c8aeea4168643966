"""Run folders of whole commands: one run at a time, nothing of others touched, failures named."""

import os
import shutil
import signal

import pytest
from support import children
from support.cli import SEQUENCES, TINY_CLASSIFIER, command, launch, read_csv, snapshot, succeed

from guided_diffusion.runtime import faults, run_lock
from guided_diffusion.runtime.faults import Fault

SMALL = "--num_samples 2 --batch_size 1 --timestep_respacing 2 --device cpu".split()


@pytest.fixture
def lines(runs):
    """Flags of each command that writes to a folder, --out_dir excepted."""
    model, data = ["--model_path", runs.source], ["--data_dir", runs.images]
    pair = ["--source_model", runs.source, "--target_model", runs.target, *data]
    return {
        "image_train": [*runs.training, "--max_steps", 2, "--save_interval", 2],
        "classifier_train": [*TINY_CLASSIFIER, *data],
        SEQUENCES: [*runs.sequences, "--num_images", 1],
        "image_sample": [*model, *SMALL],
        "image_nll": [*model, *data, *SMALL],
        "make_tissue": ["--image_size", 16, "--num_images", 2],
        "compare_depths": [*pair, "--steps", 4, "--amount", 2, "--num_images", 1],
    }


COMMANDS = ["image_train", "classifier_train", SEQUENCES, "image_sample", "image_nll"]
COMMANDS += ["make_tissue", "compare_depths"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_run_in_a_folder_is_refused_and_leaves_it_alone(lines, tmp_path, name):
    (tmp_path / "notes.txt").write_text("mine")
    with run_lock.scope():
        run_lock.hold(tmp_path, "image_train")
        before = snapshot(tmp_path)
        result = children.run(name, *lines[name], "--out_dir", tmp_path)
        assert snapshot(tmp_path) == before
    assert result.code == 2
    who = f"image_train on {os.uname().nodename}, process {os.getpid()}, since 20"
    assert f"error: --out_dir: {tmp_path} is in use by {who}" in result.last
    assert f"remove {tmp_path / run_lock.NAME})" in result.last and "partial" not in result.err


def test_a_second_training_comes_while_the_first_works_and_the_first_ends_well(
    lines, tmp_path, monkeypatch
):
    from guided_diffusion.training.train_util import TrainLoop

    flags = [*lines["image_train"], "--out_dir", tmp_path]
    step, others = TrainLoop.run_step, []

    def meanwhile(self, *args):
        if not others:
            others.append(launch(command("python", "image_train", *flags)))
        step(self, *args)

    monkeypatch.setattr(TrainLoop, "run_step", meanwhile)
    succeed("image_train", *flags)
    assert others[0].code == 2 and "is in use by image_train on " in others[0].last
    assert not (tmp_path / run_lock.NAME).exists()


@pytest.mark.parametrize("name", ["image_train", SEQUENCES, "image_sample"])
def test_a_killed_run_does_not_keep_the_folder_and_leaves_nothing_of_its_own(lines, tmp_path, name):
    flags = [*lines[name], "--out_dir", tmp_path]
    mine = tmp_path / ".notes.partial"
    mine.write_text("mine")
    killed = children.run(name, *flags, before=lambda: faults.plan(Fault("write.data", 2, "kill")))
    assert killed.code == -signal.SIGKILL and (tmp_path / run_lock.NAME).exists()
    succeed(name, *flags)
    hidden = {path.name for path in tmp_path.rglob(".*")}
    assert hidden == {".notes.partial"} and mine.read_text() == "mine"


LINKS = [
    ("image_train", "log.txt"),
    ("image_train", "progress.csv"),
    ("image_train", "samples"),
    ("image_train", "args.json"),
    ("image_train", "ema_0.5_000002.pt"),
    (SEQUENCES, "translation_0_1"),
    ("image_sample", "samples.png"),
    ("make_tissue", "index.csv"),
    ("compare_depths", "depths.png"),
]


@pytest.mark.parametrize(("name", "link"), LINKS)
def test_a_link_out_of_the_folder_is_refused_and_its_target_as_it_was(lines, tmp_path, name, link):
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    if "." not in link:
        outside.mkdir()
    elif link != "args.json":
        outside.write_text("")
    (run / link).symlink_to(outside)
    result = children.run(name, *lines[name], "--out_dir", run)
    if name == "make_tissue":  # it removes its list first, a link like a file
        assert result.code == 0, result.err
    else:
        assert result.code == 2, result.out
        # A record is read before it is written, so that its missing target is what is told.
        told = "or remove the link" if link == "args.json" else "leads out of the run's folder"
        assert f"{run / link}" in result.last and told in result.last
    before = snapshot(outside) if outside.is_dir() else {}
    assert not before and (not outside.is_file() or outside.read_text() == "")


def test_a_run_folder_may_itself_be_a_link(lines, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    succeed("image_train", *lines["image_train"], "--out_dir", tmp_path / "run")
    assert (tmp_path / "disk" / "model000002.pt").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_write_that_fails_ends_with_one_line_that_names_the_file(lines, tmp_path, name):
    def full():
        faults.plan(Fault("write.data", 1, "ENOSPC"))

    result = children.run(name, *lines[name], "--out_dir", tmp_path / "out", before=full)
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert result.err.startswith(f"error: {tmp_path / 'out'}/")
    assert "No space left on device (" in result.err and "B are free); make room" in result.err


def test_a_folder_that_vanishes_during_a_training_is_made_again_with_its_record(
    lines, tmp_path, monkeypatch
):
    from guided_diffusion.training.train_util import TrainLoop

    step, kept = TrainLoop.run_step, {}

    def meanwhile(self, *args):
        if self.done == 1:
            kept.update(snapshot(tmp_path / "run"))
            shutil.rmtree(tmp_path / "run")
        step(self, *args)

    monkeypatch.setattr(TrainLoop, "run_step", meanwhile)
    result = succeed("image_train", *lines["image_train"], "--out_dir", tmp_path / "run")
    run = tmp_path / "run"
    assert (run / "args.json").read_bytes() == kept["args.json"]
    assert f"{run / 'args.json'} vanished during the run; it is written anew" in result.out
    assert f"warning: {run / 'progress.csv'} vanished during the run, with what it" in result.err
    assert [row["step"] for row in read_csv(run / "progress.csv")] == ["2"]
    assert (run / "model000002.pt").exists() and "vanished" in (run / "log.txt").read_text()
