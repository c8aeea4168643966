"""DDIB's four commands for points as a user runs them, from training to the round trip."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from support.cli import (
    call,
    load_script,
    picture,
    read_csv,
    snapshot,
    succeed,
    working_directory,
)

from guided_diffusion import synthetic_datasets
from guided_diffusion.models.domains import POINTS, load_domain
from guided_diffusion.synthetic_datasets import Synthetic2DType
from guided_diffusion.translation import encode_decode
from guided_diffusion.translation.predictor import Predictor
from guided_diffusion.translation.settings import CONVENTIONS, WalkSettings

TRAIN, SAMPLE = "synthetic_train", "synthetic_sample"
TRANSLATE, CYCLE = "synthetic_translation", "synthetic_cycle"
TRAINING = (
    "--num_channels 64 --num_res_blocks 1 --dropout 0 --diffusion_steps 60 --batch_size 64 "
    "--lr 1e-2 --ema_rate 0.5 --max_steps 6 --save_interval 3 --log_interval 3 --device cpu"
).split()
MOVING = "--num_samples 30 --timestep_respacing 20 --device cpu".split()
STAGES = {
    TRANSLATE: ("translation_0_1", ["source", "latent", "target"]),
    CYCLE: ("cycle_0_1", ["source", "latent", "target", "latent_back", "cycle"]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the runs of tasks 0 and 1 lie where they lie without --out_dir."""
    folder = tmp_path_factory.mktemp("trained")
    with working_directory(folder):
        for task in (0, 1):
            succeed(TRAIN, *TRAINING, "--task", task)
    return folder


@pytest.fixture(scope="module")
def models(trained):
    return trained / "results" / "synthetic"


def load_domain_2d(path, respacing):
    return load_domain(path, {"timestep_respacing": respacing}, kind=POINTS)


def moved(name, models, out_dir, *flags):
    """The arrays of a run of TRANSLATE or CYCLE."""
    succeed(name, "--model_path", models, *MOVING, "--out_dir", out_dir, *flags)
    with np.load(out_dir / f"{STAGES[name][0]}.npz", allow_pickle=False) as file:
        return dict(file)


def test_training_leaves_upstreams_files_and_resumes(models, tmp_path):
    names = {p.name for p in (models / "log2D0").iterdir() if p.suffix != ".sha256"}
    assert names == {
        "args.json",
        "log.txt",
        "progress.csv",
        "progress.jsonl",
        *(f"{kind}00000{step}.pt" for kind in ("model", "opt", "ema_0.5_") for step in (3, 6)),
    }
    succeed(TRAIN, *TRAINING, "--max_steps", 3, "--out_dir", tmp_path)
    succeed(TRAIN, *TRAINING, "--out_dir", tmp_path)
    for name in ("model000006.pt", "ema_0.5_000006.pt"):
        states = [torch.load(place / name) for place in (tmp_path, models / "log2D0")]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    other = torch.load(models / "log2D1" / "model000006.pt")
    assert not torch.equal(other["out.2.weight"], states[0]["out.2.weight"])


def test_samples_are_upstreams_npz_whatever_the_batch_size(models, tmp_path):
    drawn = []
    for size, path in ((7, models), (20, models / "log2D0")):
        out = ["--out_dir", tmp_path / str(size), "--batch_size", size]
        succeed(SAMPLE, "--model_path", path, "--num_samples", 20, "--device", "cpu", *out)
        with np.load(tmp_path / str(size) / "samples_20x2.npz", allow_pickle=False) as file:
            assert list(file) == ["arr_0"]
            drawn.append(file["arr_0"])
    assert drawn[0].dtype == np.float32 and drawn[0].shape == (20, 2)
    np.testing.assert_allclose(*drawn, atol=1e-4, rtol=1e-4)
    assert len(np.unique(drawn[0], axis=0)) == 20 and np.abs(drawn[0]).max() > 1
    assert picture(tmp_path / "7" / "samples_20x2.png").std() > 5


