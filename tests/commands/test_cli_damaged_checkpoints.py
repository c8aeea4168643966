"""Checkpoints that are damaged, unreadable, or of something else, met by whole commands."""

import shutil

import pytest
import torch
from support.cli import call, snapshot, succeed

from guided_diffusion.models import checkpoint, integrity
from guided_diffusion.runtime import faults, input_files

SAMPLE = "--num_samples 1 --timestep_respacing 2 --device cpu --batch_size 1".split()


@pytest.fixture
def run(runs, tmp_path):
    """A copy of a trained run, which may be spoiled."""
    return shutil.copytree(runs.source, tmp_path / "run")


@pytest.fixture
def training(runs, run):
    return [*runs.training, "--out_dir", run, "--max_steps", 9]


def rewrite(path, change):
    """Change what a file of tensors holds, as a program that knows no digests."""
    content = torch.load(path, weights_only=True)
    torch.save(change(content) or content, path)


def refused(result, *parts):
    assert result.code == 2, result.out
    assert "Traceback" not in result.err and len(result.err.strip().splitlines()) == 1
    assert all(part in result.last for part in parts), result.last


def widen(content):
    content["state"][0]["exp_avg"] = torch.ones(10**4)


def test_moments_of_another_shape_are_refused_by_the_training(training, run):
    rewrite(run / "opt000008.pt", widen)
    before = snapshot(run)
    refused(call("image_train", *training), "opt000008.pt: optimizer of another", "move it away")
    assert snapshot(run) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {f"x{key}": value for key, value in state.items()},
        lambda state: {key: value for key, value in list(state.items())[1:]},
        lambda state: {key: value.flatten() for key, value in state.items()},
        lambda state: {key: value.int() for key, value in state.items()},
        lambda state: {key: value * torch.nan for key, value in state.items()},
        lambda state: list(state),
    ],
)
@pytest.mark.parametrize("name", ["ema_0.5_000008.pt", "model000008.pt"])
def test_averages_and_weights_of_other_content_are_refused_by_name(training, run, name, change):
    rewrite(run / name, change)
    refused(call("image_train", *training), f"{name}: ")
    refused(call("image_sample", "--model_path", run / name, *SAMPLE), f"{name}: ")


@pytest.mark.parametrize("kind", ["EACCES", "EIO", "MemoryError"])
@pytest.mark.parametrize("visit", [1, 2, 4])
def test_an_unreadable_checkpoint_stops_the_training_and_nothing_is_lost(
    training, run, monkeypatch, kind, visit
):
    seen = []
    read = input_files.read_bytes

    def fails(path, *most):
        seen.append(path) if str(path).endswith(".pt") else None
        if len(seen) == visit and str(path).endswith(".pt"):
            faults.plan(faults.Fault("read.file", 1, kind))
        try:
            return read(path, *most)
        finally:
            faults.plan(None)

    monkeypatch.setattr(input_files, "read_bytes", fails)
    before = snapshot(run)
    refused(call("image_train", *training), ".pt: cannot be read (", "nothing was changed")
    assert snapshot(run) == before


def test_a_damaged_newest_checkpoint_is_passed_over_and_named(training, run):
    path = run / "model000008.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = succeed("image_train", *training)
    assert "cannot resume from" in result.out and "model000008.pt: " in result.out
    assert f"training on from {run / 'model000004.pt'}" in result.out
    assert checkpoint.load_state(path)  # made again


def test_a_damaged_model_is_not_used_and_an_older_one_is_named(run):
    path = run / "ema_0.5_000008.pt"
    path.write_bytes(path.read_bytes()[:9000])
    result = call("image_sample", "--model_path", run, *SAMPLE)
    refused(result, f"{path}: expected a whole checkpoint, got a file that cannot be read (it is")
    assert result.last.endswith(f"; an older one is {run / 'ema_0.5_000004.pt'}")


def test_with_all_checkpoints_damaged_nothing_starts_anew(training, run):
    for path in run.glob("opt*.pt"):
        path.write_bytes(path.read_bytes()[:-100])
    before = snapshot(run)
    refused(call("image_train", *training), f"{run}: no checkpoint in it", "opt000008.pt", "move")
    assert snapshot(run) == before


def test_weights_that_are_not_finite_are_refused_with_one_that_is(run, training):
    def spoil(state):
        state["out.2.bias"][0] = torch.inf

    for name in ("ema_0.5_000008.pt", "model000008.pt"):
        rewrite(run / name, spoil)
    found = (
        "its numbers are not finite, first at 'out.2.bias'",
        "with finite numbers is",
        "000004.pt: give that one",
    )
    refused(call("image_sample", "--model_path", run, *SAMPLE), "ema_0.5_000008.pt: ", *found)
    refused(call("image_train", *training), "model000008.pt: ", *found)
    start = ["--init_checkpoint", run, "--out_dir", run.parent / "new"]
    refused(call("image_train", *training, *start), "ema_0.5_000008.pt: ", *found)


def test_samples_that_are_not_finite_are_refused(run, runs, tmp_path):
    def blow_up(state):
        state["out.2.weight"][:] = 1e38

    rewrite(run / "ema_0.5_000008.pt", blow_up)
    model = ["--model_path", run]
    found = "ema_0.5_000008.pt: the network predicts numbers that are not finite"
    flags = [*SAMPLE, "--clip_denoised", "False"]
    refused(call("image_sample", *model, *flags, "--out_dir", tmp_path / "drawn"), found)
    data = ["--data_dir", runs.images, "--out_dir", tmp_path / "measured"]
    refused(call("image_nll", *model, *flags, *data), found)
    assert not list(tmp_path.glob("*/*.npz"))


def test_an_optimizer_and_a_digest_are_no_models(run):
    given = run / "opt000008.pt"
    found = "got the state of an optimizer; did you mean", "model000008.pt?"
    refused(call("image_sample", "--model_path", given, *SAMPLE), *found)
    refused(
        call("image_sample", "--model_path", integrity.digest_file(given), *SAMPLE),
        "expected a checkpoint of plain tensors",
    )


def test_a_checkpoint_without_a_number_begins_at_step_0_and_says_so(runs, tmp_path):
    given = tmp_path / "64x64_diffusion.pt"
    state = torch.load(runs.source / "model000008.pt", weights_only=True)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, given)
    flags = ["--out_dir", tmp_path / "run", "--max_steps", 1, "--sample_interval", 0]
    result = succeed("image_train", *runs.training, *flags, "--resume_checkpoint", given)
    assert "taking the weights under 'state_dict'" in result.out and "'module.'" in result.out
    assert "its name tells no step" in result.out and "begins at step 0" in result.out
    average = runs.source / "ema_0.5_000008.pt"
    flags[1] = tmp_path / "other"
    result = succeed("image_train", *runs.training, *flags, "--resume_checkpoint", average)
    assert "averaged weights; training begins at step 0" in result.out
    flags[1] = tmp_path / "third"
    optimizer = ["--resume_checkpoint", runs.source / "opt000008.pt"]
    refused(call("image_train", *runs.training, *flags, *optimizer), "did you mean", "model000008")
    assert not (tmp_path / "third").exists()
