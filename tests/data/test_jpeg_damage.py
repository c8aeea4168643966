"""Damage in the middle of a JPEG: what is found, and that no sound file is taken for damaged."""

import io

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data import image_files, jpeg_damage
from guided_diffusion.data.drawn_tissue import draw_tile
from guided_diffusion.errors import UserError

QUALITIES = [
    {"quality": 90},
    {"quality": 95, "subsampling": 0},
    {"quality": 60},
    {"quality": 75, "optimize": True},
    {"quality": 85, "progressive": True},
    {"quality": 85, "restart_marker_rows": 1},
]


def tile(seed, side=96):
    """A tile of tissue with some noise of a camera, in half of all cases with glass below."""
    rng = np.random.default_rng(seed)
    pixels = draw_tile(seed, 0.4, side) + rng.normal(0, 6, (side, side, 3))
    if seed % 2:
        pixels[rng.integers(side) :] = 243
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(picture, **options):
    file = io.BytesIO()
    picture.save(file, "jpeg", **options)
    return file.getvalue()


def refused(content):
    file = io.BytesIO(content)
    try:
        jpeg_damage.refuse_damage(file)
        Image.open(file).load()
    except (ValueError, OSError):
        return True
    return False


@pytest.mark.parametrize("options", QUALITIES)
def test_no_sound_file_is_refused(options):
    assert not any(refused(jpeg(tile(seed), **options)) for seed in range(10))


@pytest.mark.parametrize("value", [0, 128, 243, 255])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_no_picture_of_one_colour_is_refused(value, mode):
    for side in (1, 7, 16, 50):
        for quality in (1, 50, 95):
            picture = Image.new("L", (side, side + 3), value).convert(mode)
            assert not refused(jpeg(picture, quality=quality, optimize=True))


@pytest.mark.parametrize(("options", "least"), [(QUALITIES[0], 16), (QUALITIES[3], 9)])
def test_most_wrong_blocks_are_found(options, least):
    rng, found = np.random.default_rng(0), 0
    for seed in range(0, 40, 2):
        content = bytearray(jpeg(tile(seed), **options))
        start = int(rng.integers(len(content) // 3, len(content) - 200))
        content[start : start + 64] = rng.integers(0, 255, 64, dtype=np.uint8).tobytes()
        found += refused(bytes(content))
    assert least <= found <= 20


def test_bytes_behind_the_end_and_a_preview_are_no_damage(tmp_path):
    content = jpeg(tile(0), quality=90)
    assert not refused(content + b"\0" * 100)
    picture = tile(0)
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[tile(1)])
    assert image_files.open_image(tmp_path / "a.jpg").size == picture.size


def test_a_sound_file_is_looked_at_once_and_a_changed_one_again(tmp_path, monkeypatch):
    looked = []
    original = jpeg_damage._is_damaged
    monkeypatch.setattr(
        jpeg_damage, "_is_damaged", lambda content: looked.append(1) or original(content)
    )
    content, path = jpeg(tile(0), quality=90), tmp_path / "a.jpg"
    path.write_bytes(content)
    for _ in range(3):
        image_files.open_image(path)
    assert len(looked) == 1
    path.write_bytes(content[: len(content) // 2] + bytes(300) + content[len(content) // 2 :])
    with pytest.raises(UserError, match="a.jpg: expected a readable image, got damaged pixels"):
        image_files.open_image(path)
