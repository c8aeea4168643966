"""What trainings and samplers say at their start: on what, for how long, and how to end it."""

import numpy as np
import pytest
from PIL import Image
from support.cli import TINY_CLASSIFIER, TINY_MODEL, call, draw_images, succeed

from guided_diffusion.models import checkpoint

STEP = "--max_steps 1 --sample_interval 0 --device cpu".split()


@pytest.fixture
def images(tmp_path):
    """Five images of two sizes, and a file that is none."""
    folder = draw_images(draw_images(tmp_path / "tiles", 2, size=16) / "large", 3, size=40)
    (folder / "notes.txt").write_text("no image")
    return tmp_path / "tiles"


def start_of(result, folder):
    """Return the lines of the log that tell of data, passes and the end."""
    lines = (folder / "log.txt").read_text().splitlines()
    assert all(line in result.out for line in lines)
    begin = next(i for i, line in enumerate(lines) if line.startswith("arithmetic: "))
    return lines[begin + 1 : begin + 4]


def test_a_training_says_what_it_learns_from_and_when_it_will_end(images, tmp_path):
    flags = ["--batch_size", 2, "--data_dir", images, "--out_dir", tmp_path / "run", *STEP]
    result = succeed("image_train", *TINY_MODEL, *flags, "--image_size", 32)
    data, step, end = start_of(result, tmp_path / "run")
    assert result.out.count("5 images") == 1
    assert f"{images}: 5 images; left out: 1 .txt" in (tmp_path / "run" / "log.txt").read_text()
    assert data == "images: sides of 16 to 40 pixels; 2 of them enlarged to the size asked for"
    assert step == "a step learns from 2 images; a pass over all 5: 2.5 steps"
    passes = "0.4 passes; saves every 10000 steps and at the end"
    assert end == f"ends after 1 steps (--max_steps), {passes}"

    large = [*TINY_MODEL, "--batch_size", 2, "--out_dir", tmp_path / "large", *STEP]
    Image.new("RGB", (64, 80)).save(tmp_path / "region.png")
    (tmp_path / "regions").mkdir()
    (tmp_path / "region.png").rename(tmp_path / "regions" / "a.png")
    result = succeed("image_train", *large, "--data_dir", tmp_path / "regions")
    shrunk = "sides of 64 to 80 pixels; resized to 16 (--crop native cuts 16x16 without resizing)"
    assert start_of(result, tmp_path / "large")[0].endswith(shrunk)

    again = [*flags, "--max_steps", 2, "--image_size", 32]
    told = succeed("image_train", *TINY_MODEL, *again).out
    assert "ends after 2 steps (--max_steps), 0.8 passes, 1 of them still to do; saves" in told


def test_the_flag_that_ends_it_is_named_and_what_would_where_none_does(
    images, tmp_path, monkeypatch
):
    flags = ["--batch_size", 2, "--data_dir", images, "--sample_interval", 0, "--device", "cpu"]
    annealed = [*flags, "--lr_anneal_steps", 1, "--max_steps", 3, "--out_dir", tmp_path / "a"]
    *_, end = start_of(succeed("image_train", *TINY_MODEL, *annealed), tmp_path / "a")
    assert end.startswith("ends after 1 steps (--lr_anneal_steps), 0.4 passes")

    limited = [*flags, "--max_steps", 1, "--time_limit", "0:30", "--out_dir", tmp_path / "c"]
    *_, end = start_of(succeed("image_train", *TINY_MODEL, *limited), tmp_path / "c")
    assert end.startswith("ends after 1 steps (--max_steps), 0.4 passes, or within --time_limit b")

    monkeypatch.setenv("DIFFUSION_TRAINING_TEST", "1")  # upstream's way to end after a save
    endless = [*flags, "--save_interval", 1, "--out_dir", tmp_path / "b"]
    *_, end = start_of(succeed("image_train", *TINY_MODEL, *endless), tmp_path / "b")
    assert end == (
        "no end is set (--max_steps or --lr_anneal_steps would set one), saves every 1 steps; "
        "Ctrl-C or SIGTERM ends it after the step at hand with a checkpoint, and the same command "
        "goes on"
    )
    limited = [*endless, "--time_limit", "0:30", "--out_dir", tmp_path / "d"]
    *_, end = start_of(succeed("image_train", *TINY_MODEL, *limited), tmp_path / "d")
    assert end.startswith("ends within --time_limit, saves every 1 steps and at the end; no other")


def test_other_trainings_say_it_too(images, tmp_path):
    pixels = np.zeros((7, 24, 24, 3), np.uint8)
    np.savez(tmp_path / "set.npz", pixels)
    sizes = ["--large_size", 16, "--small_size", 8, *TINY_MODEL[2:]]
    flags = ["--data_dir", tmp_path / "set.npz", "--out_dir", tmp_path / "large", *STEP]
    data, step, _ = start_of(succeed("super_res_train", *sizes, *flags), tmp_path / "large")
    assert data == "images: sides of 24 pixels"
    assert step == "a step learns from 1 images; a pass over all 7: 7 steps"

    flags = ["--data_dir", images, "--out_dir", tmp_path / "classes"]
    for number in range(2):
        Image.new("RGB", (16, 16)).save(images / f"tile1_{number}.png")
    result = succeed("classifier_train", *TINY_CLASSIFIER, *flags, "--iterations", 1)
    _, step, end = start_of(result, tmp_path / "classes")
    assert step == "a step learns from 2 images; a pass over all 7: 3.5 steps"
    assert end.startswith("ends after 1 steps (--iterations)")

    flags = ["--num_channels", 32, "--batch_size", 50, "--max_steps", 1, "--device", "cpu"]
    result = succeed("synthetic_train", *flags, "--out_dir", tmp_path / "points")
    step, end, _ = start_of(result, tmp_path / "points")
    assert step == "a step learns from 50 points, all new"
    assert end == "ends after 1 steps (--max_steps); saves every 10000 steps and at the end"


def test_ranks_say_it_once_and_together(images, tmp_path, two_ranks):
    flags = ["--batch_size", 2, "--data_dir", images, "--out_dir", tmp_path / "run", *STEP]
    result = two_ranks.run("mpiexec", "image_train", *TINY_MODEL, *flags, "--precision", "bf16")
    assert result.err == ""  # of torch's warnings on strides none is of use
    data, step, _ = start_of(result, tmp_path / "run")
    assert data.endswith("sides of 16 to 40 pixels")
    assert result.out.count(data) == 1
    expected = "a step learns from 4 images (2 on each of 2 processes); a pass over all 5"
    assert step == f"{expected}: 1.25 steps"


def test_a_sampler_says_how_much_work_lies_ahead(runs, tmp_path, monkeypatch):
    flags = ["--model_path", runs.source, "--device", "cpu", "--out_dir", tmp_path]

    class StoppedError(Exception):
        """Ends the command before it draws an image."""

    def stop(*_, **__):
        raise StoppedError

    monkeypatch.setattr("guided_diffusion.sampling.new_images.save_drawn", stop)
    with pytest.raises(StoppedError):
        call("image_sample", *flags, "--timestep_respacing", "8")
    assert checkpoint.newest_weights(runs.source).name == "ema_0.5_000008.pt"
    expected = "10000 images (--num_samples) take 80000 network evaluations, 8 for each"
    assert expected in (tmp_path / "log.txt").read_text()
