"""Translation between classes: which images, and `imagenet_translation.py` as a user runs it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.cli import call, draw_images, grey_levels_apart, picture, read_csv, snapshot, succeed

from guided_diffusion.errors import UserError
from guided_diffusion.translation import class_translation
from guided_diffusion.translation.class_translation import list_translations, read_label_map

ALONE = ["--classifier_path=", "--timestep_respacing", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two images of class tile0 and two of tile1, in one folder."""
    return draw_images(tmp_path_factory.mktemp("images"), 4)


@pytest.fixture
def folders(images, tmp_path):
    """The same images in a folder for each class."""
    for name, index in (("cat", 0), ("cat", 2), ("dog", 1), ("dog", 3)):
        (tmp_path / "val" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(images / f"tile{index % 2}_00{index}.png", tmp_path / "val" / name)
    return tmp_path / "val"


def listed(*args, **options):
    return [(i.index, i.source, i.target, i.file_name) for i in list_translations(*args, **options)]


def test_classes_are_numbered_by_the_names_of_files(images):
    assert listed(str(images), "0,1", "1,0") == [
        (0, 0, 1, "0_to_1/tile0_000.png"),
        (1, 0, 1, "0_to_1/tile0_002.png"),
        (2, 1, 0, "1_to_0/tile1_001.png"),
        (3, 1, 0, "1_to_0/tile1_003.png"),
    ]


def test_classes_are_numbered_by_folders_where_all_images_lie_in_one(folders):
    names = ["1_to_5/dog/tile1_001.png", "1_to_5/dog/tile1_003.png"]
    assert listed(str(folders), "1", "5") == [(0, 1, 5, names[0]), (1, 1, 5, names[1])]
    assert len(listed(str(folders), "1", "5", num_images=1)) == 1
    shutil.copy(folders / "dog" / "tile1_001.png", folders / "ape_9.png")
    assert listed(str(folders), "0", "1") == [(0, 0, 1, "0_to_1/ape_9.png")]


def test_fewer_images_of_a_class_than_asked_for_are_logged(folders, recorder):
    assert len(listed(str(folders), "1", "5", num_images=2)) == 2 and not recorder.lines
    assert len(listed(str(folders), "1", "5", num_images=3)) == 2
    assert recorder.text == (
        f"--num_images 3: there are only 2 in {folders} of class 1, all are used"
    )


def test_a_label_map_numbers_classes_or_single_images(folders, tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("dog 260\ncat 261\n\ntile1_003.png 7\n")
    assert [i[3] for i in listed(str(folders), "260", "261", str(path))] == [
        "260_to_261/dog/tile1_001.png"
    ]
    assert [i[3] for i in listed(str(folders), "7", "0", str(path))] == ["7_to_0/dog/tile1_003.png"]


def test_a_label_map_without_numbers_numbers_its_lines(tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\nn01484850\n")
    assert read_label_map(path) == {"n01440764": 0, "n01443537": 1, "n01484850": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a line in .*, got nothing"),
        ("a 1\nb x\n", "a line in .*, got no number in 'b'"),
        (f"a 1\nb {'9' * 5000}\n", "a line in .*, got no number in 'b'"),
        ("a 1\nb 1\na 2\n", "a line in .*, got 1 and 2 for 'a'"),
    ],
)
def test_a_label_map_of_something_else_is_refused(tmp_path, content, message):
    (tmp_path / "map.txt").write_text(content)
    with pytest.raises(UserError, match="label_map: expected a NAME and a NUMBER " + message):
        read_label_map(tmp_path / "map.txt")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("0,1", "1", "target: expected a class for each of the 2 of --source, got 1"),
        ("0,x", "1,0", "source: expected numbers with commas between, got '0,x'"),
        ("3", "1", "source: no image of class 3 in .*, where 0 is tile0, 1 is tile1; --label"),
    ],
)
def test_pairs_that_cannot_be_are_refused(images, source, target, message):
    with pytest.raises(UserError, match=message):
        list_translations(str(images), source, target)


def test_a_pair_asked_twice_is_made_once(images):
    assert len(listed(str(images), "0,0", "1,1")) == 2


def test_images_that_would_overwrite_one_another_are_refused(images, tmp_path):
    for name in ("a_1.png", "a_1.jpg"):
        shutil.copy(images / "tile0_000.png", tmp_path / name)
    with pytest.raises(UserError, match="val_dir: expected images of different names, got .*a_1"):
        list_translations(str(tmp_path), "0", "0")


def translate(model, images, out_dir, *flags):
    where = ["--model_path", model, "--val_dir", images, "--out_dir", out_dir]
    succeed("imagenet_translation", *where, *ALONE, "--source", "0,1", "--target", "1,0", *flags)
    return {path.name: picture(path) for path in out_dir.glob("*_to_*/*.png")}


def apart(one, other):
    assert one.keys() == other.keys()
    return max(grey_levels_apart(one[name], other[name]) for name in one)


def test_a_run_holds_an_image_for_each_a_list_and_pairs(conditional, images, tmp_path):
    translate(conditional, images, tmp_path / "run", "--precision", "auto")
    names = snapshot(tmp_path / "run").keys()
    results = {
        "0_to_1/tile0_000.png",
        "0_to_1/tile0_002.png",
        "1_to_0/tile1_001.png",
        "1_to_0/tile1_003.png",
    }
    others = {"args.json", "log.txt", "progress.csv", "translations.csv", "pairs.png"}
    assert names == results | others
    record = json.loads((tmp_path / "run" / "args.json").read_text())
    assert record["args"]["precision"] == "auto"
    assert record["resolved"]["precision"] in ("fp32", "bf16")
    rows = read_csv(tmp_path / "run" / "translations.csv")
    assert [row["file_name"] for row in rows] == sorted(results)
    assert rows[2] == {
        "file_name": "1_to_0/tile1_001.png",
        "source": "1",
        "target": "0",
        "source_file": str(images / "tile1_001.png"),
    }
    pairs = picture(tmp_path / "run" / "pairs.png")
    first = picture(tmp_path / "run" / "0_to_1" / "tile0_000.png")
    assert np.array_equal(pairs[2:18, 2:18], picture(images / "tile0_000.png"))
    assert np.array_equal(pairs[2:18, 20:36], first)


