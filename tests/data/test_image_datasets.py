"""Image folders: what is found, how it is opened and cropped, and in which order it comes."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from guided_diffusion import dist_util, image_datasets
from guided_diffusion.data import class_labels, image_files
from guided_diffusion.data.augmentations import AUGMENTATIONS
from guided_diffusion.data.image_source import ImageFiles
from guided_diffusion.errors import UserError
from guided_diffusion.image_datasets import ImageDataset, load_data

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)
# The 8 images of a tile under the symmetries of the square.
SYMMETRIES = [np.rot90(side, k) for side in (NOISE, NOISE[:, ::-1]) for k in range(4)]


def flat(value, size=2):
    return Image.new("RGB", (size, size), (value, value, value))


def values_of(batch):
    """The grey value of each image of a batch of flat ones."""
    return ((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def take(data, count):
    return [next(data) for _ in range(count)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders named 1 to 7 with as many flat images; the grey value is the place in order."""
    root = tmp_path_factory.mktemp("flat")
    for count in range(1, 8):
        (root / str(count)).mkdir()
        for index in range(count):
            flat(index).save(root / str(count) / f"{index}.png")
    return root


@pytest.fixture
def noise_folder(tmp_path):
    for index in range(5):
        tile = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        tile.save(tmp_path / f"{index}.png")
    return tmp_path


def test_a_file_that_may_not_be_read_is_named_once(monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(image_files.dist_util, "open_bytes", refuse)
    with pytest.raises(
        UserError, match="^a.png: expected a readable image, got Permission denied$"
    ):
        image_files.open_image("a.png")


def test_images_are_found_in_all_folders_whatever_the_case_of_their_names(tmp_path):
    names = ["b.png", "a.JPG", "c/d/e.Tiff", "c/f.jpeg", "c/with space_\u00e9.webp"]
    for name in [*names, "notes.txt", "c/png", "archive.png.zip"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = image_files.list_image_files(tmp_path)
    assert found == sorted(str(tmp_path / name) for name in names)


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ("._a.png", ".png", ".ipynb_checkpoints/a-checkpoint.png", "b/.cache/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "a.png").touch()
    assert image_files.list_image_files(tmp_path) == [str(tmp_path / "b" / "a.png")]


def test_images_below_a_hidden_folder_that_is_named_are_found(tmp_path):
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.png").touch()
    assert len(image_files.list_image_files(tmp_path / ".data")) == 1


def test_linked_folders_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "elsewhere")
    found = image_files.list_image_files(tmp_path / "data")
    assert found == [str(tmp_path / "data" / "train" / "a.png")]


@pytest.mark.parametrize("name", ["", "missing", "a.png"])
def test_what_is_no_folder_is_refused_by_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=f"^expected a folder of images, got '{name}'"):
        image_files.list_image_files(name)


def test_a_folder_without_images_is_refused_and_says_what_was_looked_for(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"^no image in .*\.jpg.*\.webp"):
        image_files.list_image_files(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, I am text\n" * 20, b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_refused_by_name(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: expected a readable image"):
        image_files.open_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["png", "jpeg", "tiff", "bmp", "gif"])
def test_an_image_that_is_cut_off_anywhere_opens_whole_or_is_refused(tmp_path, format):
    whole = io.BytesIO()
    Image.fromarray(NOISE).save(whole, format)
    refused = 0
    for length in range(len(whole.getvalue())):
        path = tmp_path / f"a.{format}"
        path.write_bytes(whole.getvalue()[:length])
        try:
            assert image_files.open_image(path).size == (12, 12)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0.9 * length


def test_an_image_of_absurd_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: expected a readable image.*pixels"):
        image_files.open_image(tmp_path / "a.png")


@pytest.mark.parametrize(("format", "keywords"), [("png", {}), ("jpeg", {"quality": 95})])
def test_a_broken_file_shows_before_the_first_step(tmp_path, format, keywords):
    flat(3, 16).save(tmp_path / f"a.{format}", **keywords)
    Image.fromarray(NOISE).save(tmp_path / f"b.{format}", **keywords)
    cut = (tmp_path / f"b.{format}").read_bytes()[:-60]
    (tmp_path / f"b.{format}").write_bytes(cut)
    with pytest.raises(UserError, match=rf"b\.{format}: expected a readable image"):
        load_data(data_dir=str(tmp_path), batch_size=1, image_size=8)


