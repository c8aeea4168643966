"""Files of a run: pictures equal arrays, labels sum to 1, and a killed run loses no whole row."""

import csv
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.cli import read_csv
from support.reference_weights import draw

from guided_diffusion.data import pictures, sealed_pictures
from guided_diffusion.errors import UserError
from guided_diffusion.generation.export import Exporter
from guided_diffusion.generation.manifest import complete_sequences
from guided_diffusion.runtime.unfinished_files import array_of
from guided_diffusion.translation.depth_policies import Depths
from guided_diffusion.translation.sequences import ImageSequence, Recipe
from guided_diffusion.translation.settings import DepthSettings
from guided_diffusion.translation.soft_labels import soft_label

AMOUNT = 3
SIZE = 8


def source_tile(index, channels=3):
    return draw(index, SIZE, SIZE, channels).mul(60).add(128).clamp(0, 255).byte().numpy()


def sequence(index, channels=3, amount=AMOUNT, source_file=""):
    """A sequence as the bridge yields it, drawn by its index."""
    source = source_tile(index, channels)
    depths = tuple(5 * (i + 1) for i in range(amount))
    return ImageSequence(
        index,
        source_file or f"data/{index}.png",
        source,
        Depths(depths, fallback=index == 1),
        [d - 1 for d in depths],
        draw(100 + index, amount, channels, SIZE, SIZE),
        draw(200 + index, amount, channels, SIZE, SIZE),
        [soft_label(i, amount) for i in range(1, amount + 1)],
    )


@pytest.fixture
def exporter(tmp_path):
    def build(**changes):
        arguments = {
            "names": ("polyp", "tumour"),
            "recipe": Recipe(DepthSettings(AMOUNT)),
            "count": 4,
        }
        provenance = {"source_model": "s.pt", "target_model": "t.pt"}
        return Exporter(tmp_path / "t", **arguments | {"provenance": provenance} | changes)

    return build


def load(path):
    """Return the entries of an array, finished or not."""
    unfinished = array_of(path)
    with open(unfinished if unfinished.exists() else path, "rb") as file:
        return np.load(file, allow_pickle=False)


def saved(exporter, *indices, **changes):
    found = exporter(**changes)
    for index in indices:
        found.save(sequence(index))
    return found


def test_rows_tell_step_depth_timestep_and_labels_that_sum_to_1(exporter):
    rows = saved(exporter, 2, 1).merge()
    assert [(r["sequence"], r["step"]) for r in rows] == [
        (name, str(step)) for name in ("00001", "00002") for step in range(AMOUNT + 1)
    ]
    assert [r["depth"] for r in rows[:4]] == ["0", "5", "10", "15"]
    assert [r["timestep"] for r in rows[:4]] == ["-1", "4", "9", "14"]
    shares = [float(r["label_tumour"]) for r in rows[:4]]
    assert shares == [0, 1 / 3, 2 / 3, 1]
    for row in rows:
        total = float(row["label_polyp"]) + float(row["label_tumour"])
        assert total == 1
    assert [r["depth_fallback"] for r in rows[::4]] == ["True", "False"]
    expected = {
        "source": "polyp",
        "target": "tumour",
        "source_file": "data/1.png",
        "depth_policy": "add",
        "level_convention": "reference",
        "source_model": "s.pt",
        "target_model": "t.pt",
    }
    assert expected.items() <= rows[0].items()