@pytest.mark.parametrize("flags", [[], ["--eta", "0.7"]])
def test_images_do_not_depend_on_the_batch_size(conditional, images, tmp_path, flags):
    one = translate(conditional, images, tmp_path / "one", "--batch_size", 1, *flags)
    three = translate(conditional, images, tmp_path / "three", "--batch_size", 3, *flags)
    assert apart(one, three) <= 1


def test_running_again_makes_what_is_missing(conditional, images, tmp_path):
    whole = translate(conditional, images, tmp_path / "run")
    kept = tmp_path / "run" / "0_to_1" / "tile0_000.png"
    lost = tmp_path / "run" / "1_to_0" / "tile1_003.png"
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    assert apart(translate(conditional, images, tmp_path / "run"), whole) <= 1
    assert kept.stat().st_mtime_ns == stamp and lost.exists()


def test_results_that_are_damaged_or_lost_are_made_again(
    conditional, images, tmp_path, monkeypatch
):
    translate(conditional, images, folder := tmp_path / "run")
    before = snapshot(folder)
    first, second, _, fourth = sorted(folder.glob("*_to_*/*.png"))
    shutil.copy(first, fourth)  # a picture of another class
    first.write_bytes(first.read_bytes()[:-7])
    shutil.copy(folder / "pairs.png", second)
    save = class_translation.save

    def losing(place, item, image):
        save(place, item, image)
        if item.index and first.exists():
            monkeypatch.setattr(class_translation, "save", save)
            first.unlink()

    monkeypatch.setattr(class_translation, "save", losing)
    translate(conditional, images, folder)
    after = snapshot(folder)
    logs = {"log.txt", "progress.csv", "progress.json", "progress.jsonl"}
    assert {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)} <= logs


def test_results_that_vanish_again_and_again_end_in_exit_code_3(
    conditional, images, tmp_path, monkeypatch
):
    save = class_translation.save

    def losing(place, item, image):
        save(place, item, image)
        if item.index == 1:
            (place / item.file_name).unlink()

    monkeypatch.setattr(class_translation, "save", losing)
    where = ["--model_path", conditional, "--val_dir", images, "--out_dir", tmp_path / "run"]
    classes = ["--source", "0,1", "--target", "1,0"]
    result = call("imagenet_translation", *where, *ALONE, *classes)
    assert result.code == 3 and result.err.count("incomplete, 1 results vanished") == 1
    assert not (tmp_path / "run" / "translations.csv").exists()


def test_a_run_of_an_older_version_is_continued(conditional, images, tmp_path):
    translate(conditional, images, folder := tmp_path / "run")
    record = json.loads((folder / "args.json").read_text())
    del record["resolved"]["pictures"]
    (folder / "args.json").write_text(json.dumps(record))
    paths = sorted(folder.glob("*_to_*/*.png"))
    for path in paths:
        Image.fromarray(picture(path)).save(path)  # without text and seal
    before = {path: path.read_bytes() for path in paths}
    paths[0].write_bytes(before[paths[0]][:-30])
    translate(conditional, images, folder)
    assert {path for path in paths if path.read_bytes() != before[path]} == {paths[0]}


def test_target_eta_and_classifier_change_the_images(conditional, classifier, images, tmp_path):
    base = translate(conditional, images, tmp_path / "base")
    back = translate(conditional, images, tmp_path / "back", "--target", "0,1")
    noisy = translate(conditional, images, tmp_path / "noisy", "--eta", "1")
    guided = translate(
        conditional,
        images,
        tmp_path / "guided",
        "--classifier_path",
        classifier,
        "--classifier_scale",
        30,
    )
    assert apart(base, back) > 0 and apart(base, noisy) > 10 and apart(base, guided) > 10


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--model_path {unconditional} --classifier_path {classifier}",
            "expected a class-conditional model (--class_cond True)",
        ),
        ("--model_path {unconditional}", "or a class-conditional --model_path; "),
        (
            "--target 1,1000",
            "target: expected names or numbers with commas between, of the classes 0",
        ),
        (
            "--classifier_path {classifier} --target 1,x",
            "0 tile0, 1 tile1 ({run}/labels.json), got 'x'",
        ),
        ("--classifier_path {classifier} --out_channels 7", "knows 2 classes, got 7"),
        (
            "--classifier_path nowhere",
            "--classifier_path: nowhere: expected a checkpoint or a training run folder, found "
            "nothing; an empty path: no guidance",
        ),
        ("--val_dir nowhere", "val_dir: expected a folder of images, got 'nowhere'"),
        ("--label_map nowhere", "label_map: expected a text file, got nowhere"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_nothing_is_written(
    runs, conditional, classifier, images, tmp_path, flags, message
):
    right = [
        "--model_path",
        conditional,
        "--val_dir",
        images,
        "--out_dir",
        tmp_path / "out",
        *ALONE,
        "--source",
        "0,1",
        "--target",
        "1,0",
    ]
    words = [w.format(unconditional=runs.source, classifier=classifier) for w in flags.split()]
    result = call("imagenet_translation", *right, *words)
    assert result.code == 2 and message.format(run=conditional) in result.last, result.err
    assert not (tmp_path / "out").exists()
