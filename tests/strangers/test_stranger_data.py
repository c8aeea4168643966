"""Data sets and loaders of other projects, on upstream's and beside them."""

import json
import os
import random

import numpy as np
import pytest
import torch as th
from PIL import Image
from torch.utils.data import DataLoader

from guided_diffusion import image_datasets, logger
from guided_diffusion.image_datasets import (
    ImageDataset,
    _list_image_files_recursively,
    center_crop_arr,
    load_data,
    random_crop_arr,
)


def test_folder_of_images_with_class_prefixes(tmp_path):
    for index, name in enumerate(["cat_1.png", "dog_1.png", "cat_2.jpg", "dog_2.png"]):
        Image.new("RGB", (20, 24), (40 * index, 0, 0)).save(tmp_path / name)
    data = load_data(data_dir=str(tmp_path), batch_size=2, image_size=16, class_cond=True)
    batch, cond = next(data)
    assert batch.shape == (2, 3, 16, 16) and batch.dtype == th.float32
    assert set(cond["y"].tolist()) <= {0, 1} and batch.abs().max() <= 1
    batch, cond = next(load_data(data_dir=str(tmp_path), batch_size=4, image_size=16))
    assert cond == {}


@pytest.fixture
def files(tmp_path):
    """Paths of four pictures of one colour each, in folders within one another."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    paths = [
        tmp_path / "a.png",
        tmp_path / "deep" / "b.jpg",
        tmp_path / "deep" / "er" / "c.gif",
        tmp_path / "d.jpeg",
    ]
    for index, path in enumerate(paths):
        Image.new("RGB", (40, 30), (60 * index,) * 3).save(path)
    (tmp_path / "notes.txt").write_text("no picture")
    return [str(path) for path in paths]


def test_listing_files_by_upstreams_private_name(files, tmp_path):
    assert sorted(_list_image_files_recursively(str(tmp_path))) == sorted(files)


class Masked(ImageDataset):
    """Reads pictures itself and gives a mask beside them, as inpainting trainings do."""

    def __getitem__(self, idx):
        with open(self.local_images[idx], "rb") as file:
            picture = Image.open(file).convert("RGB")
        crop = random_crop_arr if self.random_crop else center_crop_arr
        array = crop(picture, self.resolution)
        if self.random_flip and random.random() < 0.5:
            array = array[:, ::-1]
        out = {"mask": np.ones((1, *array.shape[:2]), np.float32)}
        if self.local_classes is not None:
            out["y"] = np.array(self.local_classes[idx], dtype=np.int64)
        return np.transpose(array.astype(np.float32) / 127.5 - 1, [2, 0, 1]), out


@pytest.mark.parametrize("random_crop", [True, False])
def test_a_subclass_that_reads_for_itself(files, random_crop):
    dataset = Masked(
        16,
        files,
        classes=[3, 1, 2, 0],
        shard=0,
        num_shards=1,
        random_crop=random_crop,
        random_flip=True,
    )
    batch, cond = next(iter(DataLoader(dataset, batch_size=4, shuffle=False, num_workers=0)))
    assert batch.shape == (4, 3, 16, 16) and cond["mask"].shape == (4, 1, 16, 16)
    assert cond["y"].tolist() == [3, 1, 2, 0]
    levels = batch.mean(dim=(1, 2, 3))
    th.testing.assert_close(levels, th.tensor([0, 60, 120, 180]) / 127.5 - 1, atol=0.02, rtol=0)


class Noted(ImageDataset):
    """Adds to what upstream's item holds."""

    def __len__(self):
        return super().__len__() - 1

    def __getitem__(self, idx):
        array, out = super().__getitem__(idx)
        return array, {**out, "name": os.path.basename(self.local_images[idx])}


def test_a_subclass_that_adds_to_an_item(files):
    dataset = Noted(16, files, random_flip=False)
    assert len(dataset) == 3 and dataset.resolution == 16 and dataset.local_classes is None
    loader = DataLoader(dataset, batch_size=2, drop_last=True, shuffle=False)
    ((batch, cond),) = loader
    assert cond["name"] == ["a.png", "b.jpg"] and batch.dtype == th.float32
    assert dataset[1][0].shape == (3, 16, 16) and dataset[1][0].dtype == np.float32


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_of_a_data_set_are_disjoint_and_whole(files, shards):
    parts = [
        ImageDataset(16, files, classes=[0, 1, 2, 3], shard=i, num_shards=shards)
        for i in range(shards)
    ]
    assert sorted(path for part in parts for path in part.local_images) == sorted(files)
    for part in parts:
        assert [files[k] for k in part.local_classes] == part.local_images