def palette():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 40, 80, 120])
    return picture


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("L", (4, 4), 77), (77, 77, 77, 255)),
        (Image.new("1", (4, 4), 1), (255, 255, 255, 255)),
        (Image.new("RGB", (4, 4), (40, 80, 120)), (40, 80, 120, 255)),
        (Image.new("RGBA", (4, 4), (40, 80, 120, 9)), (40, 80, 120, 9)),
        (Image.new("LA", (4, 4), (77, 9)), (77, 77, 77, 9)),
        (palette(), (40, 80, 120, 255)),
        (Image.fromarray(np.full((4, 4), 77 * 257, np.uint16)), (77, 77, 77, 255)),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), (255, 255, 255, 255)),
    ],
    ids=["grey", "bits", "rgb", "rgba", "grey-alpha", "palette", "16-bit", "16-bit-white"],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_picture_opens_in_1_3_and_4_channels(tmp_path, picture, expected, channels):
    picture.save(tmp_path / "a.png")
    tile = ImageFiles([tmp_path / "a.png"], 4, channels).tile(0)
    on_white = Image.new("RGB", (1, 1), "white")
    on_white.paste(expected[:3], mask=Image.new("L", (1, 1), expected[3]))
    colour, grey = (on_white.convert(mode).getpixel((0, 0)) for mode in ("RGB", "L"))
    wanted = {1: (grey,), 3: colour, 4: expected}[channels]
    assert tile.shape == (4, 4, channels) and tile.dtype == np.uint8
    assert (tile == np.array(wanted)).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bit_greys_are_scaled_and_not_clipped(tmp_path, dtype):
    ramp = np.linspace(0, 65535, 64).reshape(8, 8)
    Image.fromarray(ramp.astype(dtype)).save(tmp_path / "a.tif")
    tile = ImageFiles([tmp_path / "a.tif"], 8, 1).tile(0)[..., 0]
    np.testing.assert_allclose(tile, ramp / 257, atol=0.51)


@pytest.mark.parametrize(
    ("mode", "channels", "message"),
    [("F", 3, "floating-point"), ("LAB", 1, "conversion from LAB"), ("RGB", 5, "in_channels: ")],
)
def test_a_picture_that_cannot_be_converted_is_refused(tmp_path, mode, channels, message):
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=message):
        image_files.open_image(tmp_path / "a.tif", channels)


def test_a_picture_of_the_size_is_not_resampled():
    assert np.array_equal(image_datasets.center_crop_arr(Image.fromarray(NOISE), 12), NOISE)


@pytest.mark.parametrize("top", [0, 5])
@pytest.mark.parametrize("left", [0, 5])
def test_the_centre_of_an_oblong_picture_is_cut(top, left):
    if top and left:
        top = 0  # one side is the short one
    around = np.zeros((12 + 2 * top, 12 + 2 * left, 3), np.uint8)
    around[top : top + 12, left : left + 12] = NOISE
    assert np.array_equal(image_datasets.center_crop_arr(Image.fromarray(around), 12), NOISE)


def test_an_odd_rest_is_cut_from_the_end():
    wide = np.zeros((12, 15, 3), np.uint8)
    wide[:, 1:13] = NOISE
    assert np.array_equal(image_datasets.center_crop_arr(Image.fromarray(wide), 12), NOISE)


def test_a_picture_of_twice_the_size_is_averaged():
    large = RNG.integers(0, 256, (16, 16), dtype=np.uint8)
    means = large.reshape(8, 2, 8, 2).mean(axis=(1, 3))
    found = image_datasets.center_crop_arr(Image.fromarray(large), 8)
    np.testing.assert_allclose(found, means, atol=1.01)  # each axis is rounded


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40))
def test_a_centre_crop_has_its_size_whatever_the_picture(width, height, size):
    picture = Image.new("RGB", (width, height), (9, 90, 200))
    tile = image_datasets.center_crop_arr(picture, size)
    assert tile.shape == (size, size, 3)
    assert (tile == (9, 90, 200)).all()


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(0, 99))
def test_a_random_crop_has_its_size_whatever_the_picture(width, height, size, seed):
    picture = Image.new("RGB", (width, height), (9, 90, 200))
    tile = image_datasets.random_crop_arr(picture, size, rng=np.random.default_rng(seed))
    assert tile.shape == (size, size, 3)
    assert (tile == (9, 90, 200)).all()


