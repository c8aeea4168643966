"""Source images for DDIB: ImageNet's validation images by class, and a folder once, in order."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.cli import draw_images

from guided_diffusion import dist_util
from guided_diffusion.data.image_files import list_image_files
from guided_diffusion.errors import UserError
from guided_diffusion.image_datasets import (
    get_image_filenames_for_label,
    load_source_data_for_domain_translation,
)


@pytest.fixture
def lists(tmp_path, monkeypatch):
    """Three classes, whose numbers in the devkit are not those of the networks."""
    folder = tmp_path / "evaluations"
    folder.mkdir()
    (folder / "synset_words.txt").write_text("n01 tench, Tinca\nn02 goldfish\nn03 shark\n")
    (folder / "map_clsloc.txt").write_text("n02 1 goldfish\nn03 2 shark\nn01 3 tench\n")
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n3\n2\n11\n")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(("label", "expected"), [(0, [1, 3]), (1, [2]), (2, [4])])
def test_a_class_has_the_validation_images_of_its_synset(lists, label, expected):
    names = [f"ILSVRC2012_val_0000000{index}.JPEG" for index in expected]
    assert get_image_filenames_for_label(label) == names
    assert get_image_filenames_for_label(label, folder=lists) == names


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_that_is_not_listed_is_refused(lists, label):
    with pytest.raises(UserError, match=f"label: expected 0 to 2, got {label}"):
        get_image_filenames_for_label(label)


def test_a_missing_or_broken_list_is_named(lists):
    (lists / "map_clsloc.txt").write_text("n02 1 goldfish\nn03\n")
    with pytest.raises(UserError, match=r"map_clsloc\.txt: expected 2 or more words .*'n03'"):
        get_image_filenames_for_label(1)
    (lists / "map_clsloc.txt").write_text("n02 1 goldfish\n")
    with pytest.raises(UserError, match=r"map_clsloc\.txt: no line for 'n01'"):
        get_image_filenames_for_label(0)
    (lists / "synset_words.txt").unlink()
    with pytest.raises(UserError, match=r"synset_words\.txt: expected a readable list"):
        get_image_filenames_for_label(0)


def numbered(folder, count):
    """Pictures named after classes 260 and 261, and one that an earlier translation wrote."""
    draw_images(folder, count, size=8)
    for index, file in enumerate(list_image_files(folder)):
        Path(file).rename(folder / f"{260 + index % 2}_{index}.PNG")
    files = list_image_files(folder)
    shutil.copy(files[0], folder / "260_0_translated_261.PNG")
    return files


def test_source_images_come_once_in_order_with_paths_and_the_numbers_in_their_names(tmp_path):
    files = numbered(tmp_path, 5)
    batches = list(
        load_source_data_for_domain_translation(
            batch_size=2, image_size=8, data_dir=str(tmp_path), class_cond=True
        )
    )
    assert [len(images) for images, _ in batches] == [2, 2, 1]
    assert [path for _, extra in batches for path in extra["filepath"]] == files
    labels = torch.cat([extra["y"] for _, extra in batches])
    assert labels.tolist() == [260, 260, 260, 261, 261] and labels.dtype == torch.int64
    images = torch.cat([images for images, _ in batches])
    pixels = np.stack([np.array(Image.open(file)) for file in files]).transpose(0, 3, 1, 2)
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images, pixels / 127.5 - 1, atol=1e-6)


def test_a_name_without_a_class_number_is_refused(tmp_path):
    draw_images(tmp_path, 1)
    with pytest.raises(UserError, match=r"tile0_000\.png: expected a name that begins"):
        load_source_data_for_domain_translation(batch_size=1, image_size=8, data_dir=tmp_path)


def test_source_images_without_labels_in_grey(tmp_path):
    draw_images(tmp_path, 1)
    images, extra = next(
        load_source_data_for_domain_translation(
            batch_size=4, image_size=8, data_dir=tmp_path, in_channels=1, class_cond=False
        )
    )
    assert images.shape == (1, 1, 8, 8) and extra.keys() == {"filepath"}


def test_ranks_share_the_source_images(tmp_path, monkeypatch):
    files = numbered(tmp_path, 5)
    monkeypatch.setattr(dist_util, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(dist_util, "rank", lambda rank=rank: rank)
        data = load_source_data_for_domain_translation(
            batch_size=9, image_size=8, data_dir=tmp_path
        )
        assert [extra["filepath"] for _, extra in data] == [files[rank::2]]


def test_a_missing_source_folder_is_refused_at_the_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="data_dir: .*'./experiments/imagenet'"):
        load_source_data_for_domain_translation(batch_size=1, image_size=8)
