"""What a folder of images holds: what is found, what is left out and why, and what is refused."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from support.cli import draw_images

from guided_diffusion.data import image_folders
from guided_diffusion.data.image_folders import list_folder
from guided_diffusion.data.image_formats import open_images
from guided_diffusion.data.reading import ReadingSettings
from guided_diffusion.errors import ArgumentError, UserError

RECORD = {"script": "image_train", "args": {}, "versions": {"guided_diffusion": "0.1"}}


def names(listing):
    return [os.path.relpath(file, listing.folder) for file in listing.files]


@pytest.fixture
def folder(tmp_path):
    """A folder of two images, and much else."""
    draw_images(tmp_path, 2)
    for name in ("a.svs", "b.svs", "notes.txt", "README", ".hidden.png", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").touch()
    return tmp_path


def test_what_is_left_out_is_counted_by_its_reason(folder, recorder):
    open_images(folder, 8)
    assert recorder.lines == [
        f"{folder}: 2 images; left out: 2 .svs, 1 hidden folder, 1 hidden, 1 without an ending, "
        "1 .db, 1 .txt"
    ]


@pytest.mark.parametrize(
    "record", [{}, [], {"lr": 1}, {"args": {}}, RECORD | {"versions": {}}, RECORD | {"args": 1}]
)
def test_a_folder_with_anybodys_args_json_is_read(tmp_path, record):
    draw_images(tmp_path / "polyp", 2)
    (tmp_path / "polyp" / "args.json").write_text(json.dumps(record))
    listing = list_folder(tmp_path)
    assert len(listing.files) == 2 and listing.counts == "1 .json"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100000])
def test_an_args_json_that_is_none_hides_no_images(tmp_path, content):
    draw_images(tmp_path / "polyp", 2)
    (tmp_path / "polyp" / "args.json").write_bytes(content)
    assert len(list_folder(tmp_path).files) == 2


def test_a_run_folder_is_passed_over_and_told(tmp_path):
    draw_images(tmp_path, 2)
    draw_images(tmp_path / "results_old" / "samples", 3)
    (tmp_path / "results_old" / "args.json").write_text(json.dumps(RECORD))
    listing = list_folder(tmp_path)
    assert listing.report == f"{tmp_path}: 2 images; left out: 3 in results_old (a run folder)"
    assert len(list_folder(tmp_path / "results_old").files) == 3  # it was named


def test_one_kind_of_image_beside_another_is_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name in ("b.jp2", "c.jp2", "d.webp", "e.ppm"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    np.save(tmp_path / "f.npy", np.zeros((8, 8, 3), np.uint8))
    np.save(tmp_path / "features.npy", np.zeros((100, 512), np.float32))
    np.save(tmp_path / "target.npy", np.zeros((2, 3, 8, 8), np.uint8))
    listing = list_folder(tmp_path)
    assert names(listing) == ["a.png", "b.jp2", "c.jp2", "d.webp", "e.ppm", "f.npy"]
    assert listing.counts == (
        "1 .npy of float32 numbers (see --intensity_range), "
        "1 .npy of shape [2, 3, 8, 8], not [H, W] or [H, W, C]"
    )
    assert open_images(tmp_path, 8).tiles(range(6)).shape == (6, 8, 8, 3)


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("*_mask.png", ["a.png", "masks/a.png", "sub/b.png"]),
        ("*_mask.png,masks", ["a.png", "sub/b.png"]),
        ("masks/, sub/*", ["a.png", "a_mask.png"]),
        ("*/b*", ["a.png", "a_mask.png", "masks/a.png"]),
        ("b*", ["a.png", "a_mask.png", "masks/a.png"]),
        ("./masks,a_*", ["a.png", "sub/b.png", "sub/b_mask.png"]),
        ("**/masks/*,sub", ["a.png", "a_mask.png"]),
    ],
)
def test_patterns_leave_out_files_and_folders(tmp_path, exclude, left):
    for name in ("a.png", "a_mask.png", "masks/a.png", "sub/b.png", "sub/b_mask.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = list_folder(tmp_path, ReadingSettings(exclude=exclude))
    assert names(listing) == left
    assert "by --exclude" in listing.counts or "excluded folder" in listing.counts


def test_a_pattern_that_fits_nothing_and_names_of_masks_are_warned_of(tmp_path, recorder):
    draw_images(tmp_path, 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "tile0_000_mask.png")
    open_images(tmp_path, 8, reading=ReadingSettings(exclude="*_msk.png"))
    assert f"{tmp_path}: --exclude *_msk.png fits no file there (" in recorder.text
    assert "1 of the images have names of masks" in recorder.text
    assert "--exclude '*_mask.png'" in recorder.text


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("a.mask.png", "*.mask.png"),
        ("mask-3.tif", "mask-*.tif"),
        ("masks/a.png", "masks"),
        ("x/GT/a.png", "GT"),
        ("x/a_Labels.png", "*_Labels.png"),
    ],
)
def test_the_pattern_that_is_advised_leaves_masks_out(tmp_path, name, pattern):
    for file in ("a.png", "gtex_1.png", "segment.png", "x/b.png", name):
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).touch()
    (warning,) = list_folder(tmp_path).warnings
    assert f"1 of the images have names of masks, such as {name};" in warning
    assert warning.endswith(f"--exclude '{pattern}'")
    left = names(list_folder(tmp_path, ReadingSettings(exclude=pattern)))
    assert left == ["a.png", "gtex_1.png", "segment.png", "x/b.png"]


@pytest.mark.parametrize("target", [".git/annex/objects/Xk/x.png", "../cache/files/md5/ab"])
def test_a_link_to_data_that_was_not_fetched_is_refused(tmp_path, target):
    draw_images(tmp_path, 1)
    (tmp_path / "b.png").symlink_to(target)
    with pytest.raises(UserError, match=r"b.png: a link to .*, which is not there; fetch the data"):
        list_folder(tmp_path)
    assert len(list_folder(tmp_path, ReadingSettings(exclude="b.png")).files) == 1


def test_other_dangling_links_pipes_and_folders_read_twice_are_counted(tmp_path):
    draw_images(tmp_path / "data", 1)
    (tmp_path / "data" / "train").symlink_to(tmp_path / "gone")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    os.mkfifo(tmp_path / "data" / "pipe.png")
    listing = list_folder(tmp_path / "data")
    assert len(listing.files) == 1
    for reason in (
        "1 dangling link (train)",
        "1 named pipe (pipe.png)",
        "1 link to a folder that is",
    ):
        assert reason in listing.counts


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    draw_images(tmp_path / "a", 1)
    draw_images(tmp_path / "locked", 1)
    scan = os.scandir

    def refuse(place):
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(image_folders.os, "scandir", refuse)
    with pytest.raises(UserError, match="locked: the folder cannot be read .Permission denied.; "):
        list_folder(tmp_path)
    assert len(list_folder(tmp_path, ReadingSettings(exclude="locked")).files) == 1


def test_a_folder_of_other_files_alone_says_what_they_are(folder):
    for file in folder.glob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match=r"no image in .*; left out: 2 .svs, "):
        list_folder(folder)


def test_a_hundred_thousand_tiles_are_listed_without_opening_one(tmp_path, monkeypatch):
    for index in range(300):
        (tmp_path / f"{index}.png").touch()
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("a tile was opened"))
    assert len(list_folder(tmp_path).files) == 300


@pytest.mark.parametrize("text", ["1", "0,0", "5,1", "a,b", "0,1,2", "0,nan", "0,inf"])
def test_a_range_is_two_rising_numbers(text):
    with pytest.raises(ArgumentError, match="intensity_range: expected"):
        ReadingSettings(intensity_range=text)
