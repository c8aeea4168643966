"""Crops at native scale: pixels as they are in the file, centred or at random places."""

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
from support.cli import TINY_MODEL, TRAINING, Runs, call, draw_images, snapshot, succeed

from guided_diffusion import dist_util
from guided_diffusion.data.image_formats import open_images
from guided_diffusion.data.image_source import ImageFiles
from guided_diffusion.data.reading import ReadingSettings
from guided_diffusion.data.settings import FolderSettings
from guided_diffusion.errors import ArgumentError
from guided_diffusion.image_datasets import load_data

NATIVE = ReadingSettings(crop="native")
REGION = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.fixture
def regions(tmp_path):
    """Three regions of 40x56 pixels."""
    folder = tmp_path / "regions"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(np.roll(REGION, index, axis=0)).save(folder / f"{index}.png")
    return folder


def place_of(tile, region):
    """The corner at which a tile is a part of a region; None if it is not."""
    side = len(tile)
    for top in range(region.shape[0] - side + 1):
        for left in range(region.shape[1] - side + 1):
            if np.array_equal(region[top : top + side, left : left + side], tile):
                return top, left
    return None


def tiles_of(batch):
    return ((batch + 1) * 127.5).round().byte().movedim(1, -1).numpy()


def test_the_centre_is_cut_without_resizing(regions):
    tile = open_images(regions, 16, reading=NATIVE).tile(0)
    assert place_of(tile, REGION) == (12, 20)
    shrunk = open_images(regions, 16).tile(0)
    assert place_of(shrunk, REGION) is None


def test_training_cuts_at_random_places_as_its_flags_say(regions):
    for flags, wanted in (
        ({"crop": "native"}, True),
        ({"crop": "native", "random_crop": False}, False),
        ({"random_crop": True}, True),
        ({}, False),
    ):
        images = FolderSettings(data_dir=str(regions), **flags)
        images = images.with_given(set(flags))
        assert images.loading["random_crop"] == wanted


def test_random_places_are_of_the_region_and_differ(regions):
    flags = {"crop": "native", "random_crop": True, "augment": "none", "deterministic": True}
    data = load_data(data_dir=regions, batch_size=3, image_size=16, seed=1, **flags)
    places = []
    for _ in range(12):
        tiles = tiles_of(next(data)[0])
        places += [place_of(tiles[k], np.roll(REGION, k, axis=0)) for k in range(3)]
    assert None not in places and len(set(places)) > 25
    tops, lefts = zip(*places, strict=True)
    assert min(tops) < 4 and max(tops) > 20 and min(lefts) < 5 and max(lefts) > 35


