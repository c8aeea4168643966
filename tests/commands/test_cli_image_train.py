"""`image_train.py` as a user runs it: what it writes, resuming, refusing, upstream's commands."""

import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.cli import (
    ROOT,
    TINY_MODEL,
    call,
    draw_images,
    launch,
    picture,
    read_csv,
    snapshot,
    succeed,
    working_directory,
)

from guided_diffusion.runtime import command as command_frame
from guided_diffusion.runtime import stop_requests
from guided_diffusion.training import training_run

CHECKPOINTS = {
    name.format(step, end=end)
    for name in ("model{}.pt{end}", "ema_0.5_{}.pt{end}", "opt{}.pt{end}")
    for step in ("000004", "000008")
    for end in ("", ".sha256")
}
LOGS = {"args.json", "log.txt", "progress.csv", "progress.jsonl"}


def load(path: Path):
    return torch.load(path, weights_only=True)


def assert_same_bits(one: Path, other: Path, step: int = 8):
    """Weights, averaged weights and optimizer of two runs are identical."""
    for name in ("model{:06d}.pt", "ema_0.5_{:06d}.pt"):
        states = [load(folder / name.format(step)) for folder in (one, other)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), name
    moments = [load(folder / f"opt{step:06d}.pt")["state"] for folder in (one, other)]
    for index, state in moments[0].items():
        assert all(torch.equal(state[key], moments[1][index][key]) for key in state)


def losses(folder: Path) -> list[tuple[str, str]]:
    return [(row["step"], row["loss"]) for row in read_csv(folder / "progress.csv")]


def test_a_run_leaves_checkpoints_logs_and_grids(runs):
    grids = {"samples/000004.png", "samples/000008.png"}
    assert snapshot(runs.source).keys() == CHECKPOINTS | LOGS | grids
    with Image.open(runs.source / "samples" / "000008.png") as grid:
        assert grid.size == (4 * 18 + 2, 4 * 18 + 2)


def test_a_run_records_the_flags_of_its_set_of_defaults_and_resumes_by_either(runs, tmp_path):
    flags = [*runs.training, "--max_steps", 1, "--sample_interval", 0, "--out_dir", tmp_path]
    succeed("image_train", *flags, "--defaults", "improved")
    args = json.loads((tmp_path / "args.json").read_text())["args"]
    assert args["rescale_timesteps"] and args["rescale_learned_sigmas"]
    assert args["augment"] == "dihedral" and args["sigma_small"] is False
    assert "defaults" not in args
    rescale = ["--rescale_timesteps", "True", "--rescale_learned_sigmas", "True"]
    succeed("image_train", *flags, *rescale)
    assert call("image_train", *flags).code == 2


def test_progress_holds_every_step_in_both_formats(runs):
    rows = read_csv(runs.source / "progress.csv")
    lines = (runs.source / "progress.jsonl").read_text().splitlines()
    assert [int(row["step"]) for row in rows] == list(range(1, 9))
    assert [int(row["samples"]) for row in rows] == list(range(2, 18, 2))
    assert [json.loads(line)["loss"] for line in lines] == [float(row["loss"]) for row in rows]
    assert all(0 < float(row["loss"]) < 3 for row in rows)


def test_the_run_folder_records_command_flags_and_versions(runs):
    record = json.loads((runs.source / "args.json").read_text())
    assert record["script"] == "image_train"
    assert record["args"]["lr"] == 3e-3 and record["args"]["channel_mult"] == "1,2"
    assert record["versions"]["torch"] == torch.__version__


def test_the_seed_decides_the_weights(runs):
    one, other = (load(folder / "model000004.pt") for folder in (runs.source, runs.target))
    key = "input_blocks.1.0.in_layers.2.weight"
    assert (one[key] - other[key]).abs().max() > 0.05  # far beyond what 4 steps can do


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(runs, tmp_path):
    flags = [*runs.training, "--out_dir", tmp_path]
    succeed("image_train", *flags, "--max_steps", 3)
    again = succeed("image_train", *flags, "--max_steps", 8)
    assert f"training on from {tmp_path / 'model000003.pt'}" in again.out
    assert_same_bits(tmp_path, runs.source)
    assert losses(tmp_path) == losses(runs.source)


def test_a_compiled_run_writes_the_same_files_and_may_go_on_without(runs, tmp_path, monkeypatch):
    compiled = []

    def quickly(module, **_):  # the tracing of torch.compile without its code generation
        compiled.append(module)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    flags = [*runs.training, "--sample_interval", 0, "--out_dir", tmp_path]
    succeed("image_train", *flags, "--max_steps", 4, "--compile", "True")
    assert len(compiled) == 1
    states = [load(folder / "model000004.pt") for folder in (tmp_path, runs.source)]
    assert states[0].keys() == states[1].keys()
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "args.json").read_text())["args"]["compile"] is True
    succeed("image_train", *flags, "--max_steps", 5)
    succeed(
        "image_sample",
        "--model_path",
        tmp_path,
        "--num_samples",
        1,
        "--batch_size",
        1,
        "--timestep_respacing",
        2,
        "--out_dir",
        tmp_path / "drawn",
        "--compile",
        "True",
    )
    assert len(compiled) == 2


