"""Contact sheets and pages of sequences, from the rows of a manifest."""

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data import pictures
from guided_diffusion.data.pictures import GAP
from guided_diffusion.generation import report


def tile(value, height=4, width=6, channels=3):
    return np.full((height, width, channels), value, dtype=np.uint8)


@pytest.fixture
def manifest(tmp_path):
    """Rows and pictures of sequences of a source image and two steps."""

    def build(sequences, size, channels=3):
        rows = []
        for sequence in range(sequences):
            for step in range(3):
                name = f"{sequence}_{step}.png"
                value = 50 * step + sequence
                pictures.to_picture(tile(value, size, size, channels)).save(tmp_path / name)
                rows.append(
                    {
                        "file_name": name,
                        "sequence": str(sequence),
                        "step": str(step),
                        "depth": str(10 * step),
                        "source": "polyp",
                        "target": "tumour",
                        "label_polyp": str(1 - step / 2),
                        "label_tumour": str(step / 2),
                    }
                )
        return tmp_path, rows

    return build


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("size", "shown"), [(16, 96), (64, 128), (100, 100), (50, 100)])
def test_a_contact_sheet_has_a_row_per_sequence_and_enlarges_small_tiles(
    manifest, size, shown, channels
):
    sheet = report.contact_sheet(*manifest(2, size, channels))
    assert sheet.size == (3 * (shown + GAP) + GAP, 2 * (shown + 14 + GAP) + GAP)
    for sequence in range(2):
        for step in range(3):
            corner = (GAP + step * (shown + GAP), GAP + sequence * (shown + 14 + GAP))
            assert sheet.getpixel(corner)[0] == 50 * step + sequence


def test_a_contact_sheet_shows_the_first_sequences_only(manifest):
    folder, rows = manifest(5, 64)
    assert report.contact_sheet(folder, rows, 2).height == 2 * (128 + 14 + GAP) + GAP
    assert report.contact_sheet(folder, rows).height == 5 * (128 + 14 + GAP) + GAP


def test_captions_name_the_source_and_then_share_and_depth(manifest, monkeypatch):
    found = []
    monkeypatch.setattr(report, "grid", lambda rows, captions, scale: found.extend(captions))
    report.contact_sheet(*manifest(1, 16))
    assert found == [["polyp", "0.50  d10", "1.00  d20"]]


def test_pictures_are_closed_after_reading(manifest, monkeypatch):
    opened = []
    original = Image.open

    def remember(path, **options):
        opened.append(original(path, **options))
        return opened[-1]

    monkeypatch.setattr(Image, "open", remember)
    report.contact_sheet(*manifest(1, 16))
    assert len(opened) == 3 and all(picture.fp is None for picture in opened)


def test_a_contact_sheet_shares_its_rows_between_directions(manifest, monkeypatch):
    folder, rows = manifest(3, 16)
    back = [row | {"source": "tumour", "target": "polyp"} for row in rows]
    found = []
    monkeypatch.setattr(report, "grid", lambda rows, captions, scale: found.extend(captions))
    report.contact_sheet(folder, rows + back, 4)
    assert [line[0] for line in found] == ["polyp"] * 2 + ["tumour"] * 2
    assert found[2][1:] == ["polyp 0.50  d10", "polyp 0.00  d20"]


def test_text_and_places_on_a_page_are_escaped(manifest):
    _, rows = manifest(2, 16)
    odd = {"source_file": "<script>&.png", "file_name": 'a"#<b>/1.png'}
    page = report.page([row | odd for row in rows], 1)
    assert "<script>" not in page and "&lt;script&gt;&amp;.png" in page
    assert 'src="a%22%23%3Cb%3E/1.png"' in page and "http" not in page
    assert "1 of 2 sequences" in page and "0: 10 20" in page
    assert "polyp 0.50, tumour 0.50" in page
