"""Classes of own data, from training to sampling, as their user meets them."""

import json
import shutil

import numpy as np
import pytest
from support.cli import TINY_CLASSIFIER, call, draw_images, read_csv, snapshot, succeed

SHORT = "--max_steps 1 --sample_interval 0".split()
SAMPLING = "--timestep_respacing 2 --device cpu".split()


def classes_drawn(command, model, folder, *flags):
    """The classes that a command draws 12 images of."""
    succeed(
        command, "--model_path", model, *SAMPLING, "--num_samples", 12, "--out_dir", folder, *flags
    )
    with np.load(folder / "samples_12x16x16x3.npz") as file:
        return file["arr_1"].tolist()


def copied(run, folder):
    """The weights of a run, its args.json beside them, and no labels.json."""
    folder.mkdir()
    for name in ("args.json", "model000002.pt"):
        shutil.copy(run / name, folder)
    return folder


def of_one_class(folder, name="tile1", count=2):
    """Images of one class."""
    for index, path in enumerate(sorted(draw_images(folder, count).iterdir())):
        path.rename(folder / f"{name}_{index}.png")
    return folder


@pytest.mark.parametrize("command", ["image_sample", "classifier_sample"])
def test_images_are_drawn_of_the_recorded_classes(conditional, tmp_path, command):
    assert set(classes_drawn(command, conditional, tmp_path / "all")) == {0, 1}
    for text in ("tile1", "1"):
        assert set(classes_drawn(command, conditional, tmp_path / "one", "--classes", text)) == {1}