def test_the_manifest_is_read_by_csv_and_begins_with_the_file_name(exporter, tmp_path):
    rows = saved(exporter, 0).merge()
    assert read_csv(tmp_path / "t" / "manifest.csv") == rows
    with open(tmp_path / "t" / "manifest.csv", newline="") as file:
        header = next(csv.reader(file))
    assert header[:5] == ["file_name", "sequence", "step", "depth", "timestep"]
    assert len(set(header)) == len(header)
    names = [f"images/00000/{step:02d}.png" for step in range(AMOUNT + 1)]
    assert [row["file_name"] for row in rows] == names
    assert all((tmp_path / "t" / name).is_file() for name in names)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_have_the_published_shapes_and_the_pictures_pixels(exporter, tmp_path, channels):
    found = exporter(save_latents=True)
    made = [sequence(index, channels) for index in range(4)]
    for one in reversed(made):
        found.save(one)
    folder = tmp_path / "t"
    side = (channels, SIZE, SIZE)
    arrays = {n: load(folder / f"{n}.npy") for n in ("source", "target", "diffway", "latent")}
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {
        "source": ((4, *side), np.uint8),
        "target": ((4, AMOUNT, *side), np.uint8),
        "diffway": ((4, AMOUNT), np.int64),
        "latent": ((4, AMOUNT, *side), np.float16),
    }
    assert (arrays["diffway"] == [5, 10, 15]).all()
    for row in found.merge():
        index, step = int(row["sequence"]), int(row["step"])
        tile = arrays["target"][index, step - 1] if step else arrays["source"][index]
        with Image.open(folder / row["file_name"]) as picture:
            pixels = np.asarray(picture).reshape(SIZE, SIZE, channels)
        assert np.array_equal(pixels, tile.transpose(1, 2, 0))
    for one in made:
        assert np.array_equal(arrays["source"][one.index], one.source.transpose(2, 0, 1))
        assert np.array_equal(
            pictures.to_uint8(one.images)[2, ..., 0], arrays["target"][one.index, 2, 0]
        )
        np.testing.assert_allclose(arrays["latent"][one.index], one.latents, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "files"),
    [
        ({}, ["diffway.npy", "source.npy", "target.npy"]),
        ({"save_npy": False}, []),
        ({"save_npy": False, "save_latents": True}, ["latent.npy"]),
    ],
)
def test_arrays_are_written_as_asked_and_have_their_names_in_the_end(
    exporter, tmp_path, flags, files
):
    found = saved(exporter, 0, 1, 2, 3, **flags)
    names = sorted(path.name for path in (tmp_path / "t").glob("*.npy*"))
    assert names == [f"{file}.partial" for file in files]
    found.finish()
    assert sorted(path.name for path in (tmp_path / "t").glob("*.npy*")) == files


def prepared(exporter, count=4, tile=source_tile, **changes):
    """An exporter that is ready to save, and the indices of the sequences that are finished."""
    found = exporter(count=count, **changes)
    return found, found.prepare([f"data/{i}.png" for i in range(count)], tile)


def test_arrays_created_ahead_are_those_that_are_written_to(exporter, tmp_path):
    found, _ = prepared(exporter, save_latents=True)
    before = {path: np.load(path).shape for path in (tmp_path / "t").glob("*.npy.partial")}
    found.save(sequence(3))
    assert len(before) == 4 and not list((tmp_path / "t").glob("*.npy"))
    for path, shape in before.items():
        array = np.load(path)
        assert array.shape == shape and array[3].any() and not array[:3].any()


def test_a_picture_carries_its_provenance_as_text(exporter, tmp_path):
    rows = saved(exporter, 1).merge()
    for row in rows:
        with Image.open(tmp_path / "t" / row["file_name"]) as picture:
            seal = picture.text.pop(sealed_pictures.SEAL)
            assert picture.text == {k: v for k, v in row.items() if k != "file_name"}
        assert len(seal) == 8


def test_names_and_paths_may_be_in_any_script(exporter, tmp_path):
    found = exporter(
        names=("\u606f\u8089", "\u764c"), provenance={"source_model": "d\u00fcr/\u606f.pt"}
    )
    found.save(sequence(0, source_file='bilder/\u7532 \u00fc,"x".png'))
    (row, *_) = read_csv(tmp_path / "t" / "manifest.part000.csv")
    assert (
        row["label_\u606f\u8089"] == "1.0" and row["source_file"] == 'bilder/\u7532 \u00fc,"x".png'
    )
    with Image.open(tmp_path / "t" / row["file_name"]) as picture:
        assert picture.text["source_file"] == row["source_file"]
        assert picture.text["source_model"] == "d\u00fcr/\u606f.pt"
        assert picture.text["label_\\u764c"] == "0.0"
    assert len(found.merge()) == AMOUNT + 1


@pytest.mark.parametrize("names", [("a", "a"), ("", "b"), ("a/b", "c"), ("a", "..")])
def test_names_that_cannot_stand_in_files_and_columns_are_refused(exporter, tmp_path, names):
    with pytest.raises(UserError, match="(source|target): expected"):
        exporter(names=names)
    assert not list(tmp_path.iterdir())


def test_merging_again_changes_nothing(exporter, tmp_path):
    found = saved(exporter, 0, 2)
    first, path = found.merge(), tmp_path / "t" / "manifest.csv"
    content = path.read_bytes()
    assert found.merge() == exporter().merge() == first
    assert path.read_bytes() == content
    assert not list((tmp_path / "t").glob("manifest.part*"))


