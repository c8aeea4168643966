"""`image_sample.py` as a user runs it: upstream's .npz, whatever the batch size."""

import shutil

import numpy as np
import pytest
from support.cli import TINY_MODEL, call, grey_levels_apart, succeed, working_directory

SAMPLING = "--num_samples 4 --timestep_respacing 8 --device cpu".split()
SAMPLERS = {"ancestral": [], "ddim": ["--use_ddim", "True"]}


def draw(model, out_dir, *flags):
    """The arrays of a run of 4 images of 16 pixels."""
    succeed("image_sample", "--model_path", model, *SAMPLING, "--out_dir", out_dir, *flags)
    with np.load(out_dir / "samples_4x16x16x3.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_are_upstreams_npz_and_do_not_depend_on_the_batch_size(runs, tmp_path, sampler):
    drawn = [
        draw(runs.source, tmp_path / str(size), "--batch_size", size, *SAMPLERS[sampler])
        for size in (1, 3)
    ]
    for arrays in drawn:
        assert arrays.keys() == {"arr_0"}
        assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].shape == (4, 16, 16, 3)
    assert grey_levels_apart(drawn[0]["arr_0"], drawn[1]["arr_0"]) <= 1
    assert all(image.std() > 5 for image in drawn[0]["arr_0"])
    assert grey_levels_apart(drawn[0]["arr_0"][0], drawn[0]["arr_0"][1]) > 20
    names = {path.name for path in (tmp_path / "1").iterdir()}
    logs = {"args.json", "log.txt", "progress.csv"}
    assert names == {"samples_4x16x16x3.npz", "samples.png"} | logs


def test_seed_sampler_and_model_each_change_the_images(runs, tmp_path):
    base = draw(runs.source, tmp_path / "base")["arr_0"]
    others = {
        "seed": draw(runs.source, tmp_path / "seed", "--seed", 1),
        "ddim": draw(runs.source, tmp_path / "ddim", "--use_ddim", "True"),
        "target": draw(runs.target, tmp_path / "target"),
        "variance": draw(runs.source, tmp_path / "small", "--sigma_small", "True"),
    }
    for name, arrays in others.items():
        assert grey_levels_apart(base, arrays["arr_0"]) > 20, name
    assert np.array_equal(draw(runs.source, tmp_path / "again")["arr_0"], base)


def test_a_chosen_set_of_defaults_is_for_models_without_a_record(runs, tmp_path):
    (tmp_path / "bare").mkdir()
    bare = shutil.copy(runs.source / "model000008.pt", tmp_path / "bare" / "model.pt")
    recorded = runs.source / "model000008.pt"
    base = draw(recorded, tmp_path / "a")["arr_0"]
    chosen = "--defaults", "improved"
    assert np.array_equal(draw(recorded, tmp_path / "b", *chosen)["arr_0"], base)
    assert np.array_equal(draw(bare, tmp_path / "c", *TINY_MODEL)["arr_0"], base)
    rescaled = draw(bare, tmp_path / "d", *TINY_MODEL, *chosen)["arr_0"]
    assert grey_levels_apart(rescaled, base) > 2
    given = *chosen, "--rescale_timesteps", "False"
    assert np.array_equal(draw(bare, tmp_path / "e", *TINY_MODEL, *given)["arr_0"], base)


def test_the_first_images_do_not_depend_on_how_many_are_drawn(runs, tmp_path):
    four = draw(runs.source, tmp_path / "four")["arr_0"]
    two = ["--model_path", runs.source, *SAMPLING, "--num_samples", 2, "--out_dir", tmp_path]
    succeed("image_sample", *two)
    with np.load(tmp_path / "samples_2x16x16x3.npz") as file:
        assert grey_levels_apart(file["arr_0"], four[:2]) <= 1


def test_a_class_conditional_model_adds_a_label_per_image(conditional, tmp_path):
    drawn = [draw(conditional, tmp_path / str(n), "--batch_size", n) for n in (1, 3)]
    for arrays in drawn:
        assert arrays.keys() == {"arr_0", "arr_1"}
        assert arrays["arr_1"].shape == (4,) and arrays["arr_1"].dtype.kind == "i"
        assert set(arrays["arr_1"].tolist()) == {0, 1}  # the training's, of 1000 that could be
    assert np.array_equal(drawn[0]["arr_1"], drawn[1]["arr_1"])
    assert len(set(drawn[0]["arr_1"].tolist())) > 1
    assert grey_levels_apart(drawn[0]["arr_0"], drawn[1]["arr_0"]) <= 1


def test_a_run_folder_stands_for_its_newest_averaged_weights(runs, tmp_path):
    folder = draw(runs.source, tmp_path / "folder")["arr_0"]
    newest = draw(runs.source / "ema_0.5_000008.pt", tmp_path / "newest")["arr_0"]
    plain = draw(runs.source / "model000008.pt", tmp_path / "plain")["arr_0"]
    assert np.array_equal(folder, newest)
    assert grey_levels_apart(folder, plain) > 1


def test_a_checkpoint_alone_needs_its_flags_on_the_command_line(runs, tmp_path):
    alone = tmp_path / "alone.pt"
    shutil.copy(runs.source / "ema_0.5_000008.pt", alone)
    out_dir = tmp_path / "out"
    refused = call("image_sample", "--model_path", alone, *SAMPLING, "--out_dir", out_dir)
    assert refused.code == 2 and "check --num_channels" in refused.last
    assert "no args.json beside it" in refused.out and not out_dir.exists()
    expected = draw(runs.source, tmp_path / "beside")["arr_0"]
    assert np.array_equal(draw(alone, out_dir, *TINY_MODEL)["arr_0"], expected)


@pytest.mark.parametrize(
    ("variable", "place"), [(None, "results/samples_????????"), ("logs", "logs")]
)
def test_without_a_folder_images_go_to_results_or_upstreams_log_folder(
    runs, tmp_path, monkeypatch, variable, place
):
    if variable:
        monkeypatch.setenv("OPENAI_LOGDIR", variable)
    with working_directory(tmp_path):
        succeed("image_sample", "--model_path", runs.source, *SAMPLING, "--num_samples", 1)
    assert len(list(tmp_path.glob(f"{place}/samples_1x16x16x3.npz"))) == 1
