"""`classifier_train.py` and `classifier_sample.py` as a user runs them."""

import json

import numpy as np
import pytest
import torch
from support.cli import TINY_CLASSIFIER, Killed, call, grey_levels_apart, read_csv, succeed

from guided_diffusion.sampling import new_images

SAMPLING = "--num_samples 5 --timestep_respacing 8 --device cpu".split()


def train(runs, folder, *flags):
    return succeed(
        "classifier_train", *TINY_CLASSIFIER, "--data_dir", runs.images, *flags, "--out_dir", folder
    )


def sample(model, classifier, folder, *flags):
    networks = ["--model_path", model, "--classifier_path", classifier]
    succeed("classifier_sample", *networks, *SAMPLING, *flags, "--out_dir", folder)
    with np.load(folder / "samples_5x16x16x3.npz", allow_pickle=False) as file:
        return dict(file)


def weights(path):
    return torch.load(path, weights_only=True)


def test_a_run_holds_checkpoints_flags_and_a_log_with_upstreams_names(classifier):
    names = {path.name for path in classifier.iterdir() if path.suffix != ".sha256"}
    assert names == {
        "args.json",
        "labels.json",
        "log.txt",
        "progress.csv",
        "progress.jsonl",
        "model000002.pt",
        "model000004.pt",
        "opt000002.pt",
        "opt000004.pt",
    }
    assert json.loads((classifier / "args.json").read_text())["args"]["num_classes"] == 2
    rows = read_csv(classifier / "progress.csv")
    assert [row["step"] for row in rows] == ["2", "4"]
    for name in ("train_loss", "train_acc@1", "train_acc@5", "val_loss", "val_acc@1", "val_acc@5"):
        assert all(float(row[name]) >= 0 for row in rows), name
    assert json.loads((classifier / "labels.json").read_text()) == {"tile0": 0, "tile1": 1}
    assert "0  tile0: 3 images" in (classifier / "log.txt").read_text()


@pytest.mark.parametrize("flags", [[], ["--anneal_lr", "True", "--microbatch", "1"]])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(runs, tmp_path, flags):
    train(runs, tmp_path / "whole", *flags)
    train(runs, tmp_path / "halves", *flags)
    for path in (tmp_path / "halves").glob("*000004.pt"):
        path.unlink()
    assert "training on from" in train(runs, tmp_path / "halves", *flags).out
    for name in ("model000004.pt", "opt000004.pt"):
        whole, halves = (weights(tmp_path / part / name) for part in ("whole", "halves"))
        torch.testing.assert_close(halves, whole, rtol=0, atol=0)


def test_more_iterations_go_on_from_where_fewer_ended_unless_the_rate_falls(runs, tmp_path):
    train(runs, tmp_path / "more")
    train(runs, tmp_path / "more", "--iterations", 5)
    assert (tmp_path / "more" / "model000005.pt").exists()
    flags = [*TINY_CLASSIFIER, "--data_dir", runs.images, "--out_dir", tmp_path / "falls"]
    succeed("classifier_train", *flags, "--anneal_lr")
    result = call("classifier_train", *flags, "--anneal_lr", "--iterations", 5)
    assert result.code == 2 and "--iterations was 4, is 5" in result.last


def test_the_network_has_a_thousand_classes_by_default(runs, tmp_path):
    flags = ["--num_classes", 1000, "--iterations", 1]
    train(runs, tmp_path, *flags)
    assert weights(tmp_path / "model000001.pt")["out.2.c_proj.bias"].shape == (1000,)


@pytest.mark.parametrize("sampler", [[], ["--use_ddim", "True"]])
def test_samples_have_labels_and_do_not_depend_on_the_batch_size(
    runs, classifier, tmp_path, sampler
):
    one, three = (
        sample(runs.source, classifier, tmp_path / str(size), "--batch_size", size, *sampler)
        for size in (1, 3)
    )
    assert one["arr_0"].shape == (5, 16, 16, 3) and one["arr_0"].dtype == np.uint8
    assert set(one["arr_1"].tolist()) == {0, 1}
    assert np.array_equal(one["arr_1"], three["arr_1"])
    assert grey_levels_apart(one["arr_0"], three["arr_0"]) <= 1
    names = {path.name for path in (tmp_path / "1").iterdir()}
    logs = {"args.json", "log.txt", "progress.csv"}
    assert names == {"samples_5x16x16x3.npz", "samples.png"} | logs