def test_two_parts_are_merged_in_order_of_sequences(exporter, tmp_path):
    saved(exporter, 3, 0, part=0)
    saved(exporter, 2, 1, part=1)
    parts = sorted(path.name for path in (tmp_path / "t").glob("manifest.part*"))
    assert parts == ["manifest.part000.csv", "manifest.part001.csv"]
    rows = exporter(part=0).merge()
    assert [int(row["sequence"]) for row in rows] == [i for i in range(4) for _ in range(4)]
    assert not list((tmp_path / "t").glob("manifest.part*"))


def test_finished_knows_the_manifest_and_all_parts(exporter):
    saved(exporter, 0).merge()
    saved(exporter, 1, part=0)
    saved(exporter, 3, part=1)
    for part in (0, 1, 2):
        assert exporter(part=part).finished() == {0, 1, 3}


def test_a_new_folder_has_nothing_finished(exporter):
    found = exporter()
    assert found.finished() == set() and found.merge() == []
    assert found.finished() == set()


@pytest.mark.parametrize("rest", [1, 2, 30, 200])
@pytest.mark.parametrize("merged", [False, True])
def test_a_cut_off_line_is_dropped_and_its_sequence_made_again(exporter, tmp_path, rest, merged):
    whole = saved(exporter, 0, 1).merge()
    shutil.rmtree(tmp_path / "t")
    saved(exporter, 0, 1)
    part = tmp_path / "t" / "manifest.part000.csv"
    part.write_bytes(part.read_bytes()[:-rest])
    again = exporter()
    assert again.finished() == {0}
    if merged:
        assert {row["sequence"] for row in again.merge()} == {"00000"}
    again.save(sequence(1))
    assert exporter().finished() == {0, 1}
    assert exporter().merge() == whole


@pytest.mark.parametrize("content", ["", "file_na", "file_name,sequence"])
def test_a_part_whose_header_was_cut_off_gets_a_new_one(exporter, tmp_path, content):
    found = exporter()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "manifest.part000.csv").write_text(content)
    assert found.finished() == set()
    found.save(sequence(0))
    assert found.finished() == {0}
    assert len(found.merge()) == AMOUNT + 1


def test_a_sequence_with_rows_missing_in_the_middle_is_not_finished(exporter, tmp_path):
    found = saved(exporter, 0, 1)
    part = tmp_path / "t" / "manifest.part000.csv"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert found.finished() == {1}


def test_rows_of_a_sequence_that_was_made_twice_are_those_of_the_later(exporter):
    found = saved(exporter, 0)
    found.save(sequence(0, source_file="later.png"))
    assert {row["source_file"] for row in found.merge()} == {"later.png"}


def test_complete_sequences_need_every_step_and_every_column():
    def rows(index, steps, **changes):
        return [{"sequence": f"{index:05d}", "step": str(s), "x": "1"} | changes for s in steps]

    listed = [
        *rows(7, [2, 0, 1]),
        *rows(1, [0, 1]),
        *rows(2, [0, 1, 2], x=None),
        *rows(3, [0, 1, 2, 3]),
        {**rows(1, [2])[0], None: ["extra"]},
    ]
    found = complete_sequences(listed, amount=2)
    assert [row["step"] for row in found.pop(7)] == ["0", "1", "2"]
    assert found == {}


def test_a_manifest_of_other_columns_is_refused(exporter):
    saved(exporter, 0).merge()
    with pytest.raises(UserError, match="expected the columns .*other_model"):
        exporter(provenance={"other_model": "x"}).finished()


@pytest.mark.parametrize(
    ("name", "left"),
    [("images/00001/02.png", {0}), ("target.npy", {0, 1}), ("latent.npy", set())],
)
def test_what_was_deleted_is_made_again(exporter, tmp_path, name, left):
    saved(exporter, 0, 1, save_latents=True).merge()
    path = tmp_path / "t" / name
    (path if path.exists() else array_of(path)).unlink()
    assert exporter(save_latents=True).finished() == left


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("loss", ["deleted", "zeros"])
def test_lost_entries_of_arrays_are_filled_from_the_pictures(exporter, tmp_path, finished, loss):
    indices = (0, 1, 2, 3) if finished else (0, 1)
    found = saved(exporter, *indices)
    found.merge()
    if finished:
        found.finish()
    names = ["source.npy", "target.npy", "diffway.npy"]
    before = [load(tmp_path / "t" / name).copy() for name in names]
    for name in names:
        path = tmp_path / "t" / name if finished else tmp_path / "t" / f"{name}.partial"
        if loss == "deleted":
            path.unlink()
        else:
            np.lib.format.open_memmap(path, "r+")[1] = 0
    found, done = prepared(exporter)
    assert done == set(indices)
    if finished:
        found.finish()
    for name, array in zip(names, before, strict=True):
        assert np.array_equal(load(tmp_path / "t" / name), array)
        assert (tmp_path / "t" / name).exists() == finished


