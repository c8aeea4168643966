"""`image_nll.py` as a user runs it: upstream's files, whatever the batch size and the ranks."""

import re

import numpy as np
import pytest
from PIL import Image
from support.cli import (
    Killed,
    call,
    draw_images,
    load_script,
    read_csv,
    snapshot,
    succeed,
)
from support.gaussian_oracle import GaussianOracle, bound
from support.toy_domains import domain

from guided_diffusion.sampling import likelihood

NLL = "image_nll"
TERMS = ("vb", "xstart_mse", "mse")
LINE = re.compile(r"(\d+) of (\d+) images: (\S+) bits per dimension(?:, standard error (\S+))?")


@pytest.fixture(scope="module")
def good(runs):
    """Flags that are right, --out_dir excepted."""
    short = "--timestep_respacing 8 --device cpu".split()
    return ["--model_path", runs.source, "--data_dir", runs.images, *short]


@pytest.fixture(scope="module")
def measured(good, tmp_path_factory):
    """A run over all images, one by one."""
    folder = tmp_path_factory.mktemp("nll")
    succeed(NLL, *good, "--out_dir", folder)
    return folder


def terms(folder):
    """The .npz files of a run."""
    found = {}
    for name in TERMS:
        with np.load(folder / f"{name}_terms.npz", allow_pickle=False) as file:
            assert file.files == ["arr_0"]
            found[name] = file["arr_0"]
    return found


def total(folder):
    (row,) = read_csv(folder / "progress.csv")
    return {name: float(value) for name, value in row.items()}


def lines(text):
    return [tuple(map(float, found.groups("nan"))) for found in LINE.finditer(text)]


def assert_same(one, other):
    for name, values in terms(one).items():
        np.testing.assert_allclose(values, terms(other)[name], rtol=1e-4, atol=1e-7)
    assert total(one) == pytest.approx(total(other), rel=1e-4)


def test_the_terms_of_each_timestep_are_saved_and_their_sum_is_the_total(measured):
    names = {path.name for path in measured.iterdir()}
    assert names == {
        *(f"{name}_terms.npz" for name in TERMS),
        "log.txt",
        "progress.csv",
        "args.json",
    }
    found, row = terms(measured), total(measured)
    assert all(values.shape == (8,) for values in found.values())
    assert row["images"] == 5 and row["bpd_error"] > 0
    assert row["bpd"] == pytest.approx(found["vb"].sum() + row["prior_bpd"], rel=1e-5)
    assert (found["vb"] > 0).all()
    assert found["xstart_mse"][0] > 10 * found["xstart_mse"][-1]  # the noisiest comes first


def test_the_mean_so_far_is_logged_and_ends_at_the_total(measured):
    logged = lines((measured / "log.txt").read_text())
    assert [line[:2] for line in logged] == [(n, 5) for n in range(1, 6)]
    assert np.isnan(logged[0][3])
    row = total(measured)
    assert logged[-1][2:] == (round(row["bpd"], 4), round(row["bpd_error"], 4))
    singles = np.diff([0] + [line[0] * line[2] for line in logged])
    assert row["bpd_error"] == pytest.approx(singles.std(ddof=1) / np.sqrt(5), rel=0.01)


def test_nothing_depends_on_the_batch_size_and_all_on_the_seed(good, measured, tmp_path):
    succeed(NLL, *good, "--out_dir", tmp_path / "three", "--batch_size", 3)
    assert_same(tmp_path / "three", measured)
    succeed(NLL, *good, "--out_dir", tmp_path / "seed", "--seed", 1)
    assert not np.allclose(terms(tmp_path / "seed")["mse"], terms(measured)["mse"], rtol=1e-3)


def test_num_samples_takes_the_first_images_by_name(good, measured, tmp_path):
    result = succeed(NLL, *good, "--out_dir", tmp_path, "--num_samples", 2)
    second = lines((measured / "log.txt").read_text())[1]
    assert lines(result.out)[-1] == (2, 2, *second[2:])


