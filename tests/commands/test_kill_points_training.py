"""Trainings that are killed at any point, or whose writes and reads fail: nothing is lost."""

import pytest
from support.cli import TINY_CLASSIFIER
from support.faults import KINDS, Trials, shares

from guided_diffusion.runtime.faults import Fault


@pytest.fixture(scope="module")
def training(runs, tmp_path_factory):
    return Trials("image_train", runs.training, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def classifying(runs, tmp_path_factory):
    argv = [*TINY_CLASSIFIER, "--data_dir", runs.images]
    return Trials("classifier_train", argv, tmp_path_factory.mktemp("classifying"))


@pytest.mark.parametrize("share", shares(3))
def test_a_killed_training_ends_as_if_nothing_had_happened(training, share):
    training.kill(share)


def test_a_kill_between_a_checkpoint_and_its_digest_leaves_none_without_in_the_end(training):
    files = [name for name in training.expected if "000004.pt" in name]
    training.disturb(Fault("write.open", 1 + len(files), "kill"))


@pytest.mark.long
@pytest.mark.parametrize("share", shares(100))
def test_a_training_killed_anywhere_ends_as_if_nothing_had_happened(training, share):
    training.kill(share)


@pytest.mark.long
@pytest.mark.parametrize("share", shares(20))
def test_a_classifier_killed_anywhere_ends_as_if_nothing_had_happened(classifying, share):
    classifying.kill(share)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("point", "share"),
    [("write.", 0.2), ("write.", 0.5), ("write.", 0.9), ("log.", 0.3), ("log.", 0.8)],
)
def test_a_training_whose_write_fails_says_where_and_goes_on_later(training, point, share, kind):
    training.fail(point, share, kind)


@pytest.mark.parametrize(("point", "share", "kind"), [("write.data", 0.5, "ENOSPC")])
def test_a_training_on_a_full_disk_says_where_and_goes_on_later(training, point, share, kind):
    training.fail(point, share, kind)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5])
def test_a_training_whose_reading_fails_says_where_and_goes_on_later(training, share, kind):
    training.fail("read.", share, kind)
