"""Pictures of results: how tiles become pictures, grids and the contact sheet."""

import numpy as np
import pytest
import torch

from guided_diffusion.data import pictures
from guided_diffusion.data.pictures import GAP

WHITE = (255, 255, 255)


def tile(value, height=4, width=6, channels=3):
    return np.full((height, width, channels), value, np.uint8)


def test_images_become_bytes_as_upstream_truncates_them():
    values = torch.tensor([-9.0, -1.0, -0.999, 0.0, 0.996, 0.999, 1.0, 9.0])
    images = values.reshape(1, 1, 2, 4).expand(5, 3, 2, 4)
    found = pictures.to_uint8(images)
    assert (found.dtype, found.shape) == (np.uint8, (5, 2, 4, 3))
    assert found[4, ..., 2].ravel().tolist() == [0, 0, 0, 127, 254, 254, 255, 255]


def test_bytes_keep_pixels_channels_and_leading_axes_apart():
    images = torch.arange(2 * 3 * 3 * 2 * 4).reshape(2, 3, 3, 2, 4) / 127.5 - 1
    found = pictures.to_uint8((images + 1e-4).requires_grad_())
    expected = np.arange(144).reshape(2, 3, 3, 2, 4).transpose(0, 1, 3, 4, 2)
    assert np.array_equal(found, expected) and found.flags.c_contiguous


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_tile_becomes_a_picture_of_its_channels(channels, mode):
    values = np.arange(4 * 6 * channels, dtype=np.uint8).reshape(4, 6, channels)
    picture = pictures.to_picture(values)
    assert (picture.mode, picture.size) == (mode, (6, 4))
    assert np.array_equal(np.asarray(picture).reshape(values.shape), values)


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("captions", [None, [["a", "b", "c"], ["d", "e"]]])
def test_a_grid_has_its_tiles_where_they_belong_and_gaps_between(scale, captions):
    rows = [[tile(10), tile(20), tile(30)], [tile(40), tile(50)]]
    sheet = np.asarray(pictures.grid(rows, captions, scale))
    band = 14 if captions else 0
    height, width = 4 * scale, 6 * scale
    assert sheet.shape == (2 * (height + band + GAP) + GAP, 3 * (width + GAP) + GAP, 3)
    for i, row in enumerate(rows):
        for j, expected in enumerate(row):
            top, left = GAP + i * (height + band + GAP), GAP + j * (width + GAP)
            assert (sheet[top : top + height, left : left + width] == expected[0, 0]).all()
            assert (sheet[top : top + height, left - GAP : left] == WHITE).all()
    assert (sheet[:GAP] == WHITE).all() and (sheet[-GAP:] == WHITE).all()
    assert (sheet[GAP + height + band + GAP :, 2 * (width + GAP) + GAP :] == WHITE).all()


def test_enlarged_pixels_stay_sharp():
    values = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    sheet = np.asarray(pictures.grid([[values]], scale=2).convert("L"))[GAP:-GAP, GAP:-GAP]
    assert np.array_equal(sheet, values[..., 0].repeat(2, 0).repeat(2, 1))


def test_captions_are_written_below_their_tiles_alone():
    rows = [[tile(90, 20, 40), tile(90, 20, 40)]]
    sheet = np.asarray(pictures.grid(rows, [["0.50 d7", ""]]))
    left, right = sheet[GAP + 20 : -GAP, : 40 + GAP], sheet[GAP + 20 : -GAP, 40 + GAP :]
    assert left.min() < 100 and (right == WHITE).all()
    assert (sheet[GAP : GAP + 20, GAP : GAP + 40] == 90).all()


@pytest.mark.parametrize(
    ("channels", "value", "shown"),
    [(1, 70, (70, 70, 70)), (3, (1, 2, 3), (1, 2, 3)), (4, (1, 2, 3, 9), (1, 2, 3))],
)
def test_a_grid_shows_tiles_of_any_channels_in_colour(channels, value, shown):
    sheet = pictures.grid([[tile(value, channels=channels)]])
    assert sheet.mode == "RGB" and sheet.getpixel((GAP, GAP)) == shown


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (5, 3, 2), (16, 4, 4)]
)
def test_a_square_grid_is_about_square_and_in_order(count, columns, rows):
    sheet = pictures.square_grid([tile(i, 3, 3) for i in range(count)])
    assert sheet.size == (columns * (3 + GAP) + GAP, rows * (3 + GAP) + GAP)
    for i in range(count):
        corner = [GAP + place * (3 + GAP) for place in (i % columns, i // columns)]
        assert sheet.getpixel(tuple(corner)) == (i, i, i)
