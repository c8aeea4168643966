"""Metrics of the classifier, its loop, and the data that it refuses."""

import shutil

import pytest
import torch
from support.cli import draw_images

from guided_diffusion.data.settings import FolderSettings
from guided_diffusion.errors import UserError
from guided_diffusion.image_datasets import load_data
from guided_diffusion.resample import LossSecondMomentResampler
from guided_diffusion.script_util import create_gaussian_diffusion
from guided_diffusion.training.class_records import classes_to_learn
from guided_diffusion.training.classifier_training import (
    ClassifierLoop,
    check_classes,
    classification,
    correct_at,
)
from guided_diffusion.training.settings import LoopSettings
from guided_diffusion.unet import EncoderUNetModel

LOGITS = torch.tensor([[3.0, 1, 2, 0, -1, -2], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])


def test_top_k_counts_a_class_among_the_k_highest():
    labels = torch.tensor([2, 5, 5])
    assert correct_at(LOGITS, labels, 1).tolist() == [0, 1, 0]
    assert correct_at(LOGITS, labels, 2).tolist() == [1, 1, 0]
    assert correct_at(LOGITS, labels, 5).tolist() == [1, 1, 0]
    assert correct_at(LOGITS, labels, 6).tolist() == [1, 1, 1]


def test_fewer_classes_than_guesses_are_all_guessed():
    assert correct_at(LOGITS[:, :2], torch.tensor([1, 0, 1]), 5).tolist() == [1, 1, 1]


def test_the_loss_is_the_cross_entropy_of_each_image():
    labels = torch.tensor([2, 5, 5])
    found = classification(LOGITS.half(), labels)
    expected = [-LOGITS[i].softmax(0)[label].log() for i, label in enumerate(labels)]
    torch.testing.assert_close(found["loss"], torch.stack(expected))
    assert found["acc@1"].tolist() == [0, 1, 0] and found["acc@5"].tolist() == [1, 1, 0]