@pytest.mark.parametrize("command", ["image_sample", "classifier_sample"])
def test_without_a_record_all_numbers_are_drawn_and_the_log_says_so(conditional, tmp_path, command):
    bare = copied(conditional, tmp_path / "bare")
    drawn = classes_drawn(command, bare, tmp_path / "out")
    assert max(drawn) > 100 and len(set(drawn)) == 12
    flags = ["--model_path", bare, *SAMPLING, "--num_samples", 1, "--classes", "450"]
    result = succeed(command, *flags, "--out_dir", tmp_path / "one")
    assert f"no labels.json beside {bare}/model000002.pt; its classes are the numbers 0 to" in (
        result.out
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"tile0": 0, "tile1"', "labels.json: expected the classes of the weights beside it"),
        ('{"tile0": 0, "tile1": 1000}', "each number once and below 1000, got 'tile1' as 1000"),
        ('{"tile0": 0, "tile1": "1"}', "got 'tile1' as 1"),
    ],
)
@pytest.mark.parametrize("command", ["image_sample", "image_nll"])
def test_a_record_that_cannot_be_is_refused_in_a_line(
    conditional, runs, tmp_path, command, record, message
):
    broken = copied(conditional, tmp_path / "broken")
    (broken / "labels.json").write_text(record)
    data = ["--data_dir", runs.images] if command == "image_nll" else []
    flags = ["--model_path", broken, *SAMPLING, *data, "--out_dir", tmp_path / "out"]
    result = call(command, *flags)
    assert result.code == 2 and message in result.last and "Traceback" not in result.err
    assert len(result.err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_record_of_more_classes_than_a_classifier_tells_apart_is_refused(
    runs, classifier, tmp_path
):
    shutil.copytree(classifier, tmp_path / "three")
    record = json.dumps({"atypia": 0, "tile0": 1, "tile1": 2})
    (tmp_path / "three" / "labels.json").write_text(record)
    models = ["--model_path", runs.source, "--classifier_path", tmp_path / "three"]
    result = call("classifier_sample", *models, *SAMPLING, "--out_dir", tmp_path / "out")
    assert result.code == 2 and "number once and below 2, got 'tile1' as 2" in result.last


@pytest.mark.parametrize(
    ("model", "classes", "message"),
    [
        ("conditional", "2", "of the classes 0 tile0, 1 tile1 ({model}/labels.json), got '2'"),
        ("conditional", "tile0,tumour", "got 'tumour'"),
        ("unconditional", "0", "--classes: expected none, as the model knows no classes, got '0'"),
    ],
)
def test_classes_that_the_model_does_not_know_are_refused(
    runs, conditional, tmp_path, model, classes, message
):
    path = conditional if model == "conditional" else runs.source
    flags = ["--model_path", path, *SAMPLING, "--classes", classes, "--out_dir", tmp_path / "out"]
    result = call("image_sample", *flags)
    assert result.code == 2 and message.format(model=conditional) in result.last
    assert not (tmp_path / "out").exists()


def test_a_classifier_of_other_classes_is_refused_with_both_lists(runs, conditional, tmp_path):
    images = draw_images(tmp_path / "images", 6)
    for path in sorted(images.iterdir())[:2]:
        path.rename(images / f"atypia_{path.name}")
    flags = [*TINY_CLASSIFIER, "--num_classes", 3, "--iterations", 1, "--data_dir", images]
    succeed("classifier_train", *flags, "--out_dir", tmp_path / "three")
    models = ["--model_path", conditional, "--classifier_path", tmp_path / "three"]
    for command, more in {
        "classifier_sample": [],
        "imagenet_translation": ["--val_dir", runs.images, "--source", "0", "--target", "1"],
    }.items():
        result = call(command, *models, *SAMPLING, *more, "--out_dir", tmp_path / "out")
        assert result.code == 2 and result.last.startswith("error: --classifier_path: ")
        assert f"0 tile0, 1 tile1 ({conditional}/labels.json)" in result.last
        assert f"0 atypia, 1 tile0, 2 tile1 ({tmp_path}/three/labels.json)" in result.last
    assert not (tmp_path / "out").exists()


def test_a_folder_of_one_class_keeps_the_number_that_the_model_gave_it(conditional, tmp_path):
    images = of_one_class(tmp_path / "images")
    flags = ["--model_path", conditional, "--val_dir", images, *SAMPLING, "--classifier_path="]
    wrong = call("imagenet_translation", *flags, "--source", 0, "--target", 1)
    assert wrong.code == 2 and f"no image of class 0 in {images}, where 1 is tile1" in wrong.last
    right = ["--source", "tile1", "--target", "tile0", "--out_dir", tmp_path / "out"]
    succeed("imagenet_translation", *flags, *right)
    rows = read_csv(tmp_path / "out" / "translations.csv")
    assert [(row["source"], row["target"]) for row in rows] == [("1", "0")] * 2

    # The record of a version that had no crops at native scale stands for none.
    record = json.loads((tmp_path / "out" / "args.json").read_text())
    del record["args"]["crop"]
    (tmp_path / "out" / "args.json").write_text(json.dumps(record))
    other = call("imagenet_translation", *flags, *right, "--crop", "native")
    assert other.code == 2 and "--crop was 'fit', is 'native'" in other.last
    succeed("imagenet_translation", *flags, *right)


def test_other_classes_are_refused_by_whatever_takes_images(conditional, tmp_path):
    images = of_one_class(tmp_path / "images", "tumour")
    model = ["--model_path", conditional, *SAMPLING]
    both = ("0 tile0, 1 tile1 (", "found the classes tumour (")
    for command, flag in {"image_nll": "data_dir", "imagenet_translation": "val_dir"}.items():
        own = ["--classifier_path=", "--source", 0, "--target", 1] if flag == "val_dir" else []
        result = call(command, *model, f"--{flag}", images, *own, "--out_dir", tmp_path / "out")
        assert result.code == 2 and result.last.startswith(f"error: --{flag}: expected images of")
        assert all(text in result.last for text in both)


def test_bits_of_tumours_alone_are_those_of_the_class_of_tumours(conditional, tmp_path):
    images, bits = of_one_class(tmp_path / "images"), {}
    plain = of_one_class(tmp_path / "plain", "image")
    for name, data, flags in (
        ("own", images, []),
        ("asked", plain, ["--classes", "tile1"]),
        ("other", plain, ["--classes", "tile0"]),
    ):
        flags += ["--model_path", conditional, "--data_dir", data, *SAMPLING]
        succeed("image_nll", *flags, "--out_dir", tmp_path / name)
        bits[name] = read_csv(tmp_path / name / "progress.csv")[0]["bpd"]
    assert bits["own"] == bits["asked"] != bits["other"]
    result = call("image_nll", *flags, "--classes", "0,1", "--out_dir", tmp_path / "out")
    assert result.code == 2 and "--classes: expected one class for all images" in result.last


def test_labels_that_name_every_image_are_refused_and_nothing_is_written(runs, tmp_path):
    for index, path in enumerate(sorted(draw_images(tmp_path / "tiles", 6).iterdir())):
        path.rename(tmp_path / "tiles" / f"{index}.png")
    flags = [*runs.training, "--class_cond", "True", *SHORT, "--data_dir", tmp_path / "tiles"]
    for command, own in {
        "image_train": flags,
        "classifier_train": [*TINY_CLASSIFIER, "--data_dir", tmp_path / "tiles"],
    }.items():
        result = call(command, *own, "--out_dir", tmp_path / "run")
        assert result.code == 2 and "--labels: expected classes of several" in result.last
    assert not (tmp_path / "run").exists()


def test_a_training_that_begins_with_weights_takes_their_numbers(runs, conditional, tmp_path):
    flags = [*runs.training, "--class_cond", "True", *SHORT]
    one, other = of_one_class(tmp_path / "one"), of_one_class(tmp_path / "other", "tumour")
    run = tmp_path / "run"
    for begins in ("init_checkpoint", "resume_checkpoint"):
        begin = [*flags, f"--{begins}", conditional, "--max_steps", 3]
        result = succeed("image_train", *begin, "--data_dir", one, "--out_dir", run / begins)
        assert "1  tile1: 2 images" in result.out and "0  tile0: 0 images" in result.out
        assert (run / begins / "labels.json").read_text() == (
            conditional / "labels.json"
        ).read_text()
        refused = call("image_train", *begin, "--data_dir", other, "--out_dir", tmp_path / "no")
        assert refused.code == 2 and "0 tile0, 1 tile1 (" in refused.last
        assert "found the classes tumour (" in refused.last and not (tmp_path / "no").exists()
    again = [*flags, "--init_checkpoint", conditional, "--data_dir", one, "--max_steps", 4]
    succeed("image_train", *again, "--out_dir", run / "init_checkpoint")


def test_a_run_goes_on_with_its_classes_alone(runs, tmp_path):
    images = draw_images(tmp_path / "images", 4)
    flags = [*runs.training, "--class_cond", "True", *SHORT, "--data_dir", images]
    succeed("image_train", *flags, "--out_dir", tmp_path / "run")
    before = snapshot(tmp_path / "run")
    lost = [path.rename(tmp_path / path.name) for path in images.glob("tile0_*")]
    result = call("image_train", *flags, "--max_steps", 2, "--out_dir", tmp_path / "run")
    assert result.code == 2 and "0 tile0, 1 tile1; found tile1" in result.last
    for path in lost:
        path.rename(images / path.name.replace("tile0", "apple"))
    result = call("image_train", *flags, "--max_steps", 2, "--out_dir", tmp_path / "run")
    assert result.code == 2 and "found the classes apple, tile1" in result.last
    assert snapshot(tmp_path / "run") == before


def test_grids_of_a_training_show_its_classes(runs, tmp_path):
    flags = [*runs.training, "--class_cond", "True", "--max_steps", 1, "--save_interval", 1]
    result = succeed("image_train", *flags, "--out_dir", tmp_path)
    assert "tiles in rows from the top: 8 of 0 tile0, 8 of 1 tile1" in result.out


def test_an_npz_with_classes_is_trained_on_by_its_numbers(runs, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images, np.array([3, 0, 3, 0, 3, 3]))
    flags = [*runs.training, "--class_cond", "True", *SHORT, "--data_dir", tmp_path / "data.npz"]
    result = succeed("image_train", *flags, "--out_dir", tmp_path / "run")
    assert "3  3: 4 images" in result.out
    assert json.loads((tmp_path / "run" / "labels.json").read_text()) == {"0": 0, "3": 3}
    assert set(classes_drawn("image_sample", tmp_path / "run", tmp_path / "out")) == {0, 3}
    np.savez(tmp_path / "bare.npz", images)
    result = call("image_train", *flags[:-1], tmp_path / "bare.npz", "--out_dir", tmp_path / "no")
    assert result.code == 2 and "--data_dir: expected as arr_1 a class of 0 to 999" in result.last


def test_a_converted_checkpoint_keeps_its_classes(conditional, tmp_path):
    output = tmp_path / "half" / "model.pt"
    flags = ["--model_path", conditional, "--output", output, "--dtype", "float16"]
    succeed("convert_checkpoint", *flags)
    assert json.loads((output.parent / "labels.json").read_text()) == {"tile0": 0, "tile1": 1}
    assert set(classes_drawn("image_sample", output, tmp_path / "out")) == {0, 1}
    (output.parent / "labels.json").write_text('{"a": 0, "b": 1}')
    result = call("convert_checkpoint", *flags)
    assert result.code == 2 and "names the classes of another network" in result.last


def test_a_classifier_without_a_record_is_taken_for_the_models_classes_aloud(
    conditional, classifier, tmp_path
):
    bare = shutil.copytree(classifier, tmp_path / "bare")
    (bare / "labels.json").unlink()
    flags = ["--model_path", conditional, "--classifier_path", bare, *SAMPLING, "--num_samples", 1]
    result = succeed("classifier_sample", *flags, "--out_dir", tmp_path / "out")
    line = "the classes of bare have no names; they are taken for 0 tile0, 1 tile1"
    assert line in result.out and "its classes are the numbers 0 to 1" in result.out


def test_images_of_a_model_without_a_record_are_numbered_in_order_aloud(conditional, tmp_path):
    bare, images = copied(conditional, tmp_path / "bare"), of_one_class(tmp_path / "images")
    flags = ["--model_path", bare, "--data_dir", images, *SAMPLING, "--out_dir", tmp_path / "out"]
    result = succeed("image_nll", *flags)
    text = f"1 classes (file name up to its first _, in {images}):\n     0  tile1: 2 images"
    assert text in result.out


def test_more_classes_than_a_network_has_are_refused_with_the_ways_to_label(runs, tmp_path):
    (first, *_) = sorted(runs.images.iterdir())
    (tmp_path / "tiles").mkdir()
    for index in range(1001):
        (tmp_path / "tiles" / f"{index}_0.png").hardlink_to(first)
    flags = [*runs.training, "--class_cond", "True", *SHORT, "--data_dir", tmp_path / "tiles"]
    result = call("image_train", *flags, "--out_dir", tmp_path / "run")
    assert result.code == 2 and result.last.startswith("error: --labels: expected at most 1000")
    assert "found 1001" in result.last and "--labels folder" in result.last


def test_a_folder_of_one_class_alone_is_named_a_class_by_its_flag(conditional, tmp_path):
    flat = draw_images(tmp_path / "flat", 3)
    for index, path in enumerate(sorted(flat.iterdir())):
        path.rename(flat / f"GT-{index}.png")
    flags = ["--model_path", conditional, "--data_dir", flat, "--timestep_respacing", 2]
    flags += ["--device", "cpu", "--out_dir", tmp_path / "out"]
    result = call("image_nll", *flags)
    assert result.code == 2 and result.last.count("0 tile0, 1 tile1") == 1
    assert result.last.endswith("; or take all images for one class, by --classes")
    out = succeed("image_nll", *flags, "--classes", "tile1").out
    assert "1  tile1: 3 images" in out and "nan" not in out
    by_folder = copied(conditional, tmp_path / "by_folder")
    shutil.copy(conditional / "labels.json", by_folder)
    record = json.loads((by_folder / "args.json").read_text())
    record["args"]["labels"] = "folder"
    (by_folder / "args.json").write_text(json.dumps(record))
    result = call("image_nll", *flags, "--model_path", by_folder)
    assert result.code == 2 and "--labels:" not in result.last
    assert "give the folder that holds a folder for each class; or take all" in result.last


def test_two_classes_at_most_are_told_as_two(conditional, tmp_path):
    for name in ("a", "b", "c"):
        of_one_class(tmp_path / "images" / name, name)
    flags = [*TINY_CLASSIFIER, "--data_dir", tmp_path / "images", "--out_dir", tmp_path / "out"]
    found = call("classifier_train", *flags).last
    assert "--data_dir: expected 2 classes (--num_classes), found 3: 0 a, 1 b, 2 c" in found


def test_patients_in_the_place_of_classes_are_suspected_aloud(runs, tmp_path):
    for name in ("pat1", "pat2", "pat3"):
        of_one_class(tmp_path / "images" / name, name)
    flags = [*runs.training, "--class_cond", True, "--max_steps", 1, "--sample_interval", 0]
    flags += ["--data_dir", tmp_path / "images", "--out_dir", tmp_path / "out"]
    assert "only 2 images a class: if these are patients or" in succeed("image_train", *flags).out


def test_sampling_without_a_classifier_says_that_nothing_guides_it(conditional, tmp_path):
    flags = ["--model_path", conditional, *SAMPLING, "--num_samples", 1, "--out_dir", tmp_path]
    out = succeed("classifier_sample", *flags).out
    assert out.count("no --classifier_path: images are made without guidance") == 1
