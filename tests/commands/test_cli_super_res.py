"""`super_res_train.py` and `super_res_sample.py` as a user runs them."""

import json

import numpy as np
import pytest
import torch
from support.cli import (
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

from guided_diffusion.data import low_res, pictures
from guided_diffusion.data.image_formats import open_images
from guided_diffusion.runtime import random_streams

TRAIN, SAMPLE = "super_res_train", "super_res_sample"
SHAPE = "{}x16x16x3"
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
    digests = {f"{name}.sha256" for name in names}
    assert snapshot(trained).keys() == names | digests | logs | grids
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
    large, _ = open_images(training[-1], 16).batch(range(5))
    small = pictures.to_uint8(low_res.pixelated(low_res.downsample(large, 8), 16))
    for row, (first, last) in enumerate(zip(small, pictures.to_uint8(large), strict=True)):
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
        ("--small_size 32", "--small_size: expected 1 to large_size 16, got 32"),
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


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Five small images and their classes, as image_sample writes them."""
    path = tmp_path_factory.mktemp("base") / "samples_5x8x8x3.npz"
    folder = draw_images(path.parent / "images", 5, size=8)
    images = np.stack([picture(file) for file in sorted(folder.iterdir())])
    np.savez(path, images, np.array([0, 1, 0, 1, 0]))
    return path


SAMPLING = "--timestep_respacing 4 --device cpu".split()


def enlarge(model, base, out_dir, *flags):
    """The images of a run."""
    argv = ["--model_path", model, "--base_samples", base, "--out_dir", out_dir, *SAMPLING, *flags]
    succeed(SAMPLE, *argv)
    return images_in(out_dir)


def images_in(out_dir):
    (path,) = out_dir.glob("samples_*.npz")
    with np.load(path, allow_pickle=False) as file:
        assert file.files == ["arr_0"]
        images = file["arr_0"]
    assert path.name == f"samples_{SHAPE.format(len(images))}.npz"
    return images


@pytest.fixture(scope="module")
def enlarged(trained, base, tmp_path_factory):
    """All small images enlarged, one by one."""
    return enlarge(trained, base, tmp_path_factory.mktemp("enlarged"), "--batch_size", 1)


def test_each_small_image_is_enlarged_whatever_the_batch_size(trained, base, enlarged, tmp_path):
    assert enlarged.shape == (5, 16, 16, 3) and enlarged.dtype == np.uint8
    together = enlarge(trained, base, tmp_path, "--batch_size", 4)
    assert grey_levels_apart(together, enlarged) <= 1
    names = {path.name for path in tmp_path.iterdir()}
    logs = {"args.json", "log.txt", "progress.csv"}
    assert names == {"samples_5x16x16x3.npz", "samples.png"} | logs


def test_images_follow_the_small_ones_and_the_seed(trained, base, enlarged, tmp_path):
    with np.load(base) as file:
        np.savez(tmp_path / "other.npz", np.roll(file["arr_0"], 1, axis=0))
    other = enlarge(trained, tmp_path / "other.npz", tmp_path / "other")
    assert grey_levels_apart(other, enlarged) > 5
    seeded = enlarge(trained, base, tmp_path / "seed", "--seed", 1)
    assert grey_levels_apart(seeded, enlarged) > 20
    ddim = enlarge(trained, base, tmp_path / "ddim", "--use_ddim", "True")
    assert grey_levels_apart(ddim, enlarged) > 20


def test_a_folder_of_small_images_gives_what_their_npz_does(trained, base, enlarged, tmp_path):
    folder = enlarge(trained, base.parent / "images", tmp_path)
    assert grey_levels_apart(folder, enlarged) <= 1


def test_small_images_are_taken_in_turn_with_noise_of_their_own(trained, base, enlarged, tmp_path):
    seven = enlarge(trained, base, tmp_path / "seven", "--num_samples", 7)
    assert grey_levels_apart(seven[:5], enlarged) <= 1
    assert grey_levels_apart(seven[5], enlarged[0]) > 20
    two = enlarge(trained, base, tmp_path / "two", "--num_samples", 2)
    assert grey_levels_apart(two, enlarged[:2]) <= 1


def test_noise_is_not_that_of_image_sample():
    drawn = [
        random_streams.ImageNoise(0, [5], stream).draw((3, 8, 8))
        for stream in (random_streams.Stream.IMAGE_NOISE, random_streams.Stream.ENLARGING_NOISE)
    ]
    assert abs(torch.corrcoef(torch.stack(drawn).flatten(1))[0, 1]) < 0.3


def test_two_ranks_enlarge_what_one_process_does(two_ranks, trained, base, enlarged, tmp_path):
    argv = ["--model_path", trained, "--base_samples", base, "--out_dir", tmp_path, *SAMPLING]
    result = two_ranks.run("mpiexec", SAMPLE, *argv, "--batch_size", 2)
    assert result.code == 0, result.err
    assert grey_levels_apart(images_in(tmp_path), enlarged) <= 1


def test_classes_of_the_small_images_reach_a_class_conditional_model(conditional, base, tmp_path):
    with np.load(base) as file:
        images, labels = file["arr_0"], file["arr_1"]
    np.savez(tmp_path / "other.npz", images, 1 - labels)
    one = enlarge(conditional, base, tmp_path / "one")
    other = enlarge(conditional, tmp_path / "other.npz", tmp_path / "other")
    assert grey_levels_apart(one, other) > 0
    folder = enlarge(conditional, base.parent / "images", tmp_path / "folder")
    assert folder.shape == one.shape


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model_path=", "--model_path: expected a checkpoint or a training run folder, got none"),
        ("--model_path {image}", "different networks: those of image_train and of super_res_train"),
        ("--base_samples=", "--base_samples: expected an .npz or a folder of images, got ''"),
        ("--base_samples {image}/args.json", "of images, got '{image}/args.json'"),
        ("--small_size 4", "expected 4x4 pixels, as the model's --small_size says, got 8x8"),
        ("--num_channels 64", "checkpoint and flags describe different networks; first at"),
        ("--in_channels 1", "(check --in_channels)"),
        ("--timestep_respacing 41", "--timestep_respacing: expected 0 to 40 steps"),
        ("--num_samples 0", "--num_samples: expected a whole number of at least 1, got '0'"),
    ],
)
def test_a_mistake_in_enlarging_is_named_and_writes_nothing(
    runs, trained, base, tmp_path, flags, message
):
    names = {"image": runs.source}
    good = ["--model_path", trained, "--base_samples", base, *SAMPLING]
    words = [word.format(**names) for word in flags.split()]
    result = call(SAMPLE, *good, "--out_dir", tmp_path / "out", *words)
    assert result.code == 2 and message.format(**names) in result.last
    assert "Traceback" not in result.err and not (tmp_path / "out").exists()


def test_image_sample_refuses_a_super_resolution_model(trained, tmp_path):
    result = call("image_sample", "--model_path", trained, "--out_dir", tmp_path / "out")
    assert result.code == 2 and not (tmp_path / "out").exists()
    assert "different networks: those of super_res_train and of image_train" in result.last
