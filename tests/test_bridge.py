import numpy as np
import pytest
import torch
from PIL import Image
from reference_images import blurred_noise, reference_add
from toy_domains import ReferenceSource, ReferenceTarget, domain

from guided_diffusion import bridge, depth
from guided_diffusion.flags import UserError

STEPS = "40"


@pytest.fixture
def pair():
    return domain(ReferenceSource(), 16, STEPS), domain(ReferenceTarget(), 16, STEPS)


@pytest.fixture
def files(tmp_path):
    for index in range(5):
        tile = ((blurred_noise(index, 16)[0].permute(1, 2, 0) + 1) * 127.5).byte().numpy()
        Image.fromarray(tile).save(tmp_path / f"{index}.png")
    return sorted(str(path) for path in tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("case", "size", "respacing", "seed"),
    [("pipe1000", 64, "", 32), ("pipe_respaced", 128, "100", 33)],
)
def test_reference_pipeline(case, size, respacing, seed):
    expected = {k.rpartition("/")[2]: v for k, v in reference_add().items() if case + "/" in k}
    image = blurred_noise(seed, size)
    source, target = (domain(net(), size, respacing) for net in (ReferenceSource, ReferenceTarget))
    trajectory, features = bridge.encode(source, image, "reference")
    chosen = depth.choose("add", features[0], len(expected["depths"]))
    latents = trajectory.at(0, chosen.values, image[0])
    images = bridge.decode(target, latents, chosen.values)

    stride = 2 * (size // 32)
    np.testing.assert_allclose(features[0].mean(1)[::-1], expected["magnitudes"], rtol=1e-4)
    assert list(chosen.values) == expected["depths"].tolist()
    for found, name in ((latents, "latents_strided"), (images, "targets_strided")):
        strided = found[:, None, :, ::stride, ::stride].numpy()
        np.testing.assert_allclose(strided, expected[name], atol=1e-4)


@pytest.mark.parametrize(
    ("policy", "feature"), [("add", "magnitude"), ("even", "power"), ("uniform", "magnitude")]
)
def test_each_image_gets_the_sequence_it_would_get_alone(pair, files, policy, feature):
    alone, together = (
        list(bridge.Sequences(*pair, files, bridge.Recipe(4, policy, feature, **sizes)))
        for sizes in ({"batch_size": 1, "max_batch": 64}, {"batch_size": 3, "max_batch": 2})
    )
    assert len(alone) == len(together) == 5
    for one, other in zip(alone, together, strict=True):
        assert (one.index, one.source_file, one.depths) == (
            other.index, other.source_file, other.depths,
        )  # fmt: skip
        torch.testing.assert_close(one.latents, other.latents, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.images, other.images, atol=1e-5, rtol=0)


def test_wavefront_decode_equals_decoding_each_depth_alone(pair):
    latents = torch.cat([blurred_noise(seed, 16) for seed in range(4)])
    depths = [7, 40, 0, 7]
    together = bridge.decode(pair[1], latents, depths, max_batch=3)
    moves = bridge.decode_moves(pair[1].diffusion)
    for i, d in enumerate(depths):
        *_, alone = [latents[i : i + 1], *bridge.walk(pair[1], latents[i : i + 1], moves[40 - d :])]
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


def test_encoding_equals_the_published_loop(pair):
    image = blurred_noise(5, 16)
    trajectory, features = bridge.encode(pair[0], image, "reference")
    process, network = pair[0].diffusion, pair[0].model
    expected = process.ddim_reverse_sample_loop(network, image, clip_denoised=False, diffway_end=9)
    torch.testing.assert_close(trajectory.at(0, [9], image[0]), expected, atol=1e-5, rtol=0)
    listed = process.fourier_frequency_list_loop(network, image, clip_denoised=False)
    np.testing.assert_allclose(features[0].mean(axis=1), listed, rtol=1e-4)


def test_conventions_start_and_join_as_they_say(pair):
    process = pair[0].diffusion
    reference, aligned = (bridge.encode_moves(process, name) for name in bridge.CONVENTIONS)
    decoding = bridge.decode_moves(process)[::-1]
    assert reference[0].level_cur == process.alphas_cumprod[0]
    assert reference[-1].level_next == 0
    assert aligned[0].level_cur == 1
    for there, back, published in zip(aligned, decoding, reference, strict=True):
        assert (there.level_cur, there.level_next) == (back.level_next, back.level_cur)
        assert there.timestep == back.timestep
        assert published.level_next < back.level_cur
    for moves in (reference, aligned):
        ends, starts = [m.level_next for m in moves[:-1]], [m.level_cur for m in moves[1:]]
        assert ends == starts


def gaussian_eps(domain_, spread):
    """The exact noise prediction for data N(0, spread^2), at the levels of a process."""
    levels = torch.from_numpy(domain_.diffusion.alphas_cumprod).float()

    class Exact(torch.nn.Module):
        def forward(self, x, t):
            a = levels[t].reshape(-1, 1, 1, 1)
            eps = x * (1 - a).sqrt() / (a * spread**2 + 1 - a)
            return torch.cat([eps, eps], dim=1)

    return Exact()


def test_aligned_levels_close_the_round_trip_better_than_the_published_ones():
    # The network is exact for Gaussian data, so that the error is the solver's alone.
    exact = domain(ReferenceSource(), 16)
    exact.model = gaussian_eps(exact, 0.5)
    image = 0.5 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    error = {}
    for convention in bridge.CONVENTIONS:
        trajectory, _ = bridge.encode(exact, image, convention)
        for depth_ in (100, 600):
            latents = torch.cat([trajectory.at(i, [depth_], image[i]) for i in range(4)])
            returned = bridge.decode(exact, latents, [depth_] * 4)
            error[convention, depth_] = (returned - image).square().mean().sqrt().item()
    assert error["aligned", 100] < 0.25 * error["reference", 100]
    assert error["aligned", 600] < 0.5 * error["reference", 600]


def test_a_large_trajectory_goes_to_a_file_and_holds_the_same(pair):
    images = torch.cat([blurred_noise(seed, 16) for seed in range(2)])
    kept, _ = bridge.encode(pair[0], images, "aligned", memory_gb=1)
    filed, _ = bridge.encode(pair[0], images, "aligned", memory_gb=1e-6)
    assert isinstance(filed.states, np.memmap)
    assert not isinstance(kept.states, np.memmap)
    assert np.array_equal(kept.states, filed.states)


def test_labels_and_timesteps_of_a_sequence(pair, files):
    (found,) = bridge.Sequences(*pair, files[:1], bridge.Recipe(4, "uniform"))
    assert found.depths.values == (10, 20, 30, 40)
    assert found.timesteps == [int(pair[0].diffusion.timestep_map[d - 1]) for d in (10, 20, 30, 40)]
    assert found.labels == [(0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0)]
    assert np.array_equal(found.source, np.asarray(Image.open(files[0])))


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_dealing_covers_every_image_once(count):
    batches = bridge.deal(count, 3)
    assert [i for batch in batches for i in batch] == list(range(count))
    assert all(len(batch) <= 3 for batch in batches)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"amount": 41}, "--amount: expected 1 to 40 .* got 41"),
        ({"depth_policy": "odd"}, "--depth_policy: .*'odd'"),
        ({"depth_feature": "colour"}, "--depth_feature: .*'colour'"),
        ({"depth_feature": "power"}, "--depth_feature: .*is defined on magnitude, got 'power'"),
        ({"level_convention": "joined"}, "--level_convention: .*'joined'"),
    ],
)
def test_recipes_that_cannot_work_are_refused_before_a_forward(pair, files, changes, message):
    with pytest.raises(UserError, match=message):
        bridge.Sequences(*pair, files, bridge.Recipe(**changes))


def test_domains_of_different_processes_are_refused(pair, files):
    other = domain(ReferenceTarget(), 16, "50")
    with pytest.raises(UserError, match="--timestep_respacing: .*'40'.*'50'"):
        bridge.Sequences(pair[0], other, files, bridge.Recipe())
