"""The run folders of commands that draw and measure images: nothing replaces another's results."""

import json
import re
import shutil

import numpy as np
import pytest
from support.cli import (
    TINY_MODEL,
    Killed,
    call,
    draw_images,
    picture,
    read_csv,
    snapshot,
    succeed,
    working_directory,
)

from guided_diffusion.data.image_formats import open_images
from guided_diffusion.runtime import partial_results
from guided_diffusion.sampling import new_images

SAMPLING = "--timestep_respacing 2 --device cpu --num_samples 3".split()
LOGS = {"args.json", "log.txt", "progress.csv"}


@pytest.fixture
def argv(runs, conditional, classifier):
    """The flags of each command, --out_dir excepted."""
    model = ["--model_path", runs.source, *SAMPLING]
    return {
        "image_sample": model,
        "classifier_sample": [*model, "--classifier_path", classifier],
        "image_nll": [*model, "--data_dir", runs.images],
    }


def digits(text):
    return re.sub(r"[0-9a-f]{8}", "X", text)


@pytest.mark.parametrize(
    ("command", "results"),
    [
        ("image_sample", {"samples_3x16x16x3.npz", "samples.png"}),
        ("classifier_sample", {"samples_3x16x16x3.npz", "samples.png"}),
        ("image_nll", {"vb_terms.npz", "xstart_mse_terms.npz", "mse_terms.npz"}),
    ],
)
def test_two_models_or_seeds_never_write_into_one_folder(runs, argv, tmp_path, command, results):
    with working_directory(tmp_path):
        for more in ([], ["--seed", 1], ["--model_path", runs.target]):
            succeed(command, *argv[command], *more)
    made = list((tmp_path / "results").iterdir())
    assert len(made) == 3 and len({path.name.rpartition("_")[0] for path in made}) == 1
    for folder in made:
        assert {path.name for path in folder.iterdir()} == results | LOGS
    before = snapshot(made[0].parent)
    record = json.loads((made[0] / "args.json").read_text())
    assert record["script"] == command and len(record["args"]["model.sha256"]) == 64
    assert record["resolved"]["precision"] == "fp32"

    # The same folder by name, for another seed or model.
    out = ["--out_dir", made[0]]
    mine = ["--seed", record["args"]["seed"], "--model_path", record["args"]["model_path"]]
    for more, text in (
        (["--seed", 7], "--seed was "),
        (["--num_samples", 2], "--num_samples was 3, is 2"),
        (["--model_path", runs.source / "model000004.pt"], "weights of the model have changed"),
        (["--timestep_respacing", 4], "--timestep_respacing of the model was '2', is '4'"),
    ):
        result = call(command, *argv[command], *mine, *more, *out)
        assert result.code == 2 and text in result.last and "holds a run of other" in result.last
    assert snapshot(made[0].parent) == before


@pytest.mark.parametrize("command", ["image_sample", "classifier_sample", "image_nll"])
def test_the_same_command_again_says_that_it_is_done(argv, tmp_path, monkeypatch, command):
    flags = [*argv[command], "--out_dir", tmp_path]
    succeed(command, *flags)
    kept = {path: content for path, content in snapshot(tmp_path).items() if path != "log.txt"}
    monkeypatch.setattr(partial_results, "fill", None)
    again = succeed(command, *flags, "--batch_size", 2)
    assert "already" in again.out
    changed = {name for name, content in snapshot(tmp_path).items() if kept.get(name) != content}
    assert changed <= {"log.txt", "args.json", "progress.csv"}


@pytest.mark.parametrize("command", ["image_sample", "image_nll"])
def test_results_of_an_older_version_are_not_replaced(argv, tmp_path, command):
    name = "samples_3x16x16x3.npz" if command == "image_sample" else "vb_terms.npz"
    (tmp_path / name).write_bytes(b"dear")
    result = call(command, *argv[command], "--out_dir", tmp_path)
    assert result.code == 2 and result.last.startswith(f"error: --out_dir: {tmp_path} holds {name}")
    assert snapshot(tmp_path) == {name: b"dear"}


def test_upstreams_log_folder_takes_a_training_and_its_samples(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_LOGDIR", str(tmp_path / "logs"))
    succeed("image_train", *runs.training, "--max_steps", 1, "--sample_interval", 0)
    model = ["--model_path", tmp_path / "logs" / "model000001.pt", *SAMPLING]
    for _ in range(2):
        succeed("image_sample", *model)
    (folder,) = (path.parent for path in tmp_path.glob("logs/*/samples_3x16x16x3.npz"))
    assert digits(folder.name) == "samples_X"
    record = json.loads((tmp_path / "logs" / "args.json").read_text())
    assert record["script"] == "image_train"
    other = call("image_sample", *model, "--seed", 1)
    assert other.code == 0 and len(list(tmp_path.glob("logs/samples_*/*.npz"))) == 2


def test_a_run_goes_on_where_it_moved_to_and_with_moved_weights(runs, tmp_path):
    weights = shutil.copytree(runs.source, tmp_path / "weights")
    flags = [*SAMPLING, "--out_dir", tmp_path / "out"]
    succeed("image_sample", "--model_path", runs.source, *flags)
    again = succeed("image_sample", "--model_path", weights / "ema_0.5_000008.pt", *flags)
    assert "is there already" in again.out


def test_an_unfinished_sampling_is_one_hidden_file_of_the_run_and_goes_away(
    argv, tmp_path, monkeypatch
):
    draw, flags = new_images.draw, [*argv["image_sample"], "--batch_size", 1]
    calls = []

    def killed(*args, **options):
        calls.append(args[2])
        if len(calls) == 3:
            raise Killed
        return draw(*args, **options)

    monkeypatch.setattr(new_images, "draw", killed)
    with pytest.raises(Killed):
        call("image_sample", *flags, "--out_dir", tmp_path)
    hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".samples")]
    assert hidden == [".samples_3x16x16x3.unfinished.npy"]
    succeed("image_sample", *flags, "--out_dir", tmp_path)
    assert calls == [[0], [1], [2], [2]]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".samples")]


