"""Half-precision images on a CPU have the same bits in any batch, on any number of threads."""

import pytest
import torch
import torch.nn.functional as F
from support.reference_weights import draw

from guided_diffusion.networks import thread_split
from guided_diffusion.networks.nn import normalization
from guided_diffusion.networks.unet import UNetModel
from guided_diffusion.networks.upsampling import convolve_doubled

THREADS, IMAGES = (1, 2, 3, 4), 7
CONVOLUTION = torch.nn.Conv2d(64, 64, 3, padding=1)


@pytest.fixture(autouse=True)
def own_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def network(**changes):
    torch.manual_seed(0)
    shape = {
        "image_size": 32,
        "in_channels": 3,
        "model_channels": 64,
        "out_channels": 3,
        "num_res_blocks": 1,
        "attention_resolutions": (2,),
        "channel_mult": (1, 1),
        "num_head_channels": 32,
        **changes,
    }
    made = UNetModel(**shape).eval().requires_grad_(False)
    for weight in made.parameters():  # blocks begin as zeros, which hide what they compute
        weight.copy_(torch.randn_like(weight) * 0.05)
    made.to(memory_format=torch.channels_last)
    times = torch.arange(IMAGES) * 100
    return lambda x: made(x.float(), times[: len(x)])


KERNELS = {
    "group norm": (64, lambda: normalization(64).requires_grad_(False)),
    "enlarging": (64, lambda: lambda x: convolve_doubled(CONVOLUTION, x)),
    "U-Net": (3, network),
    "U-Net of updown blocks": (3, lambda: network(resblock_updown=True, num_res_blocks=0)),
    "hybrid U-Net": (3, lambda: network(hybrid={"window": 4, "priority": "both"})),
}


@pytest.mark.parametrize("name", KERNELS)
@torch.no_grad()
def test_an_image_in_bf16_has_the_same_bits_in_any_batch_on_any_number_of_threads(name):
    channels, make = KERNELS[name]
    images = draw(0, IMAGES, channels, 32, 32).to(torch.bfloat16)
    images, function = images.to(memory_format=torch.channels_last), make()
    with torch.autocast("cpu", torch.bfloat16):
        torch.set_num_threads(1)
        alone = function(images[:1])
        for threads in THREADS:
            torch.set_num_threads(threads)
            for count in (1, 3, IMAGES):
                assert torch.equal(function(images[:count])[:1], alone), (threads, count)


@pytest.mark.parametrize("threads", THREADS)
def test_a_batch_is_filled_up_to_a_multiple_of_the_threads(threads):
    torch.set_num_threads(threads)
    x, sizes = torch.ones(5, 2, 4, 4, dtype=torch.bfloat16), []

    def kernel(images):
        sizes.append(len(images))
        return 2 * images

    assert torch.equal(thread_split.whole_images(kernel, x), 2 * x)
    assert sizes[0] % threads == 0 and 5 <= sizes[0] < 5 + threads


def test_many_threads_and_float32_take_a_batch_as_it_is():
    torch.set_num_threads(2)
    assert thread_split.missing_images(torch.ones(3, 1)) == 0
    assert thread_split.missing_images(torch.ones(3, 1, dtype=torch.bfloat16)) == 1
    torch.set_num_threads(thread_split.MOST_THREADS + 1)
    assert thread_split.missing_images(torch.ones(3, 1, dtype=torch.bfloat16)) == 0


def test_a_filled_up_group_norm_is_right():
    x = draw(1, 3, 64, 32, 32).to(torch.bfloat16).to(memory_format=torch.channels_last)
    torch.set_num_threads(2)
    with torch.no_grad():
        found = normalization(64)(x)
    expected = F.group_norm(x.float(), 32, eps=1e-5)
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.01)
    assert found.is_contiguous(memory_format=torch.channels_last)
