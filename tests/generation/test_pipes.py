"""Named pipes where a run's own files should be: commands end at once, and never wait for data."""

import os

import pytest

from guided_diffusion.data import sealed_pictures
from guided_diffusion.errors import UserError
from guided_diffusion.generation import finished_images, manifest


def test_a_pipe_in_the_place_of_a_record_is_no_run(tmp_path):
    os.mkfifo(tmp_path / "args.json")
    with pytest.raises(UserError, match="no image in"):
        finished_images.open_results(str(tmp_path), 0, ())


def test_a_pipe_in_the_place_of_a_manifest_is_refused(tmp_path):
    os.mkfifo(tmp_path / "manifest.csv")
    with pytest.raises(UserError, match="manifest.csv: expected a file, got a named pipe"):
        list(manifest.read(tmp_path / "manifest.csv", ["step"]))


def test_a_pipe_in_the_place_of_a_picture_is_none(tmp_path):
    os.mkfifo(tmp_path / "00.png")
    assert not sealed_pictures.is_whole(tmp_path / "00.png", {})
