import numpy as np
import pytest
import torch
from PIL import Image
from support.reference_images import blurred_noise
from support.toy_domains import ReferenceSource, ReferenceTarget, domain

from guided_diffusion.data.image_formats import open_images
from guided_diffusion.errors import UserError
from guided_diffusion.translation import sequences
from guided_diffusion.translation.sequences import Recipe
from guided_diffusion.translation.settings import BatchSettings, DepthSettings, WalkSettings

STEPS = "40"


@pytest.fixture
def pair():
    return domain(ReferenceSource(), 16, STEPS), domain(ReferenceTarget(), 16, STEPS)


@pytest.fixture
def files(tmp_path):
    for index in range(5):
        tile = ((blurred_noise(index, 16)[0].permute(1, 2, 0) + 1) * 127.5).byte().numpy()
        Image.fromarray(tile).save(tmp_path / f"{index}.png")
    return open_images(tmp_path, 16)


@pytest.mark.parametrize(
    ("policy", "feature"), [("add", "magnitude"), ("even", "power"), ("uniform", "magnitude")]
)
def test_each_image_gets_the_sequence_it_would_get_alone(pair, files, policy, feature):
    alone, together = (
        list(sequences.Sequences(*pair, files, Recipe(depths, batches=BatchSettings(n, most))))
        for depths in [DepthSettings(4, policy, feature)]
        for n, most in ((1, 64), (3, 2))
    )
    assert len(alone) == len(together) == 5
    for one, other in zip(alone, together, strict=True):
        assert (one.index, one.source_file, one.depths) == (
            other.index,
            other.source_file,
            other.depths,
        )
        torch.testing.assert_close(one.latents, other.latents, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.images, other.images, atol=1e-5, rtol=0)


def test_labels_and_timesteps_of_a_sequence(pair, files):
    (found,) = sequences.Sequences(*pair, files.first(1), Recipe(DepthSettings(4, "uniform")))
    assert found.depths.values == (10, 20, 30, 40)
    assert found.timesteps == [int(pair[0].diffusion.timestep_map[d - 1]) for d in (10, 20, 30, 40)]
    assert found.labels == [(0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0)]
    assert np.array_equal(found.source, np.asarray(Image.open(files.name(0))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda: {"depths": DepthSettings(41)}, "amount: expected 1 to 40 .* got 41"),
        (lambda: {"depths": DepthSettings(depth_policy="odd")}, "depth_policy: .*'odd'"),
        (lambda: {"depths": DepthSettings(depth_feature="colour")}, "depth_feature: .*'colour'"),
        (
            lambda: {"depths": DepthSettings(depth_feature="power")},
            "depth_feature: .*is defined on magnitude, got 'power'",
        ),
        (lambda: {"walk": WalkSettings(solver="euler")}, "solver: .*'euler'"),
    ],
)
def test_recipes_that_cannot_work_are_refused_before_a_forward(pair, files, changes, message):
    with pytest.raises(UserError, match=message):
        sequences.Sequences(*pair, files, Recipe(**changes()))


def test_domains_of_different_processes_are_refused(pair, files):
    other = domain(ReferenceTarget(), 16, "50")
    with pytest.raises(UserError, match="timestep_respacing: .*'40'.*'50'"):
        sequences.Sequences(pair[0], other, files, Recipe())
