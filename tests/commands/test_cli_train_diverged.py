"""Trainings whose numbers do not stay finite, and averages that are still mostly their start."""

import pytest
import torch
from support.cli import TINY_CLASSIFIER, TINY_MODEL, call, draw_images, snapshot, succeed

from guided_diffusion.data import image_datasets
from guided_diffusion.models import checkpoint
from guided_diffusion.models.checkpoint import load_state
from guided_diffusion.runtime import command
from guided_diffusion.training import train_util

TOO_FAST = "--lr 1e3 --save_interval 8 --log_interval 4 --device cpu".split()
STEPS = ["--max_steps", 16]
SUPER_RES = ["--large_size", 16, "--small_size", 8, *TINY_MODEL[2:], "--batch_size", 2]


def flags_of(name, images):
    """Return the flags of a small training of each kind."""
    data = ["--data_dir", images]
    return {
        "image_train": [*TINY_MODEL, "--batch_size", 2, *data, *STEPS],
        "super_res_train": [*SUPER_RES, *data, *STEPS],
        "classifier_train": [*TINY_CLASSIFIER, *data, "--iterations", 16],
        "synthetic_train": ["--num_channels", 32, "--batch_size", 100, *STEPS],
    }[name]


@pytest.mark.parametrize(
    ("name", "more", "way"),
    [
        ("image_train", [], ""),
        ("image_train", ["--use_fp16", True], ", or --use_fp16 False"),
        ("super_res_train", [], ""),
        ("classifier_train", [], ""),
        ("classifier_train", ["--classifier_use_fp16", True], ", or --classifier_use_fp16 False"),
        ("synthetic_train", [], ""),
        ("classifier_train", ["--precision", "bf16"], ", or --precision fp32"),
    ],
)
def test_a_training_that_diverges_ends_at_its_first_save(runs, tmp_path, name, more, way):
    result = call(name, *flags_of(name, runs.images), *TOO_FAST, *more, "--out_dir", tmp_path)
    assert result.code == command.DIVERGED == 4
    assert result.last.startswith("error: step 8: ") and result.err.count("\n") == 1
    end = f"so the training ends; no checkpoint was saved; try a lower --lr than 1000{way}"
    end += ", with another --out_dir"
    assert result.last.endswith(end)
    assert "trained" not in result.out
    assert not list(tmp_path.glob("*.pt")) and not (tmp_path / "samples").exists()


def test_all_ranks_end_together(runs, tmp_path, two_ranks):
    flags = [*flags_of("image_train", runs.images), *TOO_FAST, "--out_dir", tmp_path]
    results = two_ranks.each("mpiexec", call, "image_train", *flags)
    assert [result.code for result in results] == [4, 4]
    assert len({result.last for result in results}) == 1
    assert not list(tmp_path.glob("*.pt"))


def spoil_from(monkeypatch, step, kind):
    """Make a group of tensors infinite after a step."""
    run_step = train_util.TrainLoop.run_step

    def run(loop, *batch):
        run_step(loop, *batch)
        if loop.done + 1 == step:
            with torch.no_grad():
                loop._held()[kind][0].view(-1)[0] = torch.inf

    monkeypatch.setattr(train_util.TrainLoop, "run_step", run)


@pytest.mark.parametrize("kind", ["weights", "averaged weights", "optimizer's moments"])
def test_what_is_not_finite_is_never_saved(runs, tmp_path, monkeypatch, kind):
    spoil_from(monkeypatch, 8, kind)
    result = call("image_train", *runs.training, "--out_dir", tmp_path)
    assert result.code == 4
    assert result.last == (
        f"error: step 8: the {kind} are not finite, so the training ends; the last good checkpoint "
        f"is {tmp_path / 'model000004.pt'}; try a lower --lr than 0.003, with another "
        "--out_dir and that --resume_checkpoint"
    )
    assert {path.name for path in tmp_path.glob("*.pt")} == {
        f"{kind}000004.pt" for kind in ("model", "ema_0.5_", "opt")
    }
    assert all(v.isfinite().all() for v in load_state(tmp_path / "model000004.pt").values())


