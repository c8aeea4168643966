"""Streaming of samples: the files, and what a killed run leaves for the next."""

import numpy as np
import pytest
import torch

from guided_diffusion.errors import UserError
from guided_diffusion.runtime import atomic_files
from guided_diffusion.sampling import new_images

SHAPE = (7, 4, 4, 3)


class Painter:
    """Draws image i in grey i, and notes what it was asked for; stops before one index."""

    def __init__(self, stop=None):
        self.asked, self.stop = [], stop

    def __call__(self, indices):
        if self.stop in indices:
            raise KeyboardInterrupt
        self.asked.append(list(indices))
        greys = torch.tensor(indices).float() * 20 / 127.5 - 1
        return greys.reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4) + 1e-4


def names(folder):
    return {path.name for path in folder.iterdir()}


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_images_and_labels_are_saved_in_order_beside_a_grid(tmp_path):
    path = new_images.save_drawn(
        tmp_path, SHAPE, 3, Painter(), labels=lambda indices: np.array(indices) * 2
    )
    assert names(tmp_path) == {"samples_7x4x4x3.npz", "samples.png"}
    arrays = load(path)
    assert arrays["arr_0"].shape == SHAPE and arrays["arr_0"].dtype == np.uint8
    assert [image.min() for image in arrays["arr_0"]] == [20 * i for i in range(7)]
    assert [image.max() for image in arrays["arr_0"]] == [20 * i for i in range(7)]
    assert arrays["arr_1"].tolist() == [2 * i for i in range(7)]


def test_without_labels_there_are_images_alone(tmp_path):
    assert load(new_images.save_drawn(tmp_path, SHAPE, 3, Painter())).keys() == {"arr_0"}


def test_a_stopped_run_is_continued_by_the_same_one(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        new_images.save_drawn(tmp_path, SHAPE, 3, Painter(stop=4))
    (kept,) = names(tmp_path)
    assert kept.startswith(".samples_7x4x4x3.")
    again = Painter()
    path = new_images.save_drawn(tmp_path, SHAPE, 2, again)
    assert again.asked == [[3, 4], [5, 6]]
    assert load(path)["arr_0"][:, 0, 0, 0].tolist() == [20 * i for i in range(7)]
    assert names(tmp_path) == {"samples_7x4x4x3.npz", "samples.png"}


def test_what_is_there_is_not_drawn_again_unless_it_is_damaged(tmp_path, recorder):
    path = new_images.save_drawn(tmp_path, SHAPE, 3, Painter())
    whole, again = path.read_bytes(), Painter()
    new_images.save_drawn(tmp_path, SHAPE, 3, again)
    assert again.asked == [] and path.read_bytes() == whole
    assert "is there already, with all 7 images" in recorder.text
    for damage in (whole[:-40], whole[:300] + b"x" + whole[301:]):
        path.write_bytes(damage)
        new_images.save_drawn(tmp_path, SHAPE, 7, again)
        assert again.asked.pop() == list(range(7)) and path.read_bytes() == whole
    assert names(tmp_path) == {"samples_7x4x4x3.npz", "samples.png"}


def test_what_a_kill_left_behind_a_finished_file_is_cleared_away(tmp_path):
    new_images.save_drawn(tmp_path, SHAPE, 3, Painter())
    (tmp_path / ".samples_7x4x4x3.unfinished.npy").touch()
    new_images.save_drawn(tmp_path, SHAPE, 3, Painter())
    assert names(tmp_path) == {"samples_7x4x4x3.npz", "samples.png"}


def test_unfinished_images_that_were_cut_off_are_drawn_anew(tmp_path, recorder):
    with pytest.raises(KeyboardInterrupt):
        new_images.save_drawn(tmp_path, SHAPE, 3, Painter(stop=4))
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-20])
    again = Painter()
    new_images.save_drawn(tmp_path, SHAPE, 7, again)
    assert again.asked == [list(range(7))] and "is damaged" in recorder.text


def test_a_full_disk_is_a_mistake_of_the_user_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"num_samples: 0.00 GB of disk are needed"):
        new_images.save_drawn(tmp_path, SHAPE, 3, Painter())
    assert names(tmp_path) == set()


def test_labels_depend_on_seed_and_index_alone_and_lie_among_the_classes():
    one = new_images.random_labels(0, range(200), (3, 8))
    assert set(one.tolist()) == {3, 8} and one.dtype == np.int64
    assert new_images.random_labels(0, [150, 7], (3, 8)).tolist() == one[[150, 7]].tolist()
    assert new_images.random_labels(1, range(200), (3, 8)).tolist() != one.tolist()
    assert new_images.random_labels(0, range(500)).max() > 500


def test_a_grid_that_is_missing_is_made_of_the_images_that_are_there(tmp_path):
    new_images.save_drawn(tmp_path, SHAPE, 3, Painter())
    before = (tmp_path / "samples.png").read_bytes()
    (tmp_path / "samples.png").unlink()
    again = Painter()
    new_images.save_drawn(tmp_path, SHAPE, 3, again)
    assert again.asked == [] and (tmp_path / "samples.png").read_bytes() == before