def test_a_loader_in_a_fixed_order(files, tmp_path):
    data = load_data(
        data_dir=str(tmp_path), batch_size=4, image_size=16, deterministic=True, random_flip=False
    )
    first, again = next(data)[0], next(data)[0]
    assert th.equal(first, again)
    whole = np.stack(
        [
            center_crop_arr(Image.open(path).convert("RGB"), 16)
            for path in _list_image_files_recursively(str(tmp_path))
        ]
    )
    assert np.array_equal(first.numpy(), whole.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def test_random_crops_repeat_after_pythons_seed():
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 255, (50, 70, 3), np.uint8))
    crops = []
    for seed in (1, 1, 2):
        random.seed(seed)
        crops.append(np.stack([random_crop_arr(picture, 16, 0.5, 1.0) for _ in range(3)]))
    assert crops[0].shape == (3, 16, 16, 3)
    assert np.array_equal(crops[0], crops[1]) and not np.array_equal(crops[0], crops[2])
    assert not np.array_equal(crops[0][0], crops[0][1])


def test_a_module_function_can_be_replaced(files, tmp_path, monkeypatch):
    monkeypatch.setattr(
        image_datasets,
        "center_crop_arr",
        lambda picture, size: np.full((size, size, 3), 255, np.uint8),
    )
    array, _ = ImageDataset(16, files, random_flip=False)[0]
    assert (array == 1).all()


class Remembering(logger.KVWriter):
    """A format of one's own."""

    def __init__(self):
        self.rows = []

    def writekvs(self, kvs):
        self.rows.append(dict(kvs))

    def close(self):
        self.rows.append("closed")


class Loud(logger.HumanOutputFormat):
    """A table in capitals."""

    def _truncate(self, s):
        return super()._truncate(s).upper()

    def writeseq(self, seq):
        super().writeseq([*seq, "!"])


def test_log_formats_of_ones_own(tmp_path):
    mine, path = Remembering(), str(tmp_path / "loud.txt")
    logger.get_current().output_formats += [mine, Loud(path)]
    logger.logkv("a", 1)
    logger.logkvs({"b": 2.5})
    logger.dumpkvs()
    logger.log("a line")
    assert mine.rows == [{"a": 1, "b": 2.5}]
    text = open(path).read()
    assert "| A " in text and "| B " in text and "a line !" in text
    logger.reset()
    assert mine.rows[-1] == "closed"


def test_a_logger_of_ones_own():
    mine = Remembering()
    logger.Logger.CURRENT = logger.Logger(dir=None, output_formats=[mine])
    logger.record_tabular("a", 3)
    logger.logkv_mean("b", np.float32(1))
    logger.logkv_mean("b", np.float32(2))
    assert dict(logger.get_current().name2val) == {"a": 3, "b": 1.5}
    assert logger.get_current().name2cnt["b"] == 2
    logger.dump_tabular()
    assert mine.rows == [{"a": 3, "b": 1.5}] and not logger.getkvs()

    @logger.profile("slow")
    def slow():
        return 7

    assert slow() == 7 and logger.getkvs()["wait_slow"] > 0


def test_logging():
    logger.log("a line", 3)
    logger.logkv("a", 1)
    logger.logkv_mean("b", 1.0)
    logger.logkv_mean("b", 3.0)
    assert logger.getkvs()["b"] == 2.0
    written = logger.dumpkvs()
    assert written["a"] == 1
    with logger.profile_kv("inside"):
        pass
    with logger.scoped_configure(dir=os.path.join(logger.get_dir(), "inner")):
        logger.logkv("c", 2)
        logger.dumpkvs()
        assert os.path.basename(logger.get_dir()) == "inner"
    with open(os.path.join(logger.get_dir(), "inner", "progress.csv")) as file:
        assert file.read().split() == ["c", "2"]


def test_formats_by_name_and_levels(tmp_path, capsys):
    logger.configure(dir=str(tmp_path / "json"), format_strs=["json", "csv", "log"])
    logger.set_level(logger.WARN)
    logger.info("not this")
    logger.warn("but this")
    logger.error("and this")
    logger.set_level(logger.INFO)
    logger.logkv("loss", th.tensor(0.5).item())
    logger.dumpkvs()
    text = (tmp_path / "json" / "log.txt").read_text()
    assert "not this" not in text and "but this" in text and "and this" in text
    assert json.loads((tmp_path / "json" / "progress.json").read_text()) == {"loss": 0.5}
    assert "but this" not in capsys.readouterr().out
