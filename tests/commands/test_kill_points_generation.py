"""Generation and sampling that are killed at any point, or whose writes and reads fail."""

import pytest
from support.cli import SEQUENCES
from support.faults import KINDS, Trials, shares

SMALL = "--num_samples 5 --batch_size 2 --timestep_respacing 4 --device cpu".split()


@pytest.fixture(scope="module")
def sequences(runs, tmp_path_factory):
    argv = [*runs.sequences, "--num_images", 2, "--amount", 2, "--save_latents", "True"]
    return Trials(SEQUENCES, argv, tmp_path_factory.mktemp("sequences"))


@pytest.fixture(scope="module")
def sampling(runs, tmp_path_factory):
    argv = ["--model_path", runs.source, *SMALL]
    return Trials("image_sample", argv, tmp_path_factory.mktemp("sampling"))


@pytest.fixture(scope="module")
def measuring(runs, tmp_path_factory):
    argv = ["--model_path", runs.source, "--data_dir", runs.images, *SMALL]
    return Trials("image_nll", argv, tmp_path_factory.mktemp("measuring"))


@pytest.mark.parametrize("share", shares(3))
def test_a_killed_generation_ends_as_if_nothing_had_happened(sequences, share):
    sequences.kill(share)


@pytest.mark.parametrize("share", shares(2))
def test_a_killed_sampling_ends_as_if_nothing_had_happened(sampling, share):
    sampling.kill(share)


@pytest.mark.long
@pytest.mark.parametrize("share", shares(80))
def test_a_generation_killed_anywhere_ends_as_if_nothing_had_happened(sequences, share):
    sequences.kill(share)


@pytest.mark.long
@pytest.mark.parametrize("share", shares(23))
def test_a_sampling_killed_anywhere_ends_as_if_nothing_had_happened(sampling, share):
    sampling.kill(share)


@pytest.mark.long
@pytest.mark.parametrize("share", shares(10))
def test_a_measuring_killed_anywhere_ends_as_if_nothing_had_happened(measuring, share):
    measuring.kill(share)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("point", "share"),
    [
        *(("write.", 0.3), ("write.", 0.8), ("append.", 0.5), ("log.", 0.6)),
        # Early reads are checkpoints and records; pictures that cannot be read are made again.
        *(("array.", 0.2), ("array.", 0.9), ("read.", 0.3)),
    ],
)
def test_a_generation_that_a_call_fails_says_where_and_goes_on_later(sequences, point, share, kind):
    sequences.fail(point, share, kind)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("point", "share"), [("write.", 0.4), ("log.", 0.5), ("array.", 0.5), ("read.", 1.0)]
)
def test_a_sampling_that_a_call_fails_says_where_and_goes_on_later(sampling, point, share, kind):
    sampling.fail(point, share, kind)


@pytest.mark.parametrize(("point", "kind"), [("array.store", "EIO"), ("append.row", "ENOSPC")])
def test_a_generation_on_a_failing_disk_says_where_and_goes_on_later(sequences, point, kind):
    sequences.fail(point, 0.5, kind)
