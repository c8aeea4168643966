"""Networks of 2 and 4 channels through all commands, from training to evaluation."""

import numpy as np
import pytest
from PIL import Image
from support.cli import SEQUENCES, TINY_MODEL, TRAINING, Runs, call, draw_images, picture, succeed


@pytest.mark.parametrize("channels", [2, pytest.param(4, marks=pytest.mark.long)])
def test_networks_of_other_channels_work_through_every_command(tmp_path, channels):
    images = draw_images(tmp_path / "images", 8)
    opacity = Image.linear_gradient("L").resize((16, 16))
    for file in images.iterdir():
        with Image.open(file) as tile:
            tile.putalpha(opacity)
            tile.save(file)
    flags = [*TINY_MODEL, "--in_channels", channels, *TRAINING, "--data_dir", images]
    succeed("image_train", *flags, "--max_steps", 1, "--out_dir", tmp_path / "run")
    runs = Runs(images, tmp_path / "run", tmp_path / "run")
    succeed(SEQUENCES, *runs.sequences, "--out_dir", tmp_path / "made")
    folder = tmp_path / "made" / "translation_0_1"
    assert np.load(folder / "target.npy").shape[2] == channels
    assert picture(folder / "contact_sheet.png").shape[2] == 3
    first = picture(folder / "images" / "00000" / "00.png")
    assert first.shape == (16, 16, channels) and np.array_equal(first[..., -1], np.array(opacity))
    compared = ["--num_images", 1, "--amount", 2, "--steps", 4, "--out_dir", tmp_path / "depths"]
    succeed("compare_depths", *runs.sequences[:6], *compared, "--device", "cpu")
    drawn = ["--num_samples", 8, "--timestep_respacing", 2, "--out_dir", tmp_path / "samples"]
    succeed("image_sample", "--model_path", runs.source, *drawn, "--device", "cpu")
    samples = next((tmp_path / "samples").glob("*.npz"))
    succeed("evaluate", images, samples, "--features", "small", "--bootstrap", 0)
    measured = ["--num_samples", 2, "--timestep_respacing", 2, "--out_dir", tmp_path / "nll"]
    common = ["--model_path", runs.source, "--data_dir", images, "--device", "cpu"]
    succeed("image_nll", *common, *measured)


def test_more_channels_than_pictures_have_are_refused_before_anything(tmp_path):
    images = draw_images(tmp_path / "images", 2)
    flags = [*TINY_MODEL, "--in_channels", 5, *TRAINING, "--data_dir", images]
    result = call("image_train", *flags, "--out_dir", tmp_path / "run")
    assert result.code == 2 and not (tmp_path / "run").exists()
    assert "--in_channels" in result.last and "1, 2, 3, 4" in result.last