def test_entries_of_latents_that_are_zeros_are_made_again(exporter, tmp_path):
    saved(exporter, 0, 1, save_latents=True).merge()
    np.lib.format.open_memmap(tmp_path / "t" / "latent.npy.partial", "r+")[1] = 0
    assert exporter(save_latents=True).finished() == {0}


def test_black_tiles_are_no_lost_entries(exporter, tmp_path):
    def black(index):
        return np.zeros((SIZE, SIZE, 3), np.uint8)

    found, _ = prepared(exporter, count=1)
    one = sequence(0)
    one.source, one.images = black(0), torch.full_like(one.images, -1)
    found.save(one)
    found.merge()
    found.finish()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "t").glob("*.npy")}
    found, done = prepared(exporter, count=1, tile=black)
    found.finish()
    assert done == {0}
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "t").glob("*.npy*")} == before


def test_arrays_that_an_older_version_left_unfinished_lose_their_name_until_they_are(
    exporter, tmp_path
):
    saved(exporter, 0, 1).merge()
    for path in (tmp_path / "t").glob("*.npy.partial"):
        path.rename(path.with_suffix(""))  # as older versions named them
    found, done = prepared(exporter)
    assert done == {0, 1} and not list((tmp_path / "t").glob("*.npy"))
    for index in (2, 3):
        found.save(sequence(index))
    found.merge()
    found.finish()
    assert len(list((tmp_path / "t").glob("*.npy"))) == 3
    assert load(tmp_path / "t" / "target.npy").any((1, 2, 3, 4)).all()


def test_arrays_grow_with_the_images(exporter, tmp_path):
    found = saved(exporter, 0, 1, 2, 3)
    found.merge()
    found.finish()
    before = load(tmp_path / "t" / "target.npy").copy()
    assert prepared(exporter, count=6)[1] == {0, 1, 2, 3}
    assert not list((tmp_path / "t").glob("*.npy"))
    after = load(tmp_path / "t" / "target.npy")
    assert len(after) == 6 and np.array_equal(after[:4], before)


def other_pixels(path):
    with Image.open(path) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)


def same_text_other_pixels(path):
    tile, other = pictures.read_tile(path), path.with_name("03.png")
    with Image.open(other) as picture:
        text = {key: value for key, value in picture.text.items() if key != sealed_pictures.SEAL}
    sealed_pictures.save(path, tile, text)


def flip_a_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "cut by one byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"no picture"),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a bit at the end": lambda path: flip_a_bit(path, -30),
    "a bit in the middle": lambda path: flip_a_bit(path, path.stat().st_size - 100),
    "another picture": lambda path: Image.new("RGB", (SIZE, SIZE)).save(path),
    "other pixels": other_pixels,
    "the picture of another step": same_text_other_pixels,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_picture_is_made_again(exporter, tmp_path, kind, step):
    saved(exporter, 0, 1).merge()
    DAMAGE[kind](tmp_path / "t" / "images" / "00001" / f"{step:02d}.png")
    assert prepared(exporter)[1] == {0}
    rows = read_csv(tmp_path / "t" / "manifest.csv")
    assert {row["sequence"] for row in rows} == {"00000"}


def test_pictures_of_an_older_version_count_if_they_are_whole(exporter, tmp_path):
    saved(exporter, 0, 1).merge()
    for path in (tmp_path / "t").rglob("*.png"):
        body = path.read_bytes()
        path.write_bytes(body[:-38] + body[-12:])  # without the seal
    assert prepared(exporter)[1] == {0, 1}
    other_pixels(tmp_path / "t" / "images" / "00001" / "02.png")  # its text is lost as well
    path = tmp_path / "t" / "images" / "00000" / "02.png"
    path.write_bytes(path.read_bytes()[:-40])
    assert prepared(exporter)[1] == set()


def test_preparing_merges_creates_arrays_and_tells_what_is_finished(exporter, tmp_path):
    files = [f"data/{index}.png" for index in range(4)]
    found = exporter()
    assert found.prepare(files, source_tile) == set()
    assert load(tmp_path / "t" / "diffway.npy").shape == (4, AMOUNT)
    saved(exporter, 2, part=1)
    assert exporter().prepare(files, source_tile) == {2}
    assert not list((tmp_path / "t").glob("manifest.part*"))