def test_each_image_is_saved_as_a_picture_with_its_class_and_seed(conditional, tmp_path):
    flags = ["--model_path", conditional, *SAMPLING, "--seed", 5, "--out_dir", tmp_path]
    succeed("image_sample", *flags)
    assert not (tmp_path / "images").exists()
    succeed("image_sample", *flags, "--save_images")
    with np.load(tmp_path / "samples_3x16x16x3.npz") as file:
        images, labels = file["arr_0"], file["arr_1"]
    for index in range(3):
        assert np.array_equal(picture(tmp_path / "images" / f"{index:05d}.png"), images[index])
    assert read_csv(tmp_path / "labels.csv") == [
        {
            "file_name": f"images/{index:05d}.png",
            "class": str(label),
            "class_name": f"tile{label}",
            "index": str(index),
            "seed": "5",
        }
        for index, label in enumerate(labels)
    ]
    assert len(list((tmp_path / "images").iterdir())) == 3


def test_pictures_of_a_model_without_classes_have_empty_ones(runs, tmp_path):
    flags = ["--model_path", runs.source, *SAMPLING, "--save_images", "True"]
    succeed("image_sample", *flags, "--out_dir", tmp_path)
    rows = read_csv(tmp_path / "labels.csv")
    assert [(row["class"], row["class_name"], row["seed"]) for row in rows] == [("", "", "0")] * 3


@pytest.mark.parametrize("command", ["image_sample", "classifier_sample"])
@pytest.mark.parametrize("count", [10**9, 2**31 - 1])
def test_more_images_than_the_disk_holds_are_refused_before_anything(
    argv, tmp_path, command, count
):
    flags = [*argv[command], "--num_samples", count, "--out_dir", tmp_path / "out"]
    result = call(command, *flags)
    assert result.code == 2 and not (tmp_path / "out").exists()
    need = f"error: --num_samples: {count} images need "
    assert result.last.startswith(need) and " GB are free; ask for fewer, or" in result.last


SMALL = "--large_size 16 --small_size 8".split()


def test_enlarged_images_take_their_classes_by_the_models_record(runs, tmp_path):
    network = [*SMALL, *TINY_MODEL[2:], "--class_cond", "True", "--batch_size", 2]
    train = [*network, "--max_steps", 1, "--sample_interval", 0, "--device", "cpu"]
    succeed("super_res_train", *train, "--data_dir", runs.images, "--out_dir", tmp_path / "sr")
    base = draw_images(tmp_path / "base", 2, size=8)
    for index, path in enumerate(sorted(base.iterdir())):
        path.rename(base / f"tile1_{index}.png")
    flags = ["--model_path", tmp_path / "sr", *SAMPLING, "--base_samples", base, "--save_images"]
    for name, more, classes in (
        ("own", [], ["tile1"] * 3),
        ("asked", ["--classes", "tile0"], ["tile0"] * 3),
    ):
        succeed("super_res_sample", *flags, *more, "--out_dir", tmp_path / name)
        rows = read_csv(tmp_path / name / "labels.csv")
        assert [row["class_name"] for row in rows] == classes
    other = call("super_res_sample", *flags, "--seed", 1, "--out_dir", tmp_path / "own")
    assert other.code == 2 and "--seed was 0, is 1" in other.last
    for path in base.iterdir():
        path.rename(base / path.name.replace("tile1", "tumour"))
    other = call("super_res_sample", *flags, "--out_dir", tmp_path / "no")
    assert other.code == 2 and "--base_samples: expected images of the classes 0" in other.last
    succeed("super_res_sample", *flags, "--classes", "1", "--out_dir", tmp_path / "asked_only")


def test_help_marks_what_must_be_given_and_says_what_happens_without_classes():
    for command, required in {
        "image_sample": ["--model_path"],
        "classifier_sample": ["--model_path"],
        "super_res_sample": ["--model_path", "--base_samples"],
        "image_nll": ["--model_path", "--data_dir"],
        "image_train": ["--data_dir"],
    }.items():
        text = " ".join(call(command, "--help").out.split())
        for flag in required:
            (about,) = re.findall(rf"{flag} STR (.*?) --", text)
            assert "(required)" in about, about
        assert ("--classes STR" in text) == (command != "image_train")
        assert "labels.json" in text or command == "image_train"


def test_the_run_folder_of_samples_stands_for_them(runs, tmp_path):
    model = ["--model_path", runs.source, *SAMPLING, "--num_samples", 8, "--save_images"]
    succeed("image_sample", *model, "--out_dir", tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / "samples_8x16x16x3.npz"):
        source = open_images(path)
        assert len(source) == 8 and source.size == (16, 16) and source.name(2).endswith(".npz#2")
    real = draw_images(tmp_path / "real", 8)
    compared = succeed("evaluate", real, tmp_path / "run", "--bootstrap", 2)
    assert "samples_8x16x16x3.npz: 8 images, below" in compared.out