def test_random_crops_cover_their_fraction_and_reach_every_border():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (200, 200))
    picture, rng = Image.fromarray(ramp), np.random.default_rng(0)
    tiles = [image_datasets.random_crop_arr(picture, 20, rng=rng) for _ in range(200)]
    ends = np.array([(tile[0, 0], tile[-1, 0]) for tile in tiles]).astype(int)
    covered = (ends[:, 1] - ends[:, 0]) / 190  # 19 of 20 pixels lie between the two
    assert 0.75 < covered.min() < 0.85 and 0.95 < covered.max() < 1.03
    assert ends[:, 0].min() < 10 and ends[:, 1].max() > 190


def test_a_random_crop_without_a_generator_draws_afresh():
    tiles = [image_datasets.random_crop_arr(Image.fromarray(NOISE), 8) for _ in range(40)]
    assert len({tile.tobytes() for tile in tiles}) > 1


@pytest.mark.parametrize(
    ("augment", "expected"),
    [("none", [NOISE]), ("flip", [NOISE, NOISE[:, ::-1]]), ("dihedral", SYMMETRIES)],
)
def test_augmentation_gives_each_of_its_symmetries_equally_often(augment, expected):
    rng = np.random.default_rng(0)
    drawn = [AUGMENTATIONS[augment](NOISE, rng).tobytes() for _ in range(400)]
    assert set(drawn) == {tile.tobytes() for tile in expected}
    assert min(drawn.count(tile) for tile in set(drawn)) > 0.5 * 400 / len(expected)


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(UserError, match="augment: .*'flop'"):
        ImageDataset(8, [], augment="flop")


def test_a_data_set_returns_arrays_and_conditions(noise_folder):
    files = image_files.list_image_files(noise_folder)
    dataset = ImageDataset(8, files, [0, 1, 0, 1, 2], filepaths=files, random_flip=False)
    array, conditions = dataset[4]
    expected = np.asarray(Image.open(files[4])).transpose(2, 0, 1) / 127.5 - 1
    assert (len(dataset), array.dtype, array.shape) == (5, np.float32, (3, 8, 8))
    np.testing.assert_allclose(array, expected, atol=1e-6)
    assert conditions["y"].dtype == np.int64
    assert (int(conditions["y"]), conditions["filepath"]) == (2, files[4])
    assert ImageDataset(8, files)[0][1] == {}
    assert len(next(iter(torch.utils.data.DataLoader(dataset, 2)))[0]) == 2


def test_shards_part_the_files_and_their_labels(noise_folder):
    files = image_files.list_image_files(noise_folder)
    shards = [ImageDataset(8, files, range(5), shard=k, num_shards=2) for k in range(2)]
    assert [shard.local_images for shard in shards] == [files[0::2], files[1::2]]
    assert [list(shard.local_classes) for shard in shards] == [[0, 2, 4], [1, 3]]