def test_a_run_that_is_finished_does_nothing_more(runs, tmp_path):
    shutil.copytree(runs.source, tmp_path, dirs_exist_ok=True)
    succeed("image_train", *runs.training, "--out_dir", tmp_path)
    before, after = snapshot(runs.source), snapshot(tmp_path)
    assert {name for name in after if after[name] != before.get(name)} <= {"log.txt", "args.json"}
    assert after.keys() == before.keys()


def test_a_damaged_newest_checkpoint_is_passed_over(runs, tmp_path):
    shutil.copytree(runs.source, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "opt000008.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    result = succeed("image_train", *runs.training, "--out_dir", tmp_path)
    assert "cannot resume from" in result.out and "opt000008.pt" in result.out
    assert_same_bits(tmp_path, runs.source)


def test_resume_checkpoint_carries_a_run_into_another_folder(runs, tmp_path):
    begin = ["--resume_checkpoint", runs.source / "model000004.pt"]
    succeed("image_train", *runs.training, *begin, "--out_dir", tmp_path)
    assert not (tmp_path / "model000004.pt").exists()
    assert_same_bits(tmp_path, runs.source)


# Trains until all of step 20 is written and all but the weights, which make it whole, is in place.
KILLED_WHILE_IT_SAVES = """
import os, signal, sys
from guided_diffusion.commands import image_train

replace = os.replace

def replace_unless_killed(partial, path):
    if str(path).endswith("model000020.pt"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(partial, path)

os.replace = replace_unless_killed
image_train.main(sys.argv[1:])
"""


def test_a_killed_run_resumes_by_the_same_command(runs, tmp_path):
    steps = "--max_steps 30 --save_interval 10 --sample_interval 0 --log_interval 10".split()
    flags = [*runs.training, *steps, "--out_dir", tmp_path]
    words = [str(flag) for flag in flags]
    killed = launch([sys.executable, "-c", KILLED_WHILE_IT_SAVES, *words], PYTHONPATH=ROOT)
    assert killed.code == -signal.SIGKILL and (tmp_path / "opt000020.pt").exists()
    result = succeed("image_train", *flags)
    assert f"training on from {tmp_path}/model000010.pt" in result.out
    assert len(load(tmp_path / "model000030.pt")) == len(load(runs.source / "model000008.pt"))
    assert [row["step"] for row in read_csv(tmp_path / "progress.csv")] == ["10", "20", "30"]


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--lr", "0.5"], "--lr was 0.003, is 0.5"),
        (["--num_channels", "64"], "--num_channels was 32, is 64"),
        (["--seed", "7"], "--seed was 0, is 7"),
        (["--class_cond", "True"], "--class_cond was False, is True"),
    ],
)
def test_other_flags_into_the_same_folder_are_refused_by_name(runs, flags, difference):
    before = snapshot(runs.source)
    result = call("image_train", *runs.training, "--out_dir", runs.source, *flags)
    assert result.code == 2 and result.out == ""
    assert difference in result.last and str(runs.source) in result.last
    assert snapshot(runs.source) == before


def test_places_and_intervals_may_change_between_two_runs(runs, tmp_path):
    shutil.copytree(runs.source, tmp_path, dirs_exist_ok=True)
    changed = ["--save_interval", 1, "--log_interval", 9, "--sample_interval", 0]
    changed += ["--microbatch", 1, "--use_checkpoint", "True"]  # as after a lack of memory
    succeed("image_train", *runs.training, "--out_dir", tmp_path, *changed, "--max_steps", 9)
    assert (tmp_path / "model000009.pt").exists()
    assert json.loads((tmp_path / "args.json").read_text())["args"]["max_steps"] == 9


UPSTREAM = {
    "guided-diffusion": (
        "--image_size 16 --num_channels 32 --num_res_blocks 1 --learn_sigma True --class_cond "
        "False --diffusion_steps 1000 --noise_schedule linear --rescale_learned_sigmas False "
        "--rescale_timesteps False --lr 1e-4 --batch_size 2"
    ),
    "improved-diffusion": (
        "--image_size 16 --num_channels 32 --num_res_blocks 1 --learn_sigma True --class_cond "
        "True --diffusion_steps 4000 --noise_schedule cosine --use_kl True --schedule_sampler "
        "loss-second-moment --lr 1e-4 --batch_size 2 --microbatch 1"
    ),
}


