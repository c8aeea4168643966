"""`super_res_train.py` and `super_res_sample.py` as a user runs them."""

import json

import numpy as np
import pytest
import torch
from cli import (
    TRAINING,
    call,
    draw_images,
    grey_levels_apart,
    picture,
    read_csv,
    snapshot,
    succeed,
    working_directory,
)

from guided_diffusion import report, super_res
from guided_diffusion.image_datasets import fixed_images

TRAIN = "super_res_train"
TINY_SR = (
    "--large_size 16 --small_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1,2 "
    "--attention_resolutions 8 --num_heads 2 --diffusion_steps 40"
).split()
SHORT = "--max_steps 1 --sample_interval 0 --device cpu".split()


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """The flags of a training, --out_dir excepted."""
    images = draw_images(tmp_path_factory.mktemp("large") / "images", 5)
    return [*TINY_SR, *TRAINING, "--data_dir", images]


@pytest.fixture(scope="module")
def trained(training, tmp_path_factory):
    """A run of 8 steps, to be left as it is."""
    folder = tmp_path_factory.mktemp("super_res")
    succeed(TRAIN, *training, "--out_dir", folder)
    return folder


@pytest.fixture(scope="module")
def conditional(training, tmp_path_factory):
    """A run of a class-conditional model."""
    folder = tmp_path_factory.mktemp("conditional")
    flags = "--class_cond True --max_steps 4 --sample_interval 4".split()
    succeed(TRAIN, *training, *flags, "--out_dir", folder)
    return folder


def load(path):
    return torch.load(path, weights_only=True)


def test_a_training_leaves_checkpoints_a_record_and_logs(trained):
    names = {f"{name}00000{step}.pt" for name in ("model", "ema_0.5_", "opt") for step in (4, 8)}
    logs = {"args.json", "log.txt", "progress.csv", "progress.jsonl"}
    grids = {"samples/000004.png", "samples/000008.png"}
    assert snapshot(trained).keys() == names | logs | grids
    record = json.loads((trained / "args.json").read_text())
    assert record["script"] == TRAIN
    assert (record["args"]["large_size"], record["args"]["small_size"]) == (16, 8)
    losses = [float(row["loss"]) for row in read_csv(trained / "progress.csv")]
    assert len(losses) == 8 and all(0 < loss < 3 for loss in losses)
    # The network sees the noisy image and the small one next to each other.
    assert load(trained / "model000008.pt")["input_blocks.0.0.weight"].shape[1] == 6


def test_the_grid_shows_small_drawn_and_true_images_in_three_columns(training, trained):
    grid = picture(trained / "samples" / "000008.png")
    assert grid.shape == (5 * 18 + 2, 3 * 18 + 2, 3)
    large, _ = fixed_images(training[-1], 16).batch(range(5))
    small = report.to_uint8(super_res.pixelated(super_res.downsample(large, 8), 16))
    for row, (first, last) in enumerate(zip(small, report.to_uint8(large), strict=True)):
        line = grid[2 + 18 * row :][:16]
        assert np.array_equal(line[:, 2:18], first) and np.array_equal(line[:, 38:54], last)
        assert grey_levels_apart(line[:, 20:36], last) > 20  # drawn by a network that knows little


def test_a_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(training, trained, tmp_path):
    flags = [*training, "--out_dir", tmp_path]
    succeed(TRAIN, *flags, "--max_steps", 3)
    again = succeed(TRAIN, *flags)
    assert f"training on from {tmp_path / 'model000003.pt'}" in again.out
    for name in ("model000008.pt", "ema_0.5_000008.pt"):
        ours, theirs = load(tmp_path / name), load(trained / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_what_is_learned_depends_on_the_small_images(training, trained, tmp_path):
    succeed(TRAIN, *training, "--out_dir", tmp_path, "--small_size", 2, "--max_steps", 4)
    ours, theirs = load(tmp_path / "model000004.pt"), load(trained / "model000004.pt")
    assert not torch.equal(ours["out.2.weight"], theirs["out.2.weight"])


def test_labels_of_file_names_reach_the_network(conditional):
    weights = load(conditional / "model000004.pt")["label_emb.weight"]
    start = load(conditional / "ema_0.5_000004.pt")["label_emb.weight"]
    moved = (weights != start).any(dim=1).nonzero().flatten().tolist()
    assert weights.shape[0] == 1000 and moved == [0, 1]
    assert (conditional / "samples" / "000004.png").exists()


def test_other_sizes_and_channels_work_and_find_their_folder(tmp_path):
    draw_images(tmp_path / "tiles", 2, size=24)
    flags = "--large_size 24 --small_size 6 --channel_mult 1,1,1 --in_channels 1".split()
    with working_directory(tmp_path):
        succeed(TRAIN, *TINY_SR, *flags, *SHORT, "--save_interval", 1, "--data_dir", "tiles")
    folder = tmp_path / "results" / "super_res_train_tiles"
    assert load(folder / "model000001.pt")["input_blocks.0.0.weight"].shape[1] == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--large_size 17", "--large_size: 2 levels need a multiple of 2, got 17"),
        ("--large_size 18 --channel_mult=", "--large_size: there is a preset for "),
        ("--small_size 32", "--small_size: expected 1 to --large_size 16, got 32"),
        ("--small_size 0", "--small_size: expected a whole number of at least 1, got '0'"),
        ("--image_size 16", "unrecognized arguments: --image_size 16"),
        ("--data_dir=", "--data_dir: expected a folder of images, got ''"),
        ("--use_fp16 True --precision bf16", "--precision: bf16 and --use_fp16 True exclude each"),
    ],
)
def test_a_mistake_in_training_is_named_and_writes_nothing(training, tmp_path, flags, message):
    result = call(TRAIN, *training, "--out_dir", tmp_path / "out", *flags.split())
    assert result.code == 2 and message in result.last and "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_run_is_refused(training, trained, runs):
    before = snapshot(trained), snapshot(runs.source)
    other = call(TRAIN, *training, "--out_dir", trained, "--small_size", 4)
    assert other.code == 2 and "--small_size was 8, is 4" in other.last
    other = call(TRAIN, *training, "--out_dir", runs.source)
    assert other.code == 2 and "holds a run of 'image_train'" in other.last
    assert (snapshot(trained), snapshot(runs.source)) == before