@pytest.mark.parametrize("random_crop", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("limit", [2**30, 200])  # all pictures, or but the first few
def test_kept_tiles_equal_those_that_are_read_again(
    tmp_path, monkeypatch, random_crop, channels, limit
):
    monkeypatch.setattr(image_datasets, "CACHE_BYTES", limit)
    sides = [(6, 6), (7, 40), (16, 9), (61, 33), (8, 8)]
    for index, (height, width) in enumerate(sides):
        noise = np.random.default_rng(index).integers(256, size=(height, width, 4), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.png")
    files = image_files.list_image_files(tmp_path)
    kept, read = (
        ImageDataset(6, files, random_crop=random_crop, in_channels=channels, cache=c)
        for c in (True, False)
    )
    kept.check()
    for seed in range(8):
        rngs = [[np.random.default_rng([seed, index]) for index in range(5)] for _ in range(2)]
        batches = [d.batch(range(5), r)[0] for d, r in zip((kept, read), rngs, strict=True)]
        assert torch.equal(*batches)

    assert sum(array.nbytes for array in kept.cache.values()) <= limit
    assert len(kept.cache) == 5 or limit == 200
    assert not read.cache


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_random_crops_of_a_data_set_are_those_of_the_whole_picture(tmp_path, channels):
    noise = np.random.default_rng(0).integers(256, size=(71, 95, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    dataset = ImageDataset(
        8, [tmp_path / "a.png"], None, random_crop=True, in_channels=channels, augment="none"
    )
    picture = image_files.open_image(tmp_path / "a.png", channels)
    for seed in range(20):
        tile = dataset.tile(0, np.random.default_rng(seed))
        whole = image_files.random_crop_arr(picture, 8, rng=np.random.default_rng(seed))
        assert np.array_equal(tile, whole.reshape(8, 8, channels))


@pytest.mark.parametrize("random_crop", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_a_kept_file_is_not_looked_at_again(noise_folder, random_crop, cache):
    files = image_files.list_image_files(noise_folder)
    dataset = ImageDataset(6, files, random_crop=random_crop, cache=cache)
    dataset.check()
    before = dataset.tile(0, np.random.default_rng(0))
    Image.new("RGB", (9, 9), "red").save(files[0], format="PNG")
    after = dataset.tile(0, np.random.default_rng(0))
    assert np.array_equal(before, after) == cache


@pytest.mark.parametrize(("limit", "kept"), [(5 * 6**2 * 3, (True, False)), (10, (False, False))])
def test_training_data_is_kept_if_it_fits(noise_folder, monkeypatch, limit, kept):
    seen = []
    monkeypatch.setattr(image_datasets, "CACHE_BYTES", limit)
    monkeypatch.setattr(ImageDataset, "check", lambda self: seen.append(self.cache is not None))
    for random_crop in (False, True):
        load_data(data_dir=str(noise_folder), batch_size=2, image_size=6, random_crop=random_crop)
    assert tuple(seen) == kept


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_batches_are_float32_in_the_model_range(tmp_path, channels):
    black_and_white = Image.new("RGB", (8, 8))
    black_and_white.paste((255, 255, 255), (0, 0, 8, 4))
    black_and_white.save(tmp_path / "a.png")
    data = load_data(data_dir=tmp_path, batch_size=3, image_size=8, in_channels=channels)
    batch, conditions = next(data)
    assert batch.shape == (3, channels, 8, 8) and batch.dtype == torch.float32
    assert batch.is_contiguous() and conditions == {}
    assert batch[:, 0].unique().tolist() == [-1, 1]


def test_labels_number_the_first_words_of_file_names_in_order(tmp_path):
    labels = {"b/dog_1.png": 1, "cat_2.png": 0, "a/zebra_x_1.png": 2, "c/cat_1.png": 0}
    for value, name in enumerate(sorted(labels)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        flat(value).save(tmp_path / name)
    data = load_data(data_dir=tmp_path, batch_size=4, image_size=2, class_cond=True)
    batch, conditions = next(data)
    assert conditions["y"].dtype == torch.int64
    found = dict(zip(values_of(batch), conditions["y"].tolist(), strict=True))
    assert found == {value: labels[name] for value, name in enumerate(sorted(labels))}


def test_labels_number_the_first_folders_in_order(tmp_path):
    labels = {"b/dog_1.png": 1, "a/x/cat_2.png": 0, "a/zebra.png": 0, "c/y/z/a_1.png": 2}
    for value, name in enumerate(sorted(labels)):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        flat(value).save(tmp_path / name)
    for data_dir in (tmp_path, f"{tmp_path}/b/.."):
        flags = {"data_dir": data_dir, "image_size": 2, "class_cond": True, "labels": "folder"}
        batch, conditions = next(load_data(batch_size=4, **flags))
        found = dict(zip(values_of(batch), conditions["y"].tolist(), strict=True))
        assert found == {value: labels[name] for value, name in enumerate(sorted(labels))}


@pytest.mark.parametrize(
    ("labels", "message"),
    [("folder", "labels: folder: .*found .*loose.png"), ("colour", "labels: .* got 'colour'")],
)
def test_a_label_that_is_not_there_is_refused(tmp_path, labels, message):
    (tmp_path / "a").mkdir()
    for name in ("a/b.png", "loose.png"):
        flat(0).save(tmp_path / name)
    with pytest.raises(UserError, match=message):
        load_data(data_dir=tmp_path, batch_size=1, image_size=2, class_cond=True, labels=labels)


def test_deterministic_data_keeps_the_order_of_names(folders):
    data = load_data(data_dir=folders / "5", batch_size=3, image_size=2, deterministic=True)
    order = [value for batch, _ in take(data, 4) for value in values_of(batch)]
    assert order == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 2**40))
def test_every_image_comes_once_per_pass(folders, count, batch_size, seed):
    data = load_data(data_dir=folders / str(count), batch_size=batch_size, image_size=2, seed=seed)
    batches = [values_of(batch) for batch, _ in take(data, -(-3 * count // batch_size))]
    assert all(len(batch) == batch_size for batch in batches)
    order = [value for batch in batches for value in batch]
    for start in range(0, 3 * count, count):
        assert sorted(order[start : start + count]) == list(range(count))


def test_passes_and_seeds_differ_in_order(folders):
    def order(seed):
        data = load_data(data_dir=folders / "7", batch_size=7, image_size=2, seed=seed)
        return [tuple(values_of(batch)) for batch, _ in take(data, 4)]

    assert order(0) == order(0)
    assert len({*order(0), *order(1)}) == 8


MANNERS = [
    {"augment": "dihedral"},
    {"random_crop": True, "random_flip": False},
    {"deterministic": True, "class_cond": True},
]


def stream(folder, batch_size, steps, **flags):
    data = load_data(data_dir=folder, batch_size=batch_size, image_size=6, seed=3, **flags)
    return [(batch, cond.get("y", torch.empty(0))) for batch, cond in take(data, steps)]


@pytest.mark.parametrize("flags", MANNERS)
@pytest.mark.parametrize("start", [1, 4])
def test_a_stream_that_starts_later_goes_on_as_it_would_have(noise_folder, flags, start):
    whole = stream(noise_folder, 3, 7, **flags)
    rest = stream(noise_folder, 3, 7 - start, start_step=start, **flags)
    for expected, found in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("flags", MANNERS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_see_their_slices_of_what_one_process_sees(noise_folder, monkeypatch, flags, ranks):
    whole = stream(noise_folder, 2 * ranks, 4, **flags)
    monkeypatch.setattr(dist_util, "world_size", lambda: ranks)
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr(dist_util, "rank", lambda rank=rank: rank)
        parts.append(stream(noise_folder, 2, 4, **flags))
    for step, expected in enumerate(whole):
        found = [torch.cat(pieces) for pieces in zip(*(p[step] for p in parts), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_the_same_image_is_augmented_anew_in_every_pass(noise_folder):
    for path in image_files.list_image_files(noise_folder)[1:]:
        Path(path).unlink()
    tiles = {
        batch.numpy().tobytes() for batch, _ in stream(noise_folder, 1, 60, augment="dihedral")
    }
    assert len(tiles) == 8


def test_more_classes_than_the_networks_have_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(class_labels, "NUM_CLASSES", 2)
    for name in ("a_1", "b_1", "c"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="at most 2 classes, found 3.*here 'a'"):
        image_datasets.load_data(
            data_dir=str(tmp_path), batch_size=1, image_size=8, class_cond=True
        )


def test_a_link_to_a_folder_around_it_lists_no_image_twice(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "self").symlink_to(tmp_path)
    assert image_files.list_image_files(tmp_path) == [str(tmp_path / "a.png")]


@pytest.mark.parametrize("name", [b"im\xff.png", b"two\nlines.png"])
def test_a_file_name_that_no_manifest_can_hold_is_refused(tmp_path, name):
    (Path(tmp_path) / os.fsdecode(name)).write_bytes(b"")
    with pytest.raises(UserError, match="printable text, found '.*(udcff|\\\\n)"):
        image_files.list_image_files(tmp_path)


def test_upstreams_list_goes_folder_by_folder_and_may_be_empty(tmp_path):
    assert image_datasets._list_image_files_recursively(tmp_path) == []
    for name in ("b.PNG", "a/z.jpg", "a/x/y.gif", "a-1.png", "a/t.tif", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = image_datasets._list_image_files_recursively(str(tmp_path))
    expected = ["a/x/y.gif", "a/z.jpg", "a-1.png", "b.PNG"]
    assert found == [str(tmp_path / name) for name in expected]