class Watched(torch.nn.Module):
    """A classifier that notes what it is shown."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Linear(3 * 16 * 16, 2)
        self.shown = []

    def forward(self, x, t):
        self.shown.append((x.detach().clone(), t.clone(), self.training))
        return self.weights(x.flatten(1))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"), 6)


@pytest.fixture
def make(images, tmp_path, recorder):
    def build(model=None, respacing="", sampler=None, **changes):
        options = {
            "batch_size": 4,
            "microbatch": -1,
            "lr": 1e-3,
            "log_interval": 1,
            "save_interval": 10**6,
            "resume_checkpoint": "",
            "max_steps": 2,
        }
        diffusion = create_gaussian_diffusion(steps=40, timestep_respacing=respacing)
        data = load_data(data_dir=images, batch_size=4, image_size=16, class_cond=True)
        return ClassifierLoop(
            model or Watched(),
            diffusion,
            data,
            out_dir=tmp_path,
            schedule_sampler=sampler(diffusion) if sampler else None,
            **(options | changes),
        )

    return build


def test_noisy_images_are_shown_with_the_timesteps_of_the_whole_process(make):
    loop = make(respacing="4", max_steps=8)
    loop.run_loop()
    told = torch.cat([t for _, t, _ in loop.model.shown])
    assert set(told.tolist()) == {0, 13, 26, 39}
    spread = {t: x[0].std() for x, ts, _ in loop.model.shown for t in ts[:1].tolist()}
    assert all(x.abs().max() > 1.2 for x, ts, _ in loop.model.shown if ts.max() >= 26), spread


def test_without_noise_images_are_shown_clean_at_timestep_0(make):
    loop = make(noised=False, sampler=LossSecondMomentResampler)
    loop.run_loop()
    for x, t, _ in loop.model.shown:
        assert x.abs().max() <= 1 and not t.any()


def test_unseen_images_are_judged_every_so_often_in_eval_mode(make, images, recorder):
    unseen = load_data(data_dir=images, batch_size=4, image_size=16, class_cond=True, seed=1)
    loop = make(val_data=unseen, eval_interval=2, max_steps=4, microbatch=3)
    weights = [p.clone() for p in loop.model.parameters()]
    loop.run_loop()
    assert ["val_loss" in row for row in recorder.rows] == [False, True, False, True]
    assert recorder.rows[1].keys() >= {
        "train_loss",
        "train_acc@1",
        "train_acc@5",
        "val_loss",
        "val_acc@1",
        "val_acc@5",
    }
    assert recorder.rows[0]["train_acc@5"] == 1  # of two classes
    modes = [training for _, _, training in loop.model.shown]
    assert modes == [True] * 4 + [False] * 2 + [True] * 4 + [False] * 2
    assert loop.model.training
    assert not all(map(torch.equal, weights, loop.model.parameters()))


def test_judging_changes_nothing_in_the_training(make, images, tmp_path):
    unseen = load_data(data_dir=images, batch_size=4, image_size=16, class_cond=True, seed=1)
    weights = []
    for val_data in (None, unseen):
        torch.manual_seed(0)
        loop = make(val_data=val_data, eval_interval=1)
        loop.run_loop()
        weights.append([p.detach().clone() for p in loop.model.parameters()])
        shutil.rmtree(tmp_path)
    assert all(map(torch.equal, *weights))


def test_microbatches_add_up_to_the_batch(make, tmp_path):
    weights = []
    for microbatch in (-1, 3):
        torch.manual_seed(0)
        loop = make(microbatch=microbatch)
        loop.run_loop()
        weights.append([p.detach().clone() for p in loop.model.parameters()])
        shutil.rmtree(tmp_path)
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_the_float16_recipe_trains_and_saves_float32(make, tmp_path, recorder):
    network = EncoderUNetModel(
        16,
        3,
        32,
        2,
        1,
        (),
        channel_mult=(1,),
        use_scale_shift_norm=True,
        pool="adaptive",
        use_fp16=True,
    )
    make(network, use_fp16=True).run_loop()
    state = torch.load(tmp_path / "model000002.pt", weights_only=True)
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert recorder.rows[1]["lg_loss_scale"] > 0


def learned(folder, tmp_path, **options):
    images = FolderSettings(data_dir=str(folder))
    return classes_to_learn(images, 3, LoopSettings(**options), tmp_path / "run")


def test_unseen_images_of_the_same_classes_are_accepted(images, tmp_path):
    classes = learned(images, tmp_path)
    assert classes.numbers == {"tile0": 0, "tile1": 1} and classes.counts == {0: 3, 1: 3}
    check_classes(classes, 2, "", 3, "prefix")
    check_classes(classes, 1000, str(images), 3, "prefix")


def test_data_of_too_many_or_too_few_classes_is_refused(images, tmp_path):
    with pytest.raises(UserError, match=r"data_dir: expected 2 to 1 classes .*, found 2: 0 tile0"):
        check_classes(learned(images, tmp_path), 1, "", 3, "prefix")
    shutil.copy(images / "tile0_000.png", tmp_path)
    with pytest.raises(UserError, match="data_dir: expected 2 to 9 classes .*, found 1: 0 tile0"):
        check_classes(learned(tmp_path, tmp_path), 9, "", 3, "prefix")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tile1_1.png", "of all classes 0 tile0, 1 tile1, found tile1"),
        ("b_1.png", r"the classes 0 tile0, 1 tile1 \(.*\), found the classes b \("),
    ],
)
def test_unseen_images_of_other_classes_are_refused_with_both_lists(
    images, tmp_path, name, message
):
    (tmp_path / "unseen").mkdir()
    shutil.copy(images / "tile1_001.png", tmp_path / "unseen" / name)
    with pytest.raises(UserError, match=f"val_data_dir: expected images .*{message}"):
        check_classes(learned(images, tmp_path), 2, str(tmp_path / "unseen"), 3, "prefix")
