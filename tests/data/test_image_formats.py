"""Formats of images: the same tiles from an .npz and from a folder, and each read on its own."""

import numpy as np
import pytest
from PIL import Image
from support.cli import draw_images, picture

from guided_diffusion.data.image_formats import open_set, refuse_unequal_sizes
from guided_diffusion.data.image_source import ImageFiles
from guided_diffusion.errors import UserError, blame


@pytest.fixture
def folder(tmp_path):
    """Five pictures, one of them in a subfolder."""
    draw_images(tmp_path / "images" / "sub", 1, seed=1)
    return draw_images(tmp_path / "images", 4)


def images_of(opened, *wanted):
    return np.concatenate([opened.tiles(run) for run in wanted or [range(len(opened))]])


def saved(path, save=np.savez, **arrays):
    save(path, **arrays)
    return path


def pixels(count=3, size=16, channels=3):
    shape = (count, size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_a_folder_is_read_recursively_in_order_of_path(folder):
    opened = open_set(folder)
    files = sorted(folder.rglob("*.png"))
    assert len(opened) == 5 and opened.size == (16, 16) and opened.moments == {}
    assert np.array_equal(images_of(opened), np.stack([picture(file) for file in files]))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_gives_any_run_of_its_images(tmp_path, save):
    images = pixels(7)
    opened = open_set(saved(tmp_path / "a.npz", save, arr_0=images, arr_1=np.arange(7)))
    assert len(opened) == 7 and opened.size == (16, 16)
    assert np.array_equal(images_of(opened), images)
    found = images_of(opened, [0, 1], [4], [5, 6], [1, 2, 3])
    assert np.array_equal(found, images[[0, 1, 4, 5, 6, 1, 2, 3]])


def test_grey_becomes_rgb_and_transparency_lies_on_white_as_in_a_folder(tmp_path):
    for channels, mode in ((1, "L"), (4, "RGBA")):
        images = pixels(3, channels=channels)
        folder = tmp_path / mode
        folder.mkdir()
        for index, tile in enumerate(images):
            Image.fromarray(tile.squeeze(), mode).save(folder / f"{index}.png")
        npz = open_set(saved(tmp_path / f"{mode}.npz", arr_0=images))
        assert images_of(npz).shape == (3, 16, 16, 3)
        assert np.array_equal(images_of(npz), images_of(open_set(folder)))


def test_one_size_is_made_as_for_training_from_either(tmp_path, folder):
    wide = folder / "wide.png"
    Image.fromarray(np.tile(pixels(1, 20)[0], (1, 2, 1))).save(wide)
    opened = open_set(folder, image_size=8)
    assert opened.size == (8, 8)
    assert np.array_equal(images_of(opened)[-1], ImageFiles([wide], 8).tile(0))
    big = np.stack([picture(file) for file in sorted(folder.glob("tile*.png"))])
    npz = open_set(saved(tmp_path / "a.npz", arr_0=big), image_size=8)
    assert np.array_equal(images_of(npz), images_of(opened)[1:-1])


def test_statistics_are_found_beside_images_and_alone(tmp_path):
    numbers = {"mu": np.arange(3.0), "sigma": np.eye(3, dtype=np.float32)}
    alone = open_set(saved(tmp_path / "a.npz", **numbers))
    assert len(alone) == 0 and alone.moments.keys() == {"fid"}
    spatial = {"mu_s": np.arange(2.0), "sigma_s": np.eye(2)}
    both = open_set(saved(tmp_path / "b.npz", arr_0=pixels(), **numbers, **spatial))
    assert len(both) == 3 and both.moments.keys() == {"fid", "sfid"}
    mean, covariance = both.moments["fid"]
    assert mean.tolist() == [0, 1, 2] and np.array_equal(covariance, np.eye(3))
    half = open_set(saved(tmp_path / "c.npz", arr_0=pixels(), mu=np.arange(3.0)))
    assert half.moments == {}


BROKEN = {
    "text": lambda path: path.write_text("no archive"),
    "empty file": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(saved(path, arr_0=pixels()).read_bytes()[:900]),
    "pickle": lambda path: np.array([{}], dtype=object).dump(path),
}
REFUSED = {
    "no arr_0": ({"images": pixels()}, "expected an array arr_0 of images, got images"),
    "nothing": ({}, "expected an array arr_0 of images, got nothing"),
    "objects": ({"arr_0": np.array([{}], dtype=object)}, "uint8 of 1 to 4 channels, got [1] ob"),
    "floats": ({"arr_0": pixels() / 255}, "got [3, 16, 16, 3] float64"),
    "NCHW": ({"arr_0": np.zeros((2, 3, 8, 8), np.uint8)}, "got [2, 3, 8, 8] uint8"),
    "no image": ({"arr_0": pixels(0)}, "got [0, 16, 16, 3] uint8"),
    "one image": ({"arr_0": pixels()[0]}, "got [16, 16, 3] uint8"),
    "Fortran": ({"arr_0": np.asfortranarray(pixels())}, "uint8 in Fortran order"),
    "odd sigma": ({"mu": np.zeros(3), "sigma": np.eye(2)}, "expected mu to be a finite mean [D]"),
    "nan": ({"mu_s": np.full(2, np.nan), "sigma_s": np.eye(2)}, "expected mu_s to be a finite"),
    "object mu": ({"mu": np.array([{}], object), "sigma": np.eye(1)}, "got [1] object"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_npz_is_named(tmp_path, case):
    path = tmp_path / "a.npz"
    BROKEN[case](path)
    with pytest.raises(UserError, match="a.npz: expected an .npz with arr_0, .* cannot be read"):
        open_set(path)


@pytest.mark.parametrize("case", REFUSED)
def test_an_npz_of_something_else_is_refused_with_what_it_holds(tmp_path, case):
    arrays, message = REFUSED[case]
    with pytest.raises(UserError) as refused:
        open_set(saved(tmp_path / "a.npz", **arrays))
    assert message in str(refused.value)
    assert str(refused.value).count(str(tmp_path / "a.npz")) == 1


def test_damage_inside_an_npz_shows_when_its_images_are_read(tmp_path):
    path = saved(tmp_path / "a.npz", arr_0=pixels(40))
    content = bytearray(path.read_bytes())
    content[-5000] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read .*CRC"):
        images_of(open_set(path))


def test_images_of_several_sizes_are_refused_unless_one_is_asked_for(tmp_path, folder):
    Image.new("RGB", (12, 16)).save(folder / "zz.png")
    with pytest.raises(UserError, match=r"zz.png: expected 16x16 pixels .* got 16x12; .*--image_s"):
        open_set(folder)
    assert len(open_set(folder, image_size=8)) == 6
    (folder / "zz.png").write_text("no picture")
    with pytest.raises(UserError, match=r"zz.png: expected a readable image"):
        open_set(folder)


def test_sets_of_different_sizes_are_refused(tmp_path, folder):
    other = open_set(saved(tmp_path / "a.npz", arr_0=pixels(size=12)))
    with pytest.raises(UserError, match=r"a.npz: expected 16x16 pixels .* got 12x12; give --image"):
        refuse_unequal_sizes(open_set(folder), other)
    refuse_unequal_sizes(other, other)
    alone = open_set(saved(tmp_path / "b.npz", mu=np.zeros(2), sigma=np.eye(2)))
    refuse_unequal_sizes(alone, other)


def test_a_place_without_images_is_named_by_its_argument(tmp_path):
    with pytest.raises(UserError, match="SAMPLES: no image in"), blame("SAMPLES"):
        open_set(tmp_path)
    message = "REF: expected an .npz file or a folder of images, got"
    with pytest.raises(UserError, match=message) as refused, blame("REF"):
        open_set(tmp_path / "missing")
    assert refused.value.report.startswith("REF: ")
