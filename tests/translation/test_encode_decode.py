"""Walks: against the published pipeline, closed forms, and one another."""

import numpy as np
import pytest
import torch
from support.reference_images import blurred_noise, reference_add
from support.toy_domains import ReferenceSource, ReferenceTarget, domain

from guided_diffusion.errors import UserError
from guided_diffusion.runtime.settings import ExecutionSettings
from guided_diffusion.translation import depth_policies
from guided_diffusion.translation.encode_decode import at_every_depth, decode, encode, follow
from guided_diffusion.translation.moves import decode_moves, encode_moves, levels
from guided_diffusion.translation.predictor import Predictor
from guided_diffusion.translation.settings import WalkSettings

PUBLISHED, ALIGNED = WalkSettings(), WalkSettings(level_convention="aligned")
FEW = ALIGNED.replace(solver="dpmpp", solver_order=3, encode_steps=12, decode_steps=8)
SPREAD = 0.5  # of the Gaussian data of the analytic oracle


@pytest.fixture
def pair():
    return domain(ReferenceSource(), 16, "40"), domain(ReferenceTarget(), 16, "40")


@pytest.mark.parametrize(
    ("case", "size", "respacing", "seed"),
    [("pipe1000", 64, "", 32), ("pipe_respaced", 128, "100", 33)],
)
def test_reference_pipeline(case, size, respacing, seed):
    expected = {k.rpartition("/")[2]: v for k, v in reference_add().items() if case + "/" in k}
    source, target = (domain(net(), size, respacing) for net in (ReferenceSource, ReferenceTarget))
    encoder, decoder = (Predictor(d) for d in (source, target))
    trajectory, features = encode(encoder, blurred_noise(seed, size), PUBLISHED)
    chosen = depth_policies.add(features[0], len(expected["depths"]))
    latents = trajectory.at(0, chosen.values)
    images = decode(decoder, latents, chosen.values, PUBLISHED)

    stride = 2 * (size // 32)
    np.testing.assert_allclose(features[0].mean(1)[::-1], expected["magnitudes"], rtol=1e-4)
    assert list(chosen.values) == expected["depths"].tolist()
    for found, name in ((latents, "latents_strided"), (images, "targets_strided")):
        strided = found[:, None, :, ::stride, ::stride].numpy()
        np.testing.assert_allclose(strided, expected[name], atol=1e-4)
    # The fault-free count: one walk to noise, and each depth once.
    assert encoder.forwards == source.diffusion.num_timesteps
    assert decoder.forwards == sum(chosen.values)


@pytest.mark.parametrize(
    "engine", [PUBLISHED, FEW, ALIGNED.replace(encode_steps=12, decode_steps=8)]
)
def test_wavefront_decode_equals_decoding_each_depth_alone(pair, engine):
    latents = torch.cat([blurred_noise(seed, 16) for seed in range(5)])
    depths = [7, 40, 0, 7, 23]
    several = Predictor(pair[1], max_batch=3)
    together = decode(several, latents, depths, engine)
    for i, d in enumerate(depths):
        alone = decode(Predictor(pair[1]), latents[i : i + 1], [d], engine)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


def test_decoding_from_a_depth_is_the_end_of_the_walk_from_noise(pair):
    latent, process = blurred_noise(0, 16), pair[1].diffusion
    moves = decode_moves(process, PUBLISHED)[40 - 7 :]
    *_, (expected, _) = follow(Predictor(pair[1]), latent, moves, PUBLISHED.decoding)
    found = decode(Predictor(pair[1]), latent, [7], PUBLISHED)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_encoding_equals_the_published_loop(pair):
    image = blurred_noise(5, 16)
    trajectory, features = encode(Predictor(pair[0]), image, PUBLISHED)
    process, network = pair[0].diffusion, pair[0].model
    expected = process.ddim_reverse_sample_loop(network, image, clip_denoised=False, diffway_end=9)
    torch.testing.assert_close(trajectory.at(0, [9]), expected, atol=1e-5, rtol=0)
    listed = process.fourier_frequency_list_loop(network, image, clip_denoised=False)
    np.testing.assert_allclose(features[0].mean(axis=1), listed[::-1], rtol=1e-4)


def test_conventions_start_and_join_as_they_say(pair):
    process = pair[0].diffusion
    reference, aligned = (encode_moves(process, engine) for engine in (PUBLISHED, ALIGNED))
    decoding = decode_moves(process, ALIGNED)[::-1]
    assert reference[0].level_cur == process.alphas_cumprod[0]
    assert reference[-1].level_next == 0
    assert aligned[0].level_cur == 1
    for there, back, published in zip(aligned, decoding, reference, strict=True):
        assert (there.level_cur, there.level_next) == (back.level_next, back.level_cur)
        assert there.timestep == back.timestep
        assert published.level_next < back.level_cur
    for moves in (reference, aligned, encode_moves(process, FEW)):
        ends, starts = [m.level_next for m in moves[:-1]], [m.level_cur for m in moves[1:]]
        assert ends == starts
        assert moves[-1].depth_next == 40


def test_few_steps_ask_the_network_at_the_level_of_the_state(pair):
    process = pair[0].diffusion
    level = levels(process)
    there, back = encode_moves(process, FEW), decode_moves(process, FEW)
    assert (len(there), len(back)) == (12, 8)
    assert there[0].level_cur == back[-1].level_next == 1
    assert [level[m.timestep + 1] for m in there[1:]] == [m.level_cur for m in there[1:]]
    assert [level[m.timestep + 1] for m in back] == [m.level_cur for m in back]


class Exact(torch.nn.Module):
    """The exact noise prediction for data N(0, SPREAD^2), at the levels of a process."""

    def __init__(self, process):
        super().__init__()
        self.levels = torch.from_numpy(process.alphas_cumprod).float()

    def forward(self, x, t):
        a = self.levels[t].reshape(-1, 1, 1, 1)
        eps = x * (1 - a).sqrt() / (a * SPREAD**2 + 1 - a)
        return torch.cat([eps, eps], dim=1)


@pytest.fixture
def gaussian():
    exact = domain(ReferenceSource(), 16)
    exact.model = Exact(exact.diffusion)
    images = SPREAD * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return exact, images


def rms(error):
    return error.square().mean().sqrt().item()


def test_aligned_levels_close_the_round_trip_better_than_the_published_ones(gaussian):
    # The network is exact for Gaussian data, so that the error is the solver's alone.
    exact, images = gaussian
    error = {}
    for engine in (PUBLISHED, ALIGNED):
        predict = Predictor(exact)
        trajectory, _ = encode(predict, images, engine)
        for depth_ in (100, 600):
            latents = torch.cat([trajectory.at(i, [depth_]) for i in range(4)])
            returned = decode(predict, latents, [depth_] * 4, engine)
            error[engine.level_convention, depth_] = rms(returned - images)
    assert error["aligned", 100] < 0.25 * error["reference", 100]
    assert error["aligned", 600] < 0.5 * error["reference", 600]


@pytest.mark.parametrize("depth_", [40, 137, 600, 1000])
def test_forty_steps_of_a_higher_order_end_nearer_to_the_exact_flow(gaussian, depth_):
    exact, images = gaussian
    level = levels(exact.diffusion)[depth_]
    flow = images * np.sqrt(level * SPREAD**2 + 1 - level) / SPREAD
    error = []
    for order in (1, 2, 3):
        engine = FEW.replace(solver_order=order, encode_steps=40, decode_steps=40)
        trajectory, _ = encode(Predictor(exact), images, engine)
        # 137 is no level that forty steps visit: the solver interpolates.
        error.append(rms(trajectory.at(0, [depth_]) - flow[0]))
    assert error[2] < 0.5 * error[1] < 0.25 * error[0] < 0.02


def test_an_encoding_can_follow_the_noise_in_place_of_the_clean_image(gaussian):
    exact, images = gaussian
    level = levels(exact.diffusion)[600]
    flow = images * np.sqrt(level * SPREAD**2 + 1 - level) / SPREAD
    ends = {}
    for prediction in ("data", "noise"):
        engine = FEW.replace(
            solver_order=2, encode_steps=40, decode_steps=40, encode_prediction=prediction
        )
        trajectory, _ = encode(Predictor(exact), images, engine)
        ends[prediction] = trajectory.at(0, [600])
        assert rms(ends[prediction] - flow[0]) < 0.02
    assert not torch.equal(*ends.values())


def test_features_between_visited_depths_are_interpolated():
    curves = np.array([[[1.0], [3.0], [0.0]]])
    every = at_every_depth(np.array([1, 3, 6]), curves, 6)
    np.testing.assert_allclose(every[0, :, 0], [1, 2, 3, 2, 1, 0])
    assert at_every_depth(np.array([1, 2, 3]), curves, 3) is curves


@pytest.mark.parametrize("engine", [ALIGNED, FEW])
def test_a_large_trajectory_goes_to_a_file_and_holds_the_same(pair, engine):
    images = torch.cat([blurred_noise(seed, 16) for seed in range(2)])
    kept, filed = (encode(Predictor(pair[0]), images, engine, memory_gb=gb)[0] for gb in (1, 1e-6))
    assert isinstance(filed.states, np.memmap)
    assert not isinstance(kept.states, np.memmap)
    assert torch.equal(kept.at(1, range(41)), filed.at(1, range(41)))


def test_a_device_that_runs_out_of_memory_gets_half_as_many_images(pair):
    class Small(ReferenceSource):
        def forward(self, x, t):
            if len(x) > 2:
                raise torch.cuda.OutOfMemoryError
            return super().forward(x, t)

    small = domain(Small(), 16, "40")
    images, t = torch.cat([blurred_noise(seed, 16) for seed in range(7)]), torch.arange(7)
    predict = Predictor(small)
    torch.testing.assert_close(predict(images, t), Predictor(pair[0])(images, t))
    assert (predict.max_batch, predict.forwards) == (2, 7)


class Noting(ReferenceTarget):
    """Keeps the number of images of each forward."""

    def __init__(self):
        super().__init__()
        self.met = []

    def forward(self, x, t):
        self.met.append(len(x))
        return super().forward(x, t)


@pytest.mark.parametrize(
    ("most", "images", "sizes"),
    [
        (32, 80, [32, 32, 16]),
        (32, 27, [16, 8, 3]),
        (32, 7, [7]),
        (12, 23, [12, 6, 5]),
        (3, 7, [3, 3, 1]),
    ],
)
def test_a_cpu_gets_forwards_of_few_sizes(most, images, sizes):
    network = Noting()
    predict = Predictor(domain(network, 16, "40"), max_batch=most)
    predict(torch.zeros(images, 3, 16, 16), torch.zeros(images, dtype=torch.long))
    assert network.met == sizes


def test_compiled_networks_meet_few_sizes_and_say_the_same(pair):
    network, engine, compiled = Noting(), FEW, ExecutionSettings(compile=True)
    predict, depths = Predictor(domain(network, 16, "40"), compiled, 12), list(range(1, 39, 2))
    latents = torch.cat([blurred_noise(seed, 16) for seed in range(len(depths))])
    plain = Predictor(pair[1], max_batch=12)
    found, expected = (decode(p, latents, depths, engine) for p in (predict, plain))
    torch.testing.assert_close(found, expected)
    assert set(network.met) <= {1, 2, 4, 8, 12} and 12 in network.met
    assert predict.forwards == plain.forwards < sum(network.met)


def test_a_device_without_room_for_one_image_says_so(pair):
    class Full(ReferenceSource):
        def forward(self, x, t):
            raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="full"):
        Predictor(domain(Full(), 16, "40"))(blurred_noise(0, 16), torch.zeros(1).long())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level_convention": "joined"}, "level_convention: .*'joined'"),
        ({"encode_prediction": "score"}, "encode_prediction: expected one of .*'score'"),
        ({"solver": "euler"}, "solver: expected one of .*'euler'"),
        ({"grid": "square"}, "grid: expected one of .*'square'"),
        ({"encode_steps": 41}, "encode_steps: expected 1 to 40 steps, found 41"),
    ],
)
def test_engines_that_cannot_work_are_refused(pair, changes, message):
    with pytest.raises(UserError, match=message):
        encode_moves(pair[0].diffusion, FEW.replace(**changes))


@pytest.mark.parametrize("changes", [{"solver": "dpmpp"}, {"encode_steps": 9}])
def test_the_published_levels_go_with_the_published_solver_only(pair, changes):
    with pytest.raises(UserError, match=f"{min(changes)}: .* add --level_convention aligned"):
        encode_moves(pair[0].diffusion, PUBLISHED.replace(**changes))


@pytest.mark.parametrize(
    "walk",
    [
        WalkSettings(preset="fast"),
        WalkSettings(preset="draft", solver="ddim"),
        WalkSettings(preset="fast").replace(encode_steps=0, decode_steps=0),
        WalkSettings(preset="fast", solver_order=3, encode_steps=9),
    ],
)
def test_a_resolved_preset_stays_as_it_is(walk):
    resolved = walk.resolved(40)
    assert resolved.resolved(40) == resolved and resolved.encode_steps <= 40
    given = {name: getattr(walk, name) for name in walk.given}
    assert resolved.values().items() >= given.items()
