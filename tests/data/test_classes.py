"""Classes of a model: chosen by name or number, recorded, and matched with those of images."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cli import draw_images

from guided_diffusion.data.class_labels import refuse_a_class_for_each_image
from guided_diffusion.data.classes import RECORD, Classes, read_classes
from guided_diffusion.data.image_formats import open_images
from guided_diffusion.data.image_source import ImageFolder
from guided_diffusion.errors import UserError

OWN = Classes.of(["tumour", "benign"], "the model")
GRADES = Classes.of(["3", "4", "5", "2"], "the model")
MANY = Classes.unnamed(range(1000), "no record")


@pytest.mark.parametrize(
    ("classes", "text", "numbers"),
    [
        (OWN, "", [0, 1]),
        (OWN, "tumour", [1]),
        (OWN, "1, benign", [1, 0]),
        (OWN, "name:benign,number:1", [0, 1]),
        (GRADES, "5,0,number:3,name:3", [3, 0, 3, 1]),
        (MANY, "450,7", [450, 7]),
    ],
)
def test_classes_are_chosen_by_name_or_number(classes, text, numbers):
    assert classes.chosen("classes", text) == numbers


@pytest.mark.parametrize(
    ("classes", "text", "message"),
    [
        (OWN, "2", r"classes 0 benign, 1 tumour \(the model\), got '2'"),
        (OWN, "benign,atypia", "got 'atypia'"),
        (OWN, "benign,", "got ''"),
        (OWN, "number:tumour", "got 'number:tumour'"),
        (OWN, "²", "got '²'"),
        (OWN, "-1", "got '-1'"),
        (GRADES, "3", "3 is the name of class 1 and the number of another; write name:3 or number"),
        (MANY, "1000", "expected numbers .* of the classes 0 to 999"),
    ],
)
def test_other_classes_are_refused_with_the_list(classes, text, message):
    with pytest.raises(UserError, match=f"^classes: .*{message}"):
        classes.chosen("classes", text)


def test_a_table_of_counted_numbers_lists_those_that_have_images():
    counted = Classes(MANY.numbers, "no record", named=False, counts={7: 3, 8: 0})
    assert counted.table == "1000 classes (no record):\n     7  7: 3 images"
    assert "benign: 0 images" in Classes(OWN.numbers, "the model", counts={1: 3}).table


def test_a_record_is_read_as_it_was_written(tmp_path):
    assert read_classes(tmp_path / RECORD, 1000) is None
    OWN.save(tmp_path)
    found = read_classes(tmp_path / RECORD, 2, "folder")
    assert (found.numbers, found.labels) == (OWN.numbers, "folder") and found.same_as(OWN)
    assert json.loads((tmp_path / RECORD).read_text()) == {"benign": 0, "tumour": 1}


BROKEN = [
    b"",
    b"{",
    b"[0, 1]",
    b"{}",
    b'"benign"',
    b"null",
    b'{"benign": "0"}',
    b'{"benign": 0.0}',
    b'{"benign": true}',
    b'{"benign": -1}',
    b'{"benign": null}',
    b'{"benign": [0]}',
    b'{"benign": 0, "tumour": 2}',
    b'{"benign": 0, "tumour": 0}',
    b'{"benign": 0, "benign": 1}',
    b'{"be\\nnign": 0}',
    b'{"benign": 1e999}',
    b'{"benign": NaN}',
    b'{"\\ud800": 0}',
    b"\xff\xfe",
    b"[" * 100000,
    b'{"a": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_record_of_another_form_or_network_is_refused_in_a_line(tmp_path, content):
    path = tmp_path / RECORD
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_classes(path, 2)
    message = str(error.value)
    assert message.startswith(f"{path}: expected the classes of the weights beside it, as {{NAME")
    assert "\n" not in message and len(message) < 400 + len(str(path))


def test_a_link_whose_data_is_not_there_is_no_missing_record(tmp_path):
    (tmp_path / RECORD).symlink_to(tmp_path / "annexed")
    with pytest.raises(UserError, match="a link to .*annexed, which is not there; fetch"):
        read_classes(tmp_path / RECORD, 2)


def test_a_folder_or_a_huge_file_in_place_of_the_record_is_refused(tmp_path):
    (tmp_path / RECORD).mkdir()
    with pytest.raises(UserError, match="expected a file, got a folder"):
        read_classes(tmp_path / RECORD, 2)
    (tmp_path / RECORD).rmdir()
    with open(tmp_path / RECORD, "wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError, match="expected at most 4,194,304 bytes"):
        read_classes(tmp_path / RECORD, 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_any_json_is_read_or_refused(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    try:
        found = read_classes(path, 5)
    except UserError:
        return
    assert found.numbers == value
    assert all(type(n) is int and 0 <= n < 5 for n in found.numbers.values())


def folder_of(tmp_path, *names):
    (source, *_) = sorted(draw_images(tmp_path / "drawn", 1).iterdir())
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "images" / name)
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ("prefix", ["tumour_1.png", "tumour_2.png"], [1, 1]),
        ("prefix", ["a/benign_1.png", "a/tumour_1.png"], [0, 1]),
        ("folder", ["tumour/1.png"], [1]),
        ("folder", ["tumour_1.png", "benign_2.png"], [0, 1]),  # other images than in the training
        ("prefix", ["tumour/1.png", "tumour/2.png"], [1, 1]),
    ],
)
def test_images_of_a_part_of_the_classes_keep_the_models_numbers(tmp_path, labels, names, expected):
    known = Classes(OWN.numbers, "the model", labels)
    images = open_images(folder_of(tmp_path, *names), 16, classes=known)
    assert [images.label(i) for i in range(len(images))] == expected


def test_images_of_other_classes_are_refused_with_both_lists(tmp_path):
    folder = folder_of(tmp_path, "tumour_1.png", "atypia_1.png")
    with pytest.raises(UserError, match="0 benign, 1 tumour .*, found the classes atypia, tumour"):
        open_images(folder, 16, classes=OWN)


def test_the_classes_of_an_npz_are_numbers_of_the_model(tmp_path):
    images = np.zeros((3, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images, np.array([1, 1, 0]))
    source = open_images(tmp_path / "a.npz", 16, classes=OWN)
    assert [source.label(i) for i in range(3)] == [1, 1, 0]
    np.savez(tmp_path / "b.npz", images, np.array([1, 4, 0]))
    with pytest.raises(UserError, match="0 benign, 1 tumour .*, found the classes 0, 1, 4"):
        open_images(tmp_path / "b.npz", 16, classes=OWN)


def refused(*names, labels="prefix"):
    files = [f"data/{name}" for name in names]
    numbers = [name.split("_")[0] if labels == "prefix" else name.split("/")[0] for name in names]
    found = Classes.of(numbers, "file name up to its first _", labels)
    try:
        refuse_a_class_for_each_image(found, files, "data")
    except UserError as error:
        return str(error)
    return ""


FINE = [
    ["a_1.png"],
    ["a_1.png", "b_1.png"],
    ["a_1.png", "a_2.png", "b_1.png", "b_2.png", "c_1.png"],
    [f"{'abcdefgh'[i % 8]}_{i}.png" for i in range(16)],
    [f"a_{i}.png" for i in range(50)] + ["b_1.png", "c_1.png", "d_1.png", "e.png"],
]
SENSELESS = [
    ["1.png", "2.png", "3.png"],
    ["P1.png", "P2.png"],
    ["a_1.png", "b_1.png", "c_1.png"],
    [f"patient{i}_1.png" for i in range(30)],
    [f"patient{i * 2 // 3}_{i}.png" for i in range(12)],
]


@pytest.mark.parametrize("names", FINE)
def test_few_images_of_real_classes_are_learned_from(names):
    assert not refused(*names)


@pytest.mark.parametrize("names", SENSELESS)
def test_a_class_for_almost_every_image_is_refused_with_the_ways_to_label(names):
    message = refused(*names)
    assert message.startswith("labels: expected classes of several images each, found ")
    assert f" for {len(names)} images: " in message
    assert "CLASS_NAME.png" in message and "--labels folder" in message


def test_forgotten_labels_of_folders_are_told_by_the_folders_names():
    names = [f"{kind}/{i}.png" for kind in ("benign", "tumour") for i in range(9)]
    files = [f"data/{name}" for name in names]
    found = Classes.of({file.rpartition("/")[2] for file in files}, "file name")
    with pytest.raises(UserError, match=r"found 9 for 18 .*each class \(here benign, tumour\)"):
        refuse_a_class_for_each_image(found, files, "data")
    assert not refused(*names, labels="folder")


def test_a_table_lists_classes_with_their_images_and_shortens_long_lists(tmp_path):
    folder = ImageFolder(folder_of(tmp_path, "a_1.png", "a_2.png", "b_1.png"), 16, 3, "prefix")
    table = Classes(folder.classes.numbers, "here", counts={0: 2, 1: 1}).table.splitlines()
    assert table == ["2 classes (here):", "     0  a: 2 images", "     1  b: 1 image"]
    long = Classes.of(map(str, range(100, 300)), "here").table.splitlines()
    assert len(long) == 42 and long[-1].strip() == "... and 160 more, see labels.json"
    assert Classes.of(map(str, range(100, 300)), "").listed.endswith("11 111, ... (200 in all)")