@pytest.mark.parametrize(
    ("files", "shown", "message"),
    [
        (["data/0.png", "data/x.png"], (0, 1), "sequence 1 .* data/1.png, .* now data/x.png"),
        (["data/0.png"], (0, 1), "sequence 1 .* which is now nothing"),
        (["data/0.png", "data/1.png"], (0, 5), "data/1.png, which now holds another picture"),
    ],
)
def test_sequences_of_other_images_are_not_mixed(exporter, files, shown, message):
    saved(exporter, 0, 1).merge()
    with pytest.raises(UserError, match=f"out_dir: .*{message}"):
        exporter().prepare(files, lambda index: source_tile(shown[index]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, AMOUNT + 1), np.int64), r"expected \(4, 3\) int64, got \(4, 4\) int64"),
        (np.zeros((5, AMOUNT), np.int64), r"expected \(4, 3\) int64, got \(5, 3\) int64"),
        (np.zeros((4, AMOUNT), np.float32), r"expected \(4, 3\) int64, got \(4, 3\) float32"),
        (b"text", "expected an array"),
        (b"", "expected an array"),
    ],
)
def test_an_array_that_is_something_else_is_refused_and_kept(exporter, tmp_path, array, message):
    found = exporter()
    path = tmp_path / "t" / "diffway.npy"
    path.parent.mkdir()
    if isinstance(array, bytes):
        path.write_bytes(array)
    else:
        np.save(path, array)
    before = path.read_bytes()
    for write in (lambda: found.save(sequence(0)), lambda: prepared(exporter)):
        with pytest.raises(UserError, match=rf"diffway\.npy: {message}"):
            write()
    assert path.read_bytes() == before
    assert found.finished() == set()


def test_an_array_whose_end_is_missing_is_refused(exporter, tmp_path):
    saved(exporter, 0)
    path = tmp_path / "t" / "target.npy.partial"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"target\.npy.* expected an array, .*delete it to go on"):
        exporter().save(sequence(1))


def test_latents_keep_what_eight_bits_would_lose(exporter, tmp_path):
    found = exporter(save_latents=True)
    made = sequence(0)
    made.latents[0, 0, 0, :2] = torch.tensor([3.25, -4.5])
    found.save(made)
    assert load(tmp_path / "t" / "latent.npy")[0, 0, 0, 0, :2].tolist() == [3.25, -4.5]


def test_a_killed_creation_of_an_array_is_made_good(exporter, tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    (tmp_path / "t").mkdir()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        prepared(exporter)
    assert not list((tmp_path / "t").glob("*.npy*"))
    saved(exporter, 0)
    assert load(tmp_path / "t" / "diffway.npy").tolist()[0] == [5, 10, 15]


def test_nothing_temporary_is_left(exporter, tmp_path):
    found = saved(exporter, 0, 1, 2, 3)
    found.merge()
    found.finish()
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


PATHS = st.sampled_from(["two\nlines", "two\r\nlines", 'quoted "\n"']) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
)


def touch_picture(path, tile, text):
    """Stand in for the writing of a picture, whose content no manifest depends on."""
    path.touch()


@settings(max_examples=60)
@given(st.permutations(range(3)), st.lists(PATHS, min_size=3, max_size=3), PATHS, st.data())
def test_a_part_cut_off_at_any_byte_loses_no_finished_sequence_and_counts_no_other(
    order, files, model, data
):
    files, model = [file or "x" for file in files], model or "x"
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed_pictures, "save", touch_picture)
        patch.setattr(sealed_pictures, "is_whole", lambda path, text, plain: path.exists())

        def exporter(**more):
            flags = {"save_npy": False, "provenance": {"source_model": model}} | more
            return Exporter(Path(folder), ("p", "t"), Recipe(DepthSettings(1)), 4, **flags)

        def save(index):
            exporter().save(sequence(index, amount=1, source_file=files[index]))

        exporter(part=1).save(sequence(3, amount=1))
        ends, part = {}, Path(folder, "manifest.part000.csv")
        for index in order:
            save(index)
            ends[index] = part.stat().st_size
        whole = [*exporter()._all_rows()]
        content = part.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        part.write_bytes(content[:cut])
        finished = {3} | {index for index in order if ends[index] <= cut}
        assert exporter().finished() == finished
        if data.draw(st.booleans()):
            assert {int(row["sequence"]) for row in exporter().merge()} == finished
        for index in set(order) - finished:
            save(index)
        assert exporter().finished() == {0, 1, 2, 3}
        assert exporter().merge() == sorted(whole, key=lambda row: (row["sequence"], row["step"]))