@pytest.mark.parametrize("repository", UPSTREAM)
def test_upstreams_readme_command_runs_in_any_folder_and_heeds_its_log_folder(
    repository, tmp_path, monkeypatch
):
    draw_images(tmp_path / "tiles", 3, size=20)
    monkeypatch.setenv("OPENAI_LOGDIR", "logs")
    short = "--max_steps 1 --save_interval 1 --log_interval 1 --sample_steps 2".split()
    with working_directory(tmp_path):
        succeed("image_train", "--data_dir", "tiles", *UPSTREAM[repository].split(), *short)
    logs = tmp_path / "logs"
    assert {"model000001.pt", "ema_0.9999_000001.pt", "opt000001.pt"} <= snapshot(logs).keys()
    assert load(logs / "model000001.pt")["out.2.weight"].shape[0] == 6
    assert {path.name for path in tmp_path.iterdir()} == {"tiles", "logs"}


def test_without_a_folder_a_run_goes_to_results_under_the_name_of_its_data(tmp_path):
    draw_images(tmp_path / "tiles", 2)
    short = "--max_steps 1 --sample_interval 0 --data_dir".split()
    with working_directory(tmp_path):
        succeed("image_train", *TINY_MODEL, *short, "tiles/")
    assert (tmp_path / "results" / "train_tiles" / "model000001.pt").exists()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_size_without_preset_and_other_channels_train_and_sample(runs, tmp_path, channels):
    size = "--image_size 24 --channel_mult 1,2 --attention_resolutions 12 --max_steps 1".split()
    flags = [*runs.training, *size, "--in_channels", channels, "--out_dir", tmp_path / "run"]
    succeed("image_train", *flags)
    drawing = "--num_samples 2 --timestep_respacing 2 --device cpu".split()
    succeed("image_sample", "--model_path", tmp_path / "run", *drawing, "--out_dir", tmp_path)
    with np.load(tmp_path / f"samples_2x24x24x{channels}.npz") as arrays:
        assert arrays["arr_0"].shape == (2, 24, 24, channels)
    assert picture(tmp_path / "samples.png").shape[2] == 3


@pytest.mark.parametrize("labels", ["prefix", "folder"])
def test_a_class_conditional_run_records_its_classes(runs, tmp_path, labels):
    for name in ("low", "high"):
        draw_images(tmp_path / "tiles" / name, 2)
    flags = f"--class_cond True --labels {labels} --max_steps 1 --sample_interval 0".split()
    run = [*runs.training, "--data_dir", tmp_path / "tiles", *flags, "--out_dir", tmp_path / "run"]
    result = succeed("image_train", *run)
    expected = {"prefix": {"tile0": 0, "tile1": 1}, "folder": {"high": 0, "low": 1}}[labels]
    assert json.loads((tmp_path / "run" / "labels.json").read_text()) == expected
    text = (tmp_path / "run" / "log.txt").read_text()
    for name, number in expected.items():
        line = f"{number}  {name}: 2 images"
        assert line in result.out and line in text


def test_a_run_starts_from_the_newest_checkpoint_of_another(runs, tmp_path):
    flags = [*runs.training, "--max_steps", 9, "--resume_checkpoint", runs.source]
    result = succeed("image_train", *flags, "--out_dir", tmp_path)
    assert f"training on from {runs.source / 'model000008.pt'}" in result.out
    assert (tmp_path / "model000009.pt").exists()


def test_a_folder_without_a_checkpoint_is_nothing_to_start_from(runs, tmp_path):
    flags = [*runs.training, "--resume_checkpoint", runs.images, "--out_dir", tmp_path / "run"]
    result = call("image_train", *flags)
    assert result.code == 2 and "--resume_checkpoint: expected a modelNNNNNN.pt in" in result.last


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_later(runs, tmp_path, monkeypatch):
    interrupted = stop_requests.StopSignal()
    monkeypatch.setattr(training_run, "StopSignal", lambda: interrupted)
    interrupted.asked = True
    result = call("image_train", *runs.training, "--out_dir", tmp_path)
    assert result.code == command_frame.INTERRUPTED and (tmp_path / "model000001.pt").exists()
    assert result.last == "interrupted; the same command again goes on"
    interrupted.asked = False
    succeed("image_train", *runs.training, "--out_dir", tmp_path)
    assert_same_bits(runs.source, tmp_path)


def test_another_number_of_images_per_step_is_refused(runs, tmp_path):
    succeed("image_train", *runs.training, "--out_dir", tmp_path, "--max_steps", 1)
    result = call("image_train", *runs.training, "--out_dir", tmp_path, "--batch_size", 3)
    assert (
        result.code == 2 and "--batch_size times the number of processes was 2, is 3" in result.last
    )