def test_random_places_depend_on_the_sample_alone(regions, monkeypatch):
    flags = {"crop": "native", "random_crop": True, "seed": 3}
    flags |= {"data_dir": regions, "image_size": 16}
    whole = [next(load_data(batch_size=4, start_step=k, **flags))[0] for k in range(3)]
    monkeypatch.setattr(dist_util, "world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(dist_util, "rank", lambda rank=rank: rank)
        data = load_data(batch_size=2, **flags)
        parts.append([next(data)[0] for _ in range(3)])
    for step in range(3):
        assert torch.equal(whole[step], torch.cat([part[step] for part in parts]))


def test_what_is_smaller_is_refused_with_the_way_out(regions):
    with pytest.raises(ArgumentError, match=r"crop: .*0.png: native: .* 41x41 .*40x56.*--crop fit"):
        open_images(regions, 41, reading=NATIVE).check()
    with pytest.raises(ArgumentError, match=r"crop: .*0.png: native: expected at least 41x41"):
        load_data(data_dir=regions, batch_size=1, image_size=41, crop="native", random_crop=True)


def test_what_is_enlarged_is_counted_and_told_once(tmp_path, recorder):
    draw_images(tmp_path, 3)
    Image.new("RGB", (40, 40)).save(tmp_path / "z.png")
    open_images(tmp_path, 32).check()
    told = [line for line in recorder.lines if ", enlarged," in line]
    first = tmp_path / "tile0_000.png"
    count = f"{tmp_path}: 3 images smaller than 32x32 pixels, enlarged, such as {first}"
    assert told == [count]


def test_all_pages_are_images_with_names_of_their_own(tmp_path):
    pages = [Image.new("RGB", (8, 8), (value,) * 3) for value in (10, 20, 30)]
    pages[0].save(tmp_path / "b_x.tif", save_all=True, append_images=pages[1:])
    pages[1].save(tmp_path / "a_x.png")
    images = open_images(tmp_path, 8, labels="prefix", reading=ReadingSettings(pages="all"))
    expected = ["a_x.png", "b_x.tif#0", "b_x.tif#1", "b_x.tif#2"]
    assert [images.name(i) for i in range(4)] == [str(tmp_path / name) for name in expected]
    assert images.tiles(range(4))[:, 0, 0, 0].tolist() == [20, 10, 20, 30]
    assert [images.label(i) for i in range(4)] == [0, 1, 1, 1]
    assert not images.remarks


def test_smaller_copies_of_a_page_are_no_images(tmp_path):
    pages = [Image.new("RGB", (side, side)) for side in (16, 8)]
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    images = ImageFiles([str(tmp_path / "a.tif")], 8, 3, ReadingSettings(pages="all"))
    assert len(images) == 1


def test_a_smaller_copy_before_its_page_is_no_image_either(tmp_path):
    small, whole = (Image.new("RGB", (side, side), (side,) * 3) for side in (8, 16))
    whole.encoderinfo = {"tiffinfo": {}}
    path, options = tmp_path / "a.tif", {"save_all": True, "append_images": [whole]}
    small.save(path, tiffinfo={254: 1}, **options)
    assert open_images(tmp_path).size == (16, 16)
    for pages in ("first", "all"):
        images = ImageFiles([str(path)], 8, 3, ReadingSettings(pages=pages))
        assert len(images) == 1 and images.tile(0)[0, 0, 0] == 16
        assert not images.remarks
    small.save(path, **options)
    images = ImageFiles([str(path)], 8, 3, ReadingSettings(pages="all", max_pixels=100))
    assert images.tile(0)[0, 0, 0] == 8
    with pytest.raises(ValueError, match="at most 100 pixels, got 256"):
        images.tile(1)


def test_one_bright_image_tells_the_scale_of_its_folder(tmp_path):
    dark, bright = (np.full((16, 16), value, np.uint16) for value in (2570, 51400))
    for name, values in (("a", dark), ("b", bright)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    images = open_images(tmp_path, 8)
    assert images.tiles([0, 1])[:, 0, 0, 0].tolist() == [10, 200]
    (told,) = images.gather_remarks()
    assert "1 image of 16 bits nearly black beside bright ones" in told
    assert "(see --intensity_range), such as" in told and told.endswith("a.png")
    (tmp_path / "b.png").unlink()
    dark[0, 0] = 65535  # a hot pixel is no bright image
    Image.fromarray(dark).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"of 2570 to 65535 \(99% of them below 16384\), nearly"):
        open_images(tmp_path, 8).tile(0)


def test_images_of_8_bits_do_not_follow_the_range_and_this_is_told(tmp_path):
    draw_images(tmp_path, 2)
    images = open_images(tmp_path, 16, reading=ReadingSettings(intensity_range="0,127"))
    images.check()
    (told,) = images.gather_remarks()
    assert "2 images of 8 bits, to which --intensity_range does not apply" in told


def test_a_model_trained_at_native_scale_is_shown_images_at_it(regions, tmp_path):
    common = [*TINY_MODEL, *TRAINING, "--data_dir", regions, "--max_steps", 1, "--sample_interval"]
    trained = succeed("image_train", *common, 0, "--crop", "native", "--out_dir", tmp_path / "a")
    assert f"{regions}: 3 images" in trained.out
    assert f"{regions}: 3 images" in (tmp_path / "a" / "log.txt").read_text()
    runs = Runs(regions, tmp_path / "a", tmp_path / "a")
    made = succeed("frequency_generating_m_samples", *runs.sequences, "--out_dir", tmp_path / "s")
    assert "--crop native, as in the training of" in made.out
    source = np.load(tmp_path / "s" / "translation_0_1" / "source.npy")
    assert place_of(np.moveaxis(source[0], 0, -1), REGION) == (12, 20)
    other = succeed(
        "frequency_generating_m_samples",
        *(*runs.sequences, "--crop", "fit", "--out_dir", tmp_path / "t"),
    )
    assert "trained with --crop native, used with --crop fit" in other.out


def test_a_mistake_in_a_crop_writes_nothing(regions, tmp_path):
    flags = [*TINY_MODEL, *TRAINING, "--data_dir", regions, "--out_dir", tmp_path / "a"]
    result = call("image_train", *flags, "--image_size", 64, "--crop", "native")
    assert result.code == 2 and not snapshot(tmp_path / "a")
    assert result.last.startswith("error: --crop: ") and "expected at least 64x64" in result.last


def test_a_kind_of_page_that_is_no_whole_number_hides_no_page(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[254], tags[254] = 12, 1.0
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "a.tif", tiffinfo=tags)
    assert open_images(tmp_path).tile(0)[0, 0, 0] == 9