def test_scale_and_classes_steer_the_samples(runs, classifier, tmp_path):
    free = sample(runs.source, classifier, tmp_path / "free", "--classifier_scale", 0)
    strong = sample(runs.source, classifier, tmp_path / "strong", "--classifier_scale", 30)
    asked = sample(
        runs.source, classifier, tmp_path / "asked", "--classifier_scale", 30, "--classes", 1
    )
    assert asked["arr_1"].tolist() == [1] * 5
    assert grey_levels_apart(free["arr_0"], strong["arr_0"]) > 10
    pairs = zip(asked["arr_0"], strong["arr_0"], strict=True)
    alike = [grey_levels_apart(*pair) <= 1 for pair in pairs]
    assert alike == [label == 1 for label in strong["arr_1"]]


def test_a_class_conditional_model_is_sampled_with_and_without_a_classifier(
    conditional, classifier, tmp_path
):
    alone = sample(conditional, "", tmp_path / "alone", "--classes", "0,1")
    guided = sample(
        conditional, classifier, tmp_path / "guided", "--classes", "0,1", "--classifier_scale", 30
    )
    assert np.array_equal(alone["arr_1"], guided["arr_1"])
    assert grey_levels_apart(alone["arr_0"], guided["arr_0"]) > 10


def test_a_killed_run_keeps_its_images_and_draws_only_the_others(
    runs, classifier, tmp_path, monkeypatch
):
    expected = sample(runs.source, classifier, tmp_path / "whole", "--batch_size", 2)
    asked, draw = [], new_images.draw

    def killed(domain, shape, indices, *settings, **options):
        asked.append(list(indices))
        if len(asked) == 2:
            raise Killed
        return draw(domain, shape, indices, *settings, **options)

    monkeypatch.setattr(new_images, "draw", killed)
    with pytest.raises(Killed):
        sample(runs.source, classifier, tmp_path / "halves", "--batch_size", 2)
    found = sample(runs.source, classifier, tmp_path / "halves", "--batch_size", 3)
    assert asked == [[0, 1], [2, 3], [2, 3, 4]]
    assert grey_levels_apart(found["arr_0"], expected["arr_0"]) <= 1
    assert np.array_equal(found["arr_1"], expected["arr_1"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--classifier_path=", "--classifier_path: expected a classifier, or a class-cond"),
        ("--classifier_path {model}", "(check --classifier_path)"),
        ("--model_path {classifier}", "checkpoint and flags describe different networks"),
        ("--classifier_width 64", "(check --classifier_width)"),
        ("--classifier_depth 2", "trained with --classifier_depth 1, used with 2: checkpoint and"),
        ("--classifier_pool spatial", "(check --classifier_pool)"),
        ("--classifier_resblock_updown False", "(check --classifier_resblock_updown)"),
        ("--classes 0,2", "of the classes 0 tile0, 1 tile1 ({classifier}/labels.json), got '2'"),
        ("--classes x", "--classes: expected names or numbers with commas between, of the"),
        ("--classifier_path {other}", "--noise_schedule: classifier and diffusion model need"),
    ],
)
def test_a_mistake_in_sampling_is_told_in_a_line(runs, classifier, tmp_path, flags, message):
    if "{other}" in flags:
        train(runs, tmp_path / "other", "--noise_schedule", "cosine", "--iterations", 1)
    places = {"model": runs.source, "classifier": classifier, "other": tmp_path / "other"}
    right = ["--model_path", runs.source, "--classifier_path", classifier, *SAMPLING]
    words = [word.format(**places) for word in flags.split()]
    result = call("classifier_sample", *right, "--out_dir", tmp_path / "out", *words)
    assert result.code == 2 and message.format(**places) in result.last, result.err
    assert not (tmp_path / "out").exists()
