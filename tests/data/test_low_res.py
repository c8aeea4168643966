"""Small images: averages of large ones in training, and given ones of the right size."""

import numpy as np
import pytest
import torch
from support.cli import draw_images, picture
from support.reference_weights import draw

from guided_diffusion.data import low_res
from guided_diffusion.data.classes import Classes
from guided_diffusion.errors import UserError

IMAGES = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)


def test_small_images_are_means_over_areas():
    large = draw(0, 2, 3, 16, 16)
    means = large.reshape(2, 3, 8, 2, 8, 2).mean(dim=(3, 5))
    torch.testing.assert_close(low_res.downsample(large, 8), means)
    assert low_res.downsample(large, 5).shape == (2, 3, 5, 5)
    torch.testing.assert_close(low_res.downsample(large, 16), large)


def test_batches_keep_their_images_and_conditions_and_get_small_ones():
    first, second = draw(0, 2, 3, 16, 16), draw(1, 2, 3, 16, 16)
    batches = [(first, {"y": torch.tensor([4, 2])}), (second, {})]
    (images, conditions), (more, others) = low_res.with_low_res(batches, 8)
    assert images is first and more is second
    assert conditions["y"].tolist() == [4, 2] and others.keys() == {"low_res"}
    assert torch.equal(conditions["low_res"], low_res.downsample(first, 8))
    assert torch.equal(others["low_res"], low_res.downsample(second, 8))
    assert batches[1][1] == {}


def test_pixelated_images_show_the_pixels_of_the_small_ones():
    small = draw(0, 1, 3, 4, 4)
    large = low_res.pixelated(small, 8)
    assert torch.equal(large[..., ::2, ::2], small) and torch.equal(large[..., 1::2, 1::2], small)


KNOWN = Classes({**{str(n): n for n in range(2, 1000)}, "tile0": 0, "tile1": 1}, "the model")


def save(path, *arrays, **named):
    np.savez(path, *arrays, **named)
    return str(path)


def test_small_images_of_an_npz_come_in_the_range_of_the_network(tmp_path):
    path = save(tmp_path / "base.npz", IMAGES, np.array([7, 0, 999]))
    base = low_res.open_base_samples(path, 4, None, in_channels=3)
    images, conditions = base.batch([2, 0])
    assert len(base) == 3 and conditions == {}
    expected = torch.from_numpy(IMAGES[[2, 0]]).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(images, expected)
    _, conditions = low_res.open_base_samples(path, 4, KNOWN, 3).batch([2, 0])
    assert conditions["y"].tolist() == [999, 7] and conditions["y"].dtype == torch.int64


def test_small_images_of_a_folder_are_in_order_of_name_with_labels_of_names(tmp_path):
    folder = draw_images(tmp_path, 3, size=8)
    base = low_res.open_base_samples(str(folder), 8, KNOWN, in_channels=3)
    images, conditions = base.batch(range(len(base)))
    assert images.shape == (3, 3, 8, 8) and conditions["y"].tolist() == [0, 0, 1]
    second = torch.from_numpy(picture(folder / "tile0_002.png")).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(images[1], second)


@pytest.mark.parametrize(
    ("arrays", "class_cond", "message"),
    [
        (
            [IMAGES[:, :2, :2]],
            False,
            "expected 4x4 pixels, as the model's --small_size .* 2x2",
        ),
        ([IMAGES[:, :, :2]], False, "expected 4x4 pixels, .* got 4x2"),
        ([IMAGES[..., [0] * 5]], False, r"got \[3, 4, 4, 5\] uint8"),
        ([IMAGES.astype(np.float32)], False, r"got \[3, 4, 4, 3\] float32"),
        ([IMAGES[0]], False, r"got \[4, 4, 3\] uint8"),
        ([IMAGES[:0]], False, r"got \[0, 4, 4, 3\] uint8"),
        ([], False, "expected an array arr_0 of images, got nothing"),
        ([np.array([None])], False, r"expected arr_0 to be images .*, got \[1\] object"),
        ([IMAGES], True, "expected as arr_1 a class of 0 to 999 for each image, .*found none in"),
        ([IMAGES, np.array([1, 2])], True, "found none in"),
        ([IMAGES, np.array([1, 2, 0.5])], True, "found none in"),
        ([IMAGES, np.array([1, 2, 1000])], True, "found other numbers in"),
    ],
)
def test_an_npz_that_does_not_fit_is_refused(tmp_path, arrays, class_cond, message):
    path = save(tmp_path / "base.npz", *arrays)
    with pytest.raises(UserError, match=f"base_samples: .*{message}"):
        low_res.open_base_samples(path, 4, KNOWN if class_cond else None, 3)


def test_grey_images_of_an_npz_become_colour_as_those_of_a_folder_do(tmp_path):
    path = save(tmp_path / "base.npz", IMAGES[..., :1])
    images, _ = low_res.open_base_samples(path, 4, None, 3).batch([0, 2])
    assert images.shape == (2, 3, 4, 4) and torch.equal(images[:, 0], images[:, 2])


def test_what_is_no_npz_and_no_folder_of_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "nothing.npz").touch()
    np.save(tmp_path / "array.npy", IMAGES)
    whole = save(tmp_path / "whole.npz", IMAGES)
    (tmp_path / "cut.npz").write_bytes((tmp_path / whole).read_bytes()[:300])
    for name, message in (
        ("missing", "expected an .npz or a folder of images, got "),
        ("empty", "no image in "),
        ("text.npz", ".*text.npz: expected an .npz with arr_0, .* cannot be read"),
        ("nothing.npz", ".*nothing.npz: expected an .npz with arr_0, .* cannot be read"),
        ("array.npy", "expected an .npz or a folder of images, got "),
        ("cut.npz", ".*cut.npz: expected an .npz with arr_0, .* cannot be read"),
    ):
        with pytest.raises(UserError, match=f"base_samples: {message}"):
            low_res.open_base_samples(str(tmp_path / name), 4, None, 3)
    with pytest.raises(UserError, match="got ''"):
        low_res.open_base_samples("", 4, None, 3)
