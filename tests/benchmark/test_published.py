"""The published procedure of the benchmark: the same result as ours, at its own cost."""

import ast
from pathlib import Path

import pytest
import torch
from support.reference_images import blurred_noise
from support.toy_domains import ReferenceSource, ReferenceTarget, domain

from guided_diffusion import logger, nn
from guided_diffusion.benchmark import published
from guided_diffusion.networks import attention
from guided_diffusion.script_util import create_model_and_diffusion, model_and_diffusion_defaults
from guided_diffusion.translation import depth_policies
from guided_diffusion.translation.encode_decode import decode, encode
from guided_diffusion.translation.predictor import Predictor
from guided_diffusion.translation.settings import WalkSettings

PACKAGE = Path(published.__file__).parent
TINY = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
    "num_heads": 2,
    "diffusion_steps": 40,
}


@pytest.fixture
def pair():
    return domain(ReferenceSource(), 16, "40"), domain(ReferenceTarget(), 16, "40")


@pytest.mark.parametrize("seed", [0, 1])
def test_it_makes_the_sequence_that_ours_makes(pair, seed):
    image, engine = blurred_noise(seed, 16), WalkSettings()
    made = published.sequence(*pair, image, 5)
    encoder, decoder = (Predictor(d) for d in pair)
    trajectory, features = encode(encoder, image, engine)
    chosen = depth_policies.add(features[0], 5).values
    images = decode(decoder, trajectory.at(0, chosen), chosen, engine)
    assert made.depths == chosen
    torch.testing.assert_close(made.images, images, atol=1e-4, rtol=0)
    # It walks the encoding a second time, to the deepest depth.
    assert made.forwards == published.count_forwards(chosen, 40)
    assert made.forwards == encoder.forwards + decoder.forwards + max(chosen)


def test_ten_depths_of_a_thousand_levels_cost_what_the_published_script_spends():
    evenly = [*range(100, 1000, 100), 999]
    assert published.count_forwards(evenly, 1000) == 1000 + 999 + 5499


@pytest.mark.parametrize("masked", [False, True])
def test_unfused_attention_equals_the_fused_kernel(masked):
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.eye(9, dtype=torch.bool).roll(1, 0)[None, None] | torch.eye(9, dtype=torch.bool)
    mask = mask.expand(2, 1, 9, 9) if masked else None
    torch.testing.assert_close(published.attend(q, k, v, mask), attention.attend(q, k, v, mask))


def test_a_network_computes_the_same_in_either_arithmetic_and_is_left_as_it_was():
    network, _ = create_model_and_diffusion(**model_and_diffusion_defaults() | TINY)
    network.to(memory_format=torch.channels_last).eval()
    for parameter in network.parameters():  # some start at 0
        parameter.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    states, t = blurred_noise(0, 16), torch.tensor([3])
    fused = attention.attend, nn.SiLU.forward, nn.convolve_doubled
    ours = network(states, t)
    with published.arithmetic(network):
        used = attention.attend, nn.SiLU.forward, nn.convolve_doubled
        assert used == (published.attend, published.silu, published.convolve_doubled)
        assert network.input_blocks[0][0].weight.is_contiguous()
        torch.testing.assert_close(network(states, t), ours, atol=1e-4, rtol=1e-4)
    assert (attention.attend, nn.SiLU.forward, nn.convolve_doubled) == fused
    layout = torch.channels_last
    assert network.input_blocks[0][0].weight.is_contiguous(memory_format=layout)


def test_training_learns_and_logs_on_the_host(recorder):
    network, diffusion = create_model_and_diffusion(**model_and_diffusion_defaults() | TINY)
    before = [p.detach().clone() for p in network.parameters()]
    data = [blurred_noise(seed, 16) for seed in range(3)]
    assert list(published.train(network, diffusion, data, 1e-3, 0.9)) == [1, 2, 3]
    assert any(not torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))
    row = logger.dumpkvs()
    assert {"loss", "mse", "grad_norm", "param_norm"} <= row.keys()
    assert any(key.startswith("loss_q") for key in row)


def test_nothing_but_the_benchmark_uses_it():
    users = {
        path.stem
        for path in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module == "published" or "published" in {a.name for a in node.names})
    }
    assert users == {"network_timing", "sequence_timing"}
