"""Small images: averages of large ones in training, and given ones of the right size."""

import torch
from reference_weights import draw

from guided_diffusion import super_res


def test_small_images_are_means_over_areas():
    large = draw(0, 2, 3, 16, 16)
    means = large.reshape(2, 3, 8, 2, 8, 2).mean(dim=(3, 5))
    torch.testing.assert_close(super_res.downsample(large, 8), means)
    assert super_res.downsample(large, 5).shape == (2, 3, 5, 5)
    torch.testing.assert_close(super_res.downsample(large, 16), large)


def test_batches_keep_their_images_and_conditions_and_get_small_ones():
    first, second = draw(0, 2, 3, 16, 16), draw(1, 2, 3, 16, 16)
    batches = [(first, {"y": torch.tensor([4, 2])}), (second, {})]
    (images, conditions), (more, others) = super_res.with_low_res(batches, 8)
    assert images is first and more is second
    assert conditions["y"].tolist() == [4, 2] and others.keys() == {"low_res"}
    assert torch.equal(conditions["low_res"], super_res.downsample(first, 8))
    assert torch.equal(others["low_res"], super_res.downsample(second, 8))
    assert batches[1][1] == {}


def test_pixelated_images_show_the_pixels_of_the_small_ones():
    small = draw(0, 1, 3, 4, 4)
    large = super_res.pixelated(small, 8)
    assert torch.equal(large[..., ::2, ::2], small) and torch.equal(large[..., 1::2, 1::2], small)
