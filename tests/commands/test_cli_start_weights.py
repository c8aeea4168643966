"""Trainings that begin with the weights of another: whose flags they take, and what they say."""

import json
import shutil

import pytest
from support.cli import TINY_CLASSIFIER, TRAINING, call, succeed

from guided_diffusion.config.network_settings import ModelSettings
from guided_diffusion.config.settings import defaults
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.models.domains import FREE_OF_TRAINING

QUICK = [*TRAINING, "--max_steps", 1, "--sample_interval", 0, "--dropout", 0]


def args_of(folder):
    return json.loads((folder / "args.json").read_text())["args"]


def test_flags_that_are_not_given_are_those_of_the_run_that_weights_come_from(runs, tmp_path):
    start = shutil.copytree(runs.source, tmp_path / "start")
    flags = [*QUICK, "--data_dir", runs.images, "--init_checkpoint", start]
    flags += ["--out_dir", tmp_path / "run"]
    result = succeed("image_train", *flags)
    told, own = args_of(start), args_of(tmp_path / "run")
    names = defaults(ModelSettings, ProcessSettings).keys() - FREE_OF_TRAINING
    assert {name: own[name] for name in names} == {name: told[name] for name in names}
    assert f"process from {start / 'args.json'}: --attention_resolutions '8'" in result.out
    assert "starting with" in result.out and "this training has" not in result.out
    shutil.rmtree(start)  # its own record tells the flags now
    assert "training on from" in succeed("image_train", *flags, "--max_steps", 2).out


def test_what_the_command_line_gives_wins_and_the_difference_is_said(runs, tmp_path):
    flags = [*QUICK, "--data_dir", runs.images, "--init_checkpoint", runs.source]
    other = "--num_heads 4 --noise_schedule cosine --diffusion_steps 50".split()
    result = succeed("image_train", *flags, *other, "--out_dir", tmp_path)
    for name, before, now in (
        ("num_heads", 2, 4),
        ("noise_schedule", "linear", "cosine"),
        ("diffusion_steps", 40, 50),
    ):
        said = f"trained with --{name} {before!r}, this training has {now!r}"
        assert f"{runs.source}: {said}" in result.out
    assert args_of(tmp_path)["num_heads"] == 4 and args_of(tmp_path)["image_size"] == 16


def test_a_recorded_value_that_is_not_allowed_is_refused_with_its_place(runs, tmp_path):
    start = shutil.copytree(runs.source, tmp_path / "start")
    record = json.loads((start / "args.json").read_text())
    record["args"]["predict_xstart"] = "False"
    (start / "args.json").write_text(json.dumps(record))
    flags = [*QUICK, "--data_dir", runs.images, "--init_checkpoint", start]
    result = call("image_train", *flags, "--out_dir", tmp_path / "run")
    assert result.code == 2 and result.last.endswith(
        f"--predict_xstart: expected True or False, got 'False' in {start / 'args.json'}"
    )
    assert not (tmp_path / "run").exists()


def test_a_classifier_starts_from_another_with_its_flags(runs, classifier, tmp_path):
    loop = [*TINY_CLASSIFIER[TINY_CLASSIFIER.index("--batch_size") :], "--iterations", 2]
    flags = ["--data_dir", runs.images, "--init_checkpoint", classifier, "--out_dir", tmp_path]
    result = succeed("classifier_train", *loop, *flags)
    own = args_of(tmp_path)
    assert (own["classifier_width"], own["num_classes"], own["diffusion_steps"]) == (32, 2, 40)
    assert "starting with" in result.out and str(classifier) in result.out


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("--num_heads 4", "--num_heads was 2, is 4"),
        ("--noise_schedule cosine", "--noise_schedule was 'linear', is 'cosine'"),
        ("--diffusion_steps 50", "--diffusion_steps was 40, is 50"),
        ("--predict_xstart True", "--predict_xstart was False, is True"),
        ("--use_new_attention_order True", "--use_new_attention_order was False, is True"),
    ],
)
@pytest.mark.parametrize("name", ["", "model000008.pt"])
def test_a_training_goes_on_only_with_what_its_weights_were_trained_for(
    runs, tmp_path, other, said, name
):
    flags = [*runs.training, *other.split(), "--resume_checkpoint", runs.source / name]
    result = call("image_train", *flags, "--out_dir", tmp_path / "run")
    assert result.code == 2 and f"was trained otherwise ({said})" in result.last
    assert "--init_checkpoint" in result.last and not (tmp_path / "run").exists()


def test_another_loss_or_size_is_said_and_goes_on(runs, tmp_path):
    flags = [*runs.training, "--max_steps", 9, "--sample_interval", 0, "--use_kl", "True"]
    flags += ["--resume_checkpoint", runs.source, "--out_dir", tmp_path]
    result = succeed("image_train", *flags)
    assert f"{runs.source}: --use_kl was False, is True" in result.out
