"""Odd and hostile images through whole commands: one line and exit code 2, or their pixels."""

import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from support.cli import TINY_MODEL, TRAINING, call, draw_images, snapshot, succeed
from support.odd_images import CASES, RAMP12, SMOOTH, chunk, npy, npy_of, png

from guided_diffusion.data.image_files import open_image
from guided_diffusion.data.image_source import ImageFiles

OTHER_ARRAYS = ("objects.npy", "five_channels.npy")  # left out of folders, and told
REFUSED = [n for n, case in CASES.items() if case.pixels is None and n not in OTHER_ARRAYS]
READ = [case for case in CASES.values() if case.pixels is not None and not case.flags]


def flags_of(case):
    return [word for name, value in case.flags.items() for word in (f"--{name}", value)]


def folder_with(tmp_path, name):
    """Return a folder of images with an odd one; alone, where it is no file and left out."""
    folder, case = draw_images(tmp_path / "images", 8), CASES[name]
    case.write(folder)
    if case.special and "dangling" not in name:
        for image in folder.glob("tile*"):
            image.unlink()
    return folder


def expect_one_line(result, name):
    assert result.code == 2, result.out
    assert result.err.count("\n") == 1 and result.err.startswith("error: ")
    found = "no image in" if name == "folder.png" else name
    assert found in result.last and "<_io" not in result.last


@pytest.mark.parametrize("name", REFUSED)
def test_evaluation_refuses_an_odd_file_in_one_line(tmp_path, name):
    folder = folder_with(tmp_path, name)
    words = [folder, folder, "--image_size", 16, "--features", "small", *flags_of(CASES[name])]
    expect_one_line(call("evaluate", *words), name)


@pytest.mark.parametrize("name", REFUSED[::7])
def test_training_refuses_an_odd_file_before_it_writes(tmp_path, name):
    folder = folder_with(tmp_path, name)
    words = [*TINY_MODEL, *TRAINING, "--data_dir", folder, *flags_of(CASES[name])]
    expect_one_line(call("image_train", *words, "--out_dir", tmp_path / "run"), name)
    assert not snapshot(tmp_path / "run")


def test_all_kinds_of_files_in_one_folder_are_read_together(tmp_path):
    for case in READ:
        case.write(tmp_path / "images")
    words = ["--image_size", 16, "--features", "small", "--bootstrap", 0]
    result = succeed("evaluate", tmp_path / "images", tmp_path / "images", *words)
    assert f"N = {len(READ)}" in result.out
    for remark in ("laid on white", "EXIF orientation", "only the first", "of CMYK"):
        assert remark in result.out


def test_12_bit_data_is_refused_as_a_folder_and_read_when_told(tmp_path):
    for index in range(3):
        content = png(np.roll(RAMP12, index, axis=0), 0)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{index}.png").write_bytes(content)
    flags = [*TINY_MODEL, *TRAINING, "--data_dir", tmp_path / "images", "--max_steps", 1]
    refused = call("image_train", *flags, "--out_dir", tmp_path / "run")
    assert refused.code == 2
    assert "nearly black" in refused.last and "--intensity_range LOW,HIGH" in refused.last
    flags += ["--sample_interval", 0, "--intensity_range", "0,4095"]
    succeed("image_train", *flags, "--out_dir", tmp_path / "run")


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"


def archive(members, method=zipfile.ZIP_DEFLATED):
    """Return an .npz of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members.items():
            made.writestr(f"{name}.npy", content)
    return file.getvalue()


def encrypted():
    content = bytearray(archive({"arr_0": npy(SMOOTH[None])}))
    for place in (6, content.index(b"PK\x01\x02") + 8):
        content[place] |= 1
    return bytes(content)


def lying():
    """An .npz whose directory says that a member is a thousand times larger than it can be."""
    content = bytearray(archive({"arr_0": npy_of(HEADER % "90000, 99, 99, 3")}))
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 2**31)
    return bytes(content)


ARCHIVES = {
    "bomb": lambda: archive({"arr_0": npy_of(HEADER % "1, 30000, 30000, 3", bytes(2**22))}),
    "huge": lambda: archive({"arr_0": npy_of(HEADER % "1, 900000, 900000, 3")}),
    "below 0": lambda: archive({"arr_0": npy_of(HEADER % "-1, 8, 8, 3")}),
    "lying": lying,
    "encrypted": encrypted,
    "lzma": lambda: archive({"arr_0": npy(SMOOTH[None])}, zipfile.ZIP_LZMA),
    "header": lambda: archive({"arr_0": npy_of("(" * 9000)}),
    "code": lambda: archive({"arr_0": npy_of(HEADER % "print(1),")}),
    "pickle": lambda: archive({"arr_0": npy(np.array([{}, {}]), allow_pickle=True)}),
    "long": lambda: archive({"arr_0": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"x"}),
    "moments": lambda: archive({n: npy_of(HEADER % "99999, 99999") for n in ("mu", "sigma")}),
    "flipped": lambda: archive({"arr_0": npy(SMOOTH[None])})[:200] + b"\xff" * 900,
    "nothing": lambda: archive({}),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_hostile_npz_is_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "a.npz"
    path.write_bytes(ARCHIVES[kind]())
    result = call("evaluate", path, path, "--features", "small")
    assert result.code == 2, result.out
    assert str(path) in result.last and result.err.count("\n") == 1
    assert "allow_pickle" not in result.last and "max_header_size" not in result.last


@pytest.mark.parametrize("kind", ["pipe", "device", "dangling", "loop"])
def test_what_is_no_file_and_no_folder_is_refused_at_once(tmp_path, kind):
    place = tmp_path / "place.npz"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        targets = {"device": "/dev/zero", "dangling": "gone.npz", "loop": "place.npz"}
        place.symlink_to(targets[kind])
    for words in (["evaluate", place, place], ["image_train", "--data_dir", place]):
        result = call(*words)
        assert result.code == 2 and str(place) in result.last, result.err


def test_a_region_beyond_the_limit_says_what_to_do(tmp_path):
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 40000, 10000, 8, 0, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    path = tmp_path / "region.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    with pytest.raises(ValueError, match=r"at most 300000000 pixels, got 400000000.*--max_pixels"):
        open_image(path)


@pytest.mark.long
def test_a_region_of_182_megapixels_opens(tmp_path):
    Image.new("1", (14000, 13000), 1).save(tmp_path / "region.png")
    images = ImageFiles([tmp_path / "region.png"], 16, 1)
    assert (images.tile(0) == 255).all()