def test_a_loss_that_is_not_finite_ends_a_training_whose_weights_are(runs, tmp_path, monkeypatch):
    losses = train_util.TrainLoop._losses

    def endless(loop, *args):
        found = losses(loop, *args)
        return found | {"loss": found["loss"] + torch.inf}  # the gradients stay as they were

    monkeypatch.setattr(train_util.TrainLoop, "_losses", endless)
    result = call("image_train", *runs.training, "--out_dir", tmp_path)
    assert result.code == 4 and "skipped" not in result.out
    assert result.last.startswith("error: step 4: the loss was not finite in 4 of the last 4 steps")
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize("name", ["model000004.pt", "ema_0.5_000004.pt"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_no_start(runs, tmp_path, name, value):
    for file in ("model000004.pt", "opt000004.pt", "ema_0.5_000004.pt"):
        state = checkpoint.load_file(runs.source / file)
        if file == name:
            next(iter(state.values())).view(-1)[0] = value
        checkpoint.save_state(state, tmp_path / file)
    start = ["--resume_checkpoint", tmp_path / "model000004.pt", "--out_dir", tmp_path / "run"]
    result = call("image_train", *runs.training, *start)
    assert result.code == 2 and "not finite" in result.last
    assert not (tmp_path / "run").exists()


def test_skipped_steps_are_counted_at_the_end(runs, tmp_path, monkeypatch):
    forward = train_util.TrainLoop.forward_backward

    def backward(loop, batch, cond):
        forward(loop, batch * torch.nan if loop.done == 2 else batch, cond)

    monkeypatch.setattr(train_util.TrainLoop, "forward_backward", backward)
    flags = ["--sample_interval", 0, "--out_dir", tmp_path]
    out = succeed("image_train", *runs.training, *flags).out
    assert f"trained 8 steps, 1 of the last 8 skipped; the run is in {tmp_path}" in out


SLOW = ["--ema_rate", "0.9999"]


def test_grids_and_samplers_show_the_weights_while_the_average_is_young(runs, tmp_path):
    young = "100 % is still the weights with which it began"
    trained = succeed("image_train", *runs.training, *SLOW, "--out_dir", tmp_path / "young").out
    assert f"model000004.pt; of the average of rate 0.9999, {young}" in trained
    shown = "samples of step {} show the weights without averaging: of the average of rate 0.9999, "
    assert all(shown.format(step) + young in trained for step in (4, 8))

    begun = ["--init_checkpoint", tmp_path / "young", "--data_dir", runs.images, "--max_steps", 1]
    begun += ["--sample_interval", 0, "--device", "cpu", "--out_dir", tmp_path / "begun"]
    assert succeed("image_train", *begun).out.count("taking the weights of") == 1

    small = ["--num_samples", 2, "--timestep_respacing", "2", "--device", "cpu"]

    def sampled(path, name):
        flags = ["--model_path", path, "--out_dir", tmp_path / name, *small]
        out = succeed("image_sample", *flags).out
        files = snapshot(tmp_path / name)
        return out, next(value for file, value in files.items() if file.endswith("samples.png"))

    folder, by_folder = sampled(tmp_path / "young", "a")
    assert "taking the weights of model000008.pt without averaging" in folder and young in folder
    raw, by_raw = sampled(tmp_path / "young" / "model000008.pt", "b")
    assert by_folder == by_raw and "average" not in raw
    average, by_average = sampled(tmp_path / "young" / "ema_0.9999_000008.pt", "c")
    assert by_average != by_raw and f"ema_0.9999_000008.pt: of this average, {young}" in average


def test_a_warm_up_is_told_and_a_killed_run_goes_on_with_it_bit_for_bit(runs, tmp_path):
    flags = [*runs.training, *SLOW, "--ema_warmup", True, "--sample_interval", 0]
    whole = succeed("image_train", *flags, "--out_dir", tmp_path / "whole").out
    assert "average" not in whole  # 0.02 % of it is the start
    succeed("image_train", *flags, "--out_dir", tmp_path / "cut", "--max_steps", 4)
    succeed("image_train", *flags, "--out_dir", tmp_path / "cut")
    names = "ema_0.9999_000008.pt", "model000008.pt", "averages.json"
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    found = checkpoint.newest_weights(tmp_path / "cut")
    assert found.name == names[0]

    # By hand, from the weights after each step.
    every = [*flags, "--save_interval", 1, "--out_dir", tmp_path / "every"]
    succeed("image_train", *every)
    states = [load_state(tmp_path / "every" / f"model{step:06d}.pt") for step in range(1, 9)]
    averages = [load_state(tmp_path / "every" / f"ema_0.9999_{s:06d}.pt") for s in range(1, 9)]
    for key in ("out.2.weight", "time_embed.0.weight"):
        for update in range(2, 9):
            kept = (1 + update) / (10 + update)
            before, now = averages[update - 2][key], states[update - 1][key]
            expected = kept * before + (1 - kept) * now
            torch.testing.assert_close(averages[update - 1][key], expected, rtol=1e-5, atol=1e-6)


def test_an_average_added_later_begins_where_it_was_added(runs, tmp_path):
    start = ["--resume_checkpoint", runs.source / "model000004.pt", "--ema_rate", "0.5,0.9"]
    out = succeed("image_train", *runs.training, *start, "--out_dir", tmp_path).out
    assert "no average of rate 0.9 beside" in out
    added = "of the average of rate 0.9, 66 % is still the weights of step 4, where it began"
    assert f"saved {tmp_path / 'model000008.pt'}; {added}" in out
    assert checkpoint.newest_weights(tmp_path).name == "ema_0.5_000008.pt"


@pytest.mark.parametrize("damaged", [False, True])
def test_data_that_vanishes_or_breaks_is_named_and_nothing_is_lost(
    runs, tmp_path, monkeypatch, damaged
):
    images = draw_images(tmp_path / "tiles", 5)
    monkeypatch.setattr(image_datasets, "CACHE_BYTES", 0)
    spoiled = images / "tile0_002.png"
    run_step = train_util.TrainLoop.run_step

    def run(loop, *batch):
        run_step(loop, *batch)
        if loop.done == 2:
            for path in images.iterdir():
                path.write_bytes(path.read_bytes()[:60]) if damaged else path.unlink()

    monkeypatch.setattr(train_util.TrainLoop, "run_step", run)
    flags = [*runs.training, "--data_dir", images, "--out_dir", tmp_path / "run"]
    result = call("image_train", *flags)
    assert result.code == 2 and result.err.count("\n") == 1
    assert result.last.startswith(f"error: after 3 steps: {images}/tile")
    assert result.last.endswith(
        f"the last save is {tmp_path / 'run' / 'model000003.pt'}; when the data is there again, "
        "the same command goes on"
    )
    monkeypatch.setattr(train_util.TrainLoop, "run_step", run_step)
    draw_images(images, 5)
    succeed("image_train", *flags)
    assert (tmp_path / "run" / "model000008.pt").exists() and spoiled.exists()
