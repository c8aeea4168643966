"""`evaluate` of run folders: generated images count, source tiles and contact sheets do not."""

import json
import shutil

import numpy as np
import pytest
from support.cli import SEQUENCES, call, draw_images, succeed

FAST = "--features small --bootstrap 0 --device cpu".split()


@pytest.fixture(scope="module")
def place(runs, tmp_path_factory):
    """A reference, a generation of six sequences of four images, and one in both directions."""
    place = tmp_path_factory.mktemp("runs")
    draw_images(place / "reference", 12)
    tiles = draw_images(place / "tiles", 6)
    flags = [*runs.sequences, "--data_dir", tiles, "--num_images", 0, "--amount", 4]
    succeed(SEQUENCES, *flags, "--out_dir", place / "run")
    both = ["--bidirectional", "True", "--target_data_dir", tiles]
    succeed(SEQUENCES, *flags, *both, "--out_dir", place / "both")
    model = ["--model_path", runs.target, "--timestep_respacing", 4, "--device", "cpu"]
    drawing = ["--num_samples", 9, "--save_images", "True", "--out_dir", place / "samples"]
    succeed("image_sample", *model, *drawing)
    return place


def report(place, samples, *flags, reference="reference"):
    out = place / "report.json"
    two = place / reference, place / samples
    result = succeed("evaluate", *two, *FAST, "--out", out, *flags)
    return json.loads(out.read_text()), result.out


@pytest.mark.parametrize(
    "name", ["run", "run/translation_0_1", "run/translation_0_1/images", "both/translation_1_0"]
)
def test_generated_images_count_alone(place, name):
    found, table = report(place, name)
    assert found["samples"]["n"] == 24
    assert "N = 24 (steps 1, 2, 3, 4 of 6 sequences)" in table


@pytest.mark.parametrize(("steps", "count"), [("2,4", 12), ("1,2,3,4", 24), ("0,3", 12)])
def test_steps_are_chosen(place, steps, count):
    found, table = report(place, "run", "--steps", steps)
    assert found["samples"]["n"] == count and found["reference"]["n"] == 12
    assert f"steps {steps.replace(',', ', ')} of 6 sequences" in table


def test_the_chosen_images_are_those_of_the_steps(place, tmp_path):
    target = np.load(place / "run/translation_0_1/target.npy")[:, [1, 3]]
    images = np.moveaxis(target.reshape(-1, *target.shape[2:]), 1, -1)
    np.savez(place / "steps.npz", images)
    chosen = report(place, "run", "--steps", "2,4")[0]["metrics"]
    for name, result in report(place, "steps.npz")[0]["metrics"].items():
        assert result["value"] == pytest.approx(chosen[name]["value"], rel=1e-6, abs=1e-12)


def test_a_generation_may_be_the_reference(place):
    found, _ = report(place, "reference", reference="run")
    assert (found["reference"]["n"], found["samples"]["n"]) == (24, 12)
    found, _ = report(place, "run", "--steps", "2,3", reference="run")
    assert (found["reference"]["n"], found["samples"]["n"]) == (12, 12)


def test_samples_of_a_run_folder_count_once(place):
    assert report(place, "samples")[0]["samples"]["n"] == 9
    assert report(place, "samples/images")[0]["samples"]["n"] == 9


def refusal(place, samples, *flags):
    result = call("evaluate", place / "reference", samples, *FAST, *flags)
    assert result.code == 2 and result.err.count("\n") == 1
    return result.last


@pytest.mark.parametrize("file", ["manifest.part000.csv", "target.npy.partial"])
def test_an_unfinished_generation_is_refused(place, tmp_path, file):
    folder = shutil.copytree(place / "run", tmp_path / "run")
    (folder / "translation_0_1" / file).touch()
    message = refusal(place, folder)
    assert "SAMPLES: expected a finished generation" in message
    assert file in message and message.endswith("give its command again to complete it")


def test_pictures_that_are_gone_are_named(place, tmp_path):
    folder = shutil.copytree(place / "run", tmp_path / "run")
    (folder / "translation_0_1/images/00003/02.png").unlink()
    assert "images/00003/02.png is gone" in refusal(place, folder)
    shutil.rmtree(folder / "translation_0_1")
    assert "expected a finished generation" in refusal(place, folder)


def test_mistakes_are_told(runs, place):
    assert "translation_0_1, translation_1_0; name one" in refusal(place, place / "both")
    wrong = refusal(place, place / "run", "--steps", "5")
    assert "--steps: expected some of the steps 0 to 4 of" in wrong
    assert "--steps: expected a folder of gen" in refusal(place, place / "tiles", "--steps", "1")
    assert "--steps: expected numbers" in refusal(place, place / "run", "--steps", "a")
    assert "the run folder of image_train" in refusal(place, runs.source)


def test_a_folder_with_a_foreign_manifest_is_a_plain_folder(place, tmp_path):
    folder = shutil.copytree(place / "reference", tmp_path / "plain")
    (folder / "manifest.csv").write_text("file_name,label\nx.png,1\n")
    (folder / "args.json").write_text("[1, 2]")
    assert report(place, folder)[0]["samples"]["n"] == 12
