"""The image source: tiles, names, classes and patients by index, and how often a file is opened."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.cli import draw_images, picture

from guided_diffusion import dist_util
from guided_diffusion.data import image_files, image_formats
from guided_diffusion.data.image_formats import open_images
from guided_diffusion.data.image_source import ImageFiles, ImageSource
from guided_diffusion.errors import UserError, blame


class Squares(ImageSource):
    """A format for tests: grey squares whose sides are given; it counts how often each is opened.

    Args:
        sides: of the squares, pixels.
    """

    def __init__(self, sides):
        super().__init__("squares", 0, 1)
        self.sides, self.count, self.opened = sides, len(sides), [0] * len(sides)

    def name(self, index):
        return f"square {index}"

    def picture(self, index):
        self.opened[index] += 1
        return Image.new("L", (self.sides[index],) * 2, index)


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened from now on."""
    found = []
    original = image_files.open_image
    monkeypatch.setattr(
        image_files, "open_image", lambda file, *rest: found.append(file) or original(file, *rest)
    )
    return found


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 300), st.data())
def test_what_is_kept_stays_within_its_memory_and_is_opened_once(sides, keep_bytes, data):
    source = Squares(sides)
    source.keep_bytes = keep_bytes
    for index in data.draw(st.lists(st.integers(0, len(sides) - 1))):
        before = source.opened[index]
        kept = source.name(index) in source.kept
        tile = source.tile(index)
        assert tile.shape == (sides[index], sides[index], 1) and (tile == index).all()
        assert source.opened[index] == before + (not kept)
        assert sum(kept.nbytes for kept in source.kept.values()) <= keep_bytes


def test_images_that_fit_are_all_opened_once(tmp_path, opened):
    source = open_images(draw_images(tmp_path, 4), 8)
    source.check()
    tiles = source.tiles(range(4))
    batch, labels = source.batch([3, 1])
    assert opened == source.files and labels == {}
    assert np.array_equal(tiles[[3, 1]], ((batch + 1) * 127.5).round().byte().movedim(1, -1))
    source = open_images(tmp_path, 8, keep_bytes=0)
    source.tiles([0, 0])
    assert len(opened) == 6


def test_the_first_images_alone_share_what_is_kept(tmp_path, opened):
    source = open_images(draw_images(tmp_path, 4), 8)
    first = source.first(2)
    first.check()
    assert (len(first), len(source)) == (2, 4) and opened == source.files[:2]
    assert [len(source.first(count)) for count in (0, 1, 4, 9)] == [4, 1, 4, 4]
    source.check()
    assert opened == source.files


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_the_check(tmp_path, monkeypatch, opened, ranks):
    folder = draw_images(tmp_path, 5)
    monkeypatch.setattr(dist_util, "world_size", lambda: ranks)
    for rank in range(ranks):
        monkeypatch.setattr(dist_util, "rank", lambda rank=rank: rank)
        open_images(folder, 8).check()
    assert sorted(opened) == sorted(map(str, folder.iterdir()))


def test_a_broken_file_that_another_rank_finds_stops_this_one(tmp_path, monkeypatch):
    problem = UserError("b.png: expected a readable image")
    monkeypatch.setattr(dist_util.Ranks, "gather", lambda self, found: [found, problem])
    with pytest.raises(UserError, match="b.png: expected a readable image"):
        open_images(draw_images(tmp_path, 1), 8).check()


def test_classes_are_told_by_files_or_stand_in_the_npz(tmp_path):
    folder = draw_images(tmp_path / "images", 3)
    tiles = np.stack([picture(file) for file in sorted(folder.iterdir())])
    np.savez(tmp_path / "a.npz", tiles, [0, 0, 1])
    for place in (folder, tmp_path / "a.npz"):
        known, unknown = (open_images(place, 16, labels=labels) for labels in ("prefix", ""))
        assert [known.label(index) for index in range(3)] == [0, 0, 1]
        assert unknown.label(0) is None and unknown.batch([0])[1] == {}
        images, conditions = known.batch([2, 0])
        assert conditions["y"].tolist() == [1, 0] and conditions["y"].dtype == torch.int64
        assert images.shape == (2, 3, 16, 16) and np.array_equal(known.tiles(range(3)), tiles)
    with pytest.raises(UserError, match="arr_1 a class of 0 to 999 .* found other numbers in"):
        np.savez(tmp_path / "a.npz", tiles, [0, 0, 1000])
        open_images(tmp_path / "a.npz", labels="prefix")


def test_images_are_named_by_their_place(tmp_path):
    folder = draw_images(tmp_path / "images", 2)
    np.savez(tmp_path / "a.npz", np.zeros((2, 8, 8, 3), np.uint8))
    assert open_images(folder, 8).name(1) == str(folder / "tile1_001.png")
    assert open_images(tmp_path / "a.npz").name(1) == f"{tmp_path / 'a.npz'}#1"


def test_the_patient_stands_in_the_name_of_the_file(tmp_path):
    source = open_images(draw_images(tmp_path / "p7", 3), 8, patient=r"_0*(\d+)\.png$")
    assert [source.patient(index) for index in range(3)] == ["0", "2", "1"]
    assert open_images(tmp_path, 8).patient(0) is None
    with pytest.raises(UserError, match=r"tile0_000.png: expected a file name with a patient in"):
        open_images(tmp_path, 8, patient="(p[0-9])").patient(0)


@pytest.mark.parametrize("expression", ["p[0-9]", "(a)(b)", "(p"])
def test_what_does_not_tell_one_patient_is_refused(tmp_path, expression):
    with (
        pytest.raises(UserError, match="patient: expected a regular expression"),
        blame("patient"),
    ):
        open_images(draw_images(tmp_path, 1), 8, patient=expression)


@pytest.mark.parametrize("name", ["", "missing", "notes.txt"])
def test_what_holds_no_images_is_refused_as_what_it_should_be(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=f"^expected a folder of images, got '{name}'"):
        open_images(name, 8)
    with pytest.raises(UserError, match=f"^expected pictures, got '{name}'"):
        open_images(name, 8, expected="pictures")


def test_a_format_is_one_class_and_one_entry(tmp_path, monkeypatch):
    def open_squares(path, image_size, in_channels, labels):
        return Squares([int(line) for line in path.read_text().split()])

    entry = (lambda path: path.suffix == ".squares", open_squares)
    monkeypatch.setattr(image_formats, "FORMATS", (entry, *image_formats.FORMATS))
    (tmp_path / "a.squares").write_text("3 5")
    assert [len(tile) for tile in map(open_images(tmp_path / "a.squares").tile, (0, 1))] == [3, 5]


@given(st.data())
def test_the_images_of_an_npz_may_be_asked_for_in_any_order(tmp_path_factory, data):
    tiles = np.random.default_rng(0).integers(256, size=(5, 6, 6, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    save(path, tiles)
    source = open_images(path, keep_bytes=data.draw(st.sampled_from([0, 250, 10**6])))
    indices = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    assert np.array_equal(source.tiles(indices), tiles[indices])


def test_paths_need_not_be_text(tmp_path):
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
    assert ImageFiles([tmp_path / "a.png"], 4).tile(0).tolist() == [[[1, 2, 3]] * 4] * 4