def test_the_record_says_what_precision_was_asked_and_what_it_came_to(models, tmp_path):
    moved(TRANSLATE, models, tmp_path, "--precision", "auto", "--num_samples", 2)
    record = json.loads((tmp_path / "args.json").read_text())
    assert record["args"]["precision"] == "auto"
    assert record["resolved"]["precision"] in ("fp32", "bf16")


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_saved_and_plotted_whatever_the_batch_size(models, tmp_path, name):
    whole, parts = (
        moved(name, models, tmp_path / str(size), "--batch_size", size) for size in (30, 7)
    )
    assert list(whole) == list(parts) == STAGES[name][1]
    for stage in whole:
        assert whole[stage].shape == (30, 2) and whole[stage].dtype == np.float32
        np.testing.assert_allclose(whole[stage], parts[stage], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(whole["source"].std(), 1, atol=1e-4)
    plot = picture(tmp_path / "7" / f"{STAGES[name][0]}.png")
    assert plot.shape[1] == len(whole) * plot.shape[0] and plot.std() > 5
    other = moved(name, models, tmp_path / "seed", "--seed", 1)
    assert np.abs(other["source"] - whole["source"]).max() > 0.1


def test_the_cycle_goes_on_from_the_translation_and_reports_its_distances(models, tmp_path):
    there = moved(TRANSLATE, models, tmp_path / "there")
    cycle = moved(CYCLE, models, tmp_path / "cycle")
    for stage in there:
        np.testing.assert_allclose(cycle[stage], there[stage], atol=1e-6)
    distance = np.linalg.norm(cycle["cycle"] - cycle["source"], axis=1)
    (row,) = read_csv(tmp_path / "cycle" / "progress.csv")
    assert float(row["mean_distance"]) == pytest.approx(distance.mean(), rel=1e-4)
    assert float(row["max_distance"]) == pytest.approx(distance.max(), rel=1e-4)
    assert (row["points"], row["steps"]) == ("30", "20")
    assert 0 < distance.mean() < distance.max() < np.inf


@pytest.mark.parametrize("name", STAGES)
def test_the_level_convention_is_that_of_the_encoding(models, tmp_path, name):
    domains = [load_domain_2d(models / f"log2D{task}", "20") for task in (0, 1)]
    for convention in CONVENTIONS:
        engine = WalkSettings(level_convention=convention)
        ends = [Predictor(domain, max_batch=10000) for domain in domains]
        arrays = moved(name, models, tmp_path / convention, "--level_convention", convention)
        points = torch.from_numpy(arrays["source"])
        latents, target = encode_decode.translate(*ends, points, engine)
        np.testing.assert_allclose(arrays["latent"], latents, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(arrays["target"], target, atol=1e-4, rtol=1e-4)
        if name == CYCLE:
            latents, target = encode_decode.translate(*ends[::-1], target, engine)
            np.testing.assert_allclose(arrays["latent_back"], latents, atol=1e-4, rtol=1e-4)
            np.testing.assert_allclose(arrays["cycle"], target, atol=1e-4, rtol=1e-4)


def test_models_are_found_by_task_or_named_one_by_one(trained, models, tmp_path):
    by_folder = moved(TRANSLATE, models, tmp_path / "folder")["target"]
    named = ["--source_model", models / "log2D0", "--target_model", models / "log2D1"]
    by_name = moved(TRANSLATE, tmp_path, tmp_path / "named", *named)["target"]
    assert np.array_equal(by_name, by_folder)
    same = moved(TRANSLATE, models, tmp_path / "same", "--target_model", models / "log2D0")
    assert np.abs(same["target"] - by_folder).max() > 0.01
    with working_directory(trained):
        succeed(TRANSLATE, *MOVING)
    (folder,) = (trained / "results").glob("translation_0_1_*")
    with np.load(folder / "translation_0_1.npz") as file:
        assert np.array_equal(file["target"], by_folder)


def test_two_ranks_move_the_points_of_one_process(two_ranks, models, tmp_path):
    alone = moved(TRANSLATE, models, tmp_path / "alone", "--batch_size", 10)
    flags = ["--model_path", models, *MOVING, "--batch_size", 10, "--out_dir", tmp_path / "two"]
    result = two_ranks.run("torchrun", TRANSLATE, *flags)
    assert result.code == 0, result.err
    with np.load(tmp_path / "two" / "translation_0_1.npz") as file:
        for stage in alone:
            np.testing.assert_allclose(file[stage], alone[stage], atol=1e-5, rtol=1e-5)


MISTAKES = [
    (TRAIN, "--task 6", "--task: invalid choice: 6 (choose from 0, 1, 2, 3, 4, 5)"),
    (TRAIN, "--ema_rate x", "--ema_rate: expected decays in [0, 1), got 'x'"),
    (TRAIN, "--batch_size 0", "--batch_size: expected a whole number of at least 1, got '0'"),
    (TRAIN, "--num_channels 48", "--num_channels: expected a multiple of 32, got 48"),
    (TRAIN, "--diffusion_steps 20", "--diffusion_steps: expected at least 21 for the linear"),
    (TRAIN, "--use_fp16 --precision bf16", "--precision: bf16 and --use_fp16 True exclude each"),
    (TRAIN, "--resume_checkpoint {models}/no.pt", "no.pt: no such checkpoint"),
    (TRAIN, "--data_dir x", "unrecognized arguments: --data_dir x"),
    (SAMPLE, "--model_path {models}/no", "no: expected a checkpoint or a training run folder"),
    (SAMPLE, "--model_path=", "log2D0: expected a checkpoint or a training run folder, found no"),
    (SAMPLE, "--task 5 --model_path={models}", "expected a training run with modelNNNNNN.pt or"),
    (SAMPLE, "--num_channels 32", "(check --num_channels)"),
    (SAMPLE, "--in_channels 3", "--in_channels: invalid choice: 3 (choose from 2)"),
    (SAMPLE, "--learn_sigma True", "(check --learn_sigma)"),
    (SAMPLE, "--num_res_blocks 2", "(check --num_res_blocks"),
    (TRANSLATE, "--target 3", "log2D3: expected a checkpoint or a training run folder, found no"),
    (TRANSLATE, "--source_model {models}/cut.pt", "cut.pt: expected a whole checkpoint, got a"),
    (CYCLE, "--level_convention x", "--level_convention: invalid choice: 'x' (choose from"),
    (CYCLE, "--target_model {models}/other", "--diffusion_steps: source and target need the same"),
    (CYCLE, "--timestep_respacing 61", "--timestep_respacing: "),
]


@pytest.fixture(scope="module")
def scripts():
    return {name: load_script(name) for name in (TRAIN, SAMPLE, TRANSLATE, CYCLE)}


@pytest.fixture(scope="module")
def places(models):
    """The folder of models, with broken and unlike ones beside them."""
    (models / "cut.pt").write_bytes((models / "log2D0" / "model000006.pt").read_bytes()[:900])
    shutil.copytree(models / "log2D0", models / "other")
    record = (models / "other" / "args.json").read_text()
    (models / "other" / "args.json").write_text(
        record.replace('"diffusion_steps": 60', '"diffusion_steps": 50')
    )
    return models


@pytest.mark.parametrize(("name", "flags", "message"), MISTAKES)
def test_a_mistake_ends_with_code_2_and_one_line_and_writes_nothing(
    scripts, places, tmp_path, name, flags, message
):
    good = TRAINING if name == TRAIN else ["--model_path", places, *MOVING]
    words = [word.format(models=places) for word in flags.split()]
    with working_directory(tmp_path):
        result = call(scripts[name], *good, "--out_dir", tmp_path / "out", *words)
    assert result.code == 2, result.out
    assert message in result.last and "Traceback" not in result.err
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("name", [SAMPLE, TRANSLATE, CYCLE])
def test_without_matplotlib_nothing_is_computed(scripts, models, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = ["--out_dir", tmp_path / "out"]
    result = call(scripts[name], "--model_path", models, *MOVING, *out)
    assert result.code == 2 and "pip install 'guided-diffusion-add[plots]'" in result.last
    assert snapshot(tmp_path) == {}


def test_a_folder_of_another_run_is_refused(models, tmp_path):
    moved(TRANSLATE, models, tmp_path)
    before = snapshot(tmp_path)
    flags = ["--model_path", models, *MOVING, "--out_dir", tmp_path]
    refused = call(TRANSLATE, *flags, "--num_samples", 31)
    assert refused.code == 2 and "--num_samples was 30, is 31" in refused.last
    assert snapshot(tmp_path) == before


def test_the_training_distribution_is_the_one_of_the_task(monkeypatch, tmp_path):
    asked = []
    whole = synthetic_datasets.draw_points

    def watched(count, shape, rng=None):
        asked.append((count, shape))
        return whole(count, Synthetic2DType.MOONS, rng)

    monkeypatch.setattr(synthetic_datasets, "draw_points", watched)
    succeed(TRAIN, *TRAINING, "--task", 4, "--max_steps", 1, "--out_dir", tmp_path)
    assert asked == [(300000, Synthetic2DType.OLYMPIC_RINGS)]


def test_points_of_another_seed_replace_nothing(models, tmp_path):
    flags = ["--model_path", models, "--num_samples", 5, "--device", "cpu", "--out_dir", tmp_path]
    succeed(SAMPLE, *flags)
    before = snapshot(tmp_path)["samples_5x2.npz"]
    refused = call(SAMPLE, *flags, "--seed", 1)
    assert refused.code == 2 and "--seed was 0, is 1" in refused.last
    assert snapshot(tmp_path)["samples_5x2.npz"] == before
    succeed(SAMPLE, *flags)