def test_a_stopped_run_is_continued_by_the_same_command(good, measured, tmp_path, monkeypatch):
    measure, asked = likelihood.measure, []

    def stops(domain, images, indices, *how):
        if len(asked) == 2:
            raise Killed
        asked.append(list(indices))
        return measure(domain, images, indices, *how)

    monkeypatch.setattr(likelihood, "measure", stops)
    with pytest.raises(Killed):
        call(NLL, *good, "--out_dir", tmp_path)
    assert not (tmp_path / "vb_terms.npz").exists()
    monkeypatch.setattr(likelihood, "measure", measure)
    again = succeed(NLL, *good, "--out_dir", tmp_path)
    assert "2 of 5 images are there from an earlier run" in again.out
    assert [line[0] for line in lines(again.out)] == [3, 4, 5]
    for name, values in terms(tmp_path).items():
        assert np.array_equal(values, terms(measured)[name])


@pytest.mark.parametrize("launcher", ["mpiexec", "torchrun"])
def test_two_ranks_measure_what_one_does(two_ranks, launcher, good, measured, tmp_path):
    flags = [*good, "--batch_size", 2, "--out_dir", tmp_path]
    result = two_ranks.run(launcher, NLL, *flags)
    assert result.code == 0, result.err
    assert_same(tmp_path, measured)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in measured.iterdir()} | {"log-rank001.txt"}


def test_labels_of_file_names_reach_a_class_conditional_model(runs, good, tmp_path):
    flags = "--class_cond True --max_steps 4 --sample_interval 0".split()
    succeed("image_train", *runs.training, *flags, "--out_dir", tmp_path / "run")
    values = []
    for name in ("run", "other"):
        images = draw_images(tmp_path / f"images_{name}", 3)
        if name == "other":  # the same pictures, all of the first class
            (images / "tile1_001.png").rename(images / "tile0_001.png")
        flags = [*good, "--model_path", tmp_path / "run", "--data_dir", images]
        succeed(NLL, *flags, "--out_dir", tmp_path / name / "nll")
        values.append(total(tmp_path / name / "nll")["bpd"])
    assert values[0] != values[1]


def test_images_of_normal_pixels_need_what_their_closed_form_says(tmp_path, monkeypatch):
    grey, spread = 140, 30
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(12):
        pixels = np.rint(rng.normal(grey, spread, (16, 16, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index:02d}.png")
    mean, std = grey / 127.5 - 1, spread / 127.5
    toy = domain(None, 16, "100")
    toy.model = GaussianOracle(toy.diffusion, mean, std)
    script = load_script(NLL)
    monkeypatch.setattr(script, "load_asked", lambda *asked, **options: toy)
    flags = ["--data_dir", tmp_path / "images", "--clip_denoised", "False", "--batch_size", 4]
    succeed(script, *flags, "--device", "cpu", "--out_dir", tmp_path)
    row, (expected, prior) = total(tmp_path), bound(toy.diffusion, mean, std)
    bits = expected.sum() + prior
    assert row["bpd_error"] < 0.02
    assert abs(row["bpd"] - bits) < 3 * row["bpd_error"]
    # The entropy of grey values of this deviation, which no code can beat.
    assert bits == pytest.approx(0.5 * np.log2(2 * np.pi * np.e * spread**2), abs=5e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model_path=", "--model_path: expected a checkpoint or a training run folder, got none"),
        ("--data_dir=", "--data_dir: expected a folder of images, got ''"),
        ("--num_samples 0", "--num_samples: expected a whole number of at least 1, got '0'"),
        ("--image_size 17", "--image_size: 2 levels need a multiple of 2, got 17"),
        ("--timestep_respacing 41", "--timestep_respacing: expected 0 to 40 steps"),
        ("--use_ddim True", "unrecognized arguments: --use_ddim True"),
    ],
)
def test_a_mistake_is_named_and_writes_nothing(good, tmp_path, flags, message):
    result = call(NLL, *good, "--out_dir", tmp_path / "out", *flags.split())
    assert result.code == 2 and message in result.last and "Traceback" not in result.err
    assert snapshot(tmp_path) == {}
