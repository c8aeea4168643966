"""The networks that see images: fixed numbers, independence of the batch, and how one is chosen."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from support.cli import draw_images
from torch import nn

from guided_diffusion.data.image_formats import open_set
from guided_diffusion.errors import UserError
from guided_diffusion.evaluation.feature_extractors import (
    Inception,
    SmallNetwork,
    create_extractor,
    extract,
)

CPU = torch.device("cpu")
FILE = "weights-inception-2015-12-05-6726825d.pth"
MODULE = "torch_fidelity.feature_extractor_inceptionv3"


def pixels(count=5, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


class FakeInception(nn.Module):
    """What the adapter needs of torch-fidelity's class, in a few weights."""

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert features_list == ["2048"]
        self.Mixed_6d = nn.Conv2d(3, 9, 1)
        state = torch.load(feature_extractor_weights_path, weights_only=True)
        self.load_state_dict(state)
        self.requires_grad_(False)

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        grid = nn.functional.adaptive_avg_pool2d(x.float(), 17)
        pooled = self.Mixed_6d(grid).mean((2, 3))
        return (pooled.repeat(1, 228)[:, :2048],)


@pytest.fixture
def fidelity(monkeypatch, tmp_path):
    """A torch-fidelity without torchvision; its cache of weights is empty."""
    module = ModuleType(MODULE)
    module.FeatureExtractorInceptionV3 = FakeInception
    module.URL_INCEPTION_V3 = f"https://example.org/{FILE}"
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, MODULE, module)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return module


def refuse(url, path):
    raise OSError(f"no route to {url}")


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(
        {f"Mixed_6d.{k}": v for k, v in nn.Conv2d(3, 9, 1).state_dict().items()},
        tmp_path / "weights.pth",
    )
    return tmp_path / "weights.pth"


def test_the_small_network_gives_the_same_numbers_everywhere():
    ramp = np.arange(2 * 16 * 16 * 3, dtype=np.int64).reshape(2, 16, 16, 3) * 7 % 256
    pooled, spatial = SmallNetwork(CPU)(ramp.astype(np.uint8))
    assert pooled.shape == (2, 256) and spatial.shape == (2, 448)
    assert pooled.dtype == spatial.dtype == torch.float32
    np.testing.assert_allclose(pooled[0, :4], [0, 0.383274, 0.158147, 0.150734], rtol=1e-4)
    np.testing.assert_allclose(spatial[1, 3:7], [0.307880, 0, 0, 0.0537577], rtol=1e-4)


def test_features_of_the_small_network_depend_on_the_whole_image_and_keep_places_apart():
    plain = np.full((1, 32, 32, 3), 128, np.uint8)
    corner = plain.copy()
    corner[0, :8, :8] = 255
    network = SmallNetwork(CPU)
    (a, b), (c, d) = network(plain), network(corner)
    assert not torch.equal(a, c)
    moved = (b - d).reshape(8, 8, 7).abs().sum(-1) > 1e-4  # places run slower than channels
    assert moved[:2, :2].all() and not moved[4:].any() and not moved[:, 4:].any()


@pytest.mark.parametrize("size", [1, 5, 16, 40])
def test_the_small_network_sees_images_of_any_size(size):
    pooled, spatial = SmallNetwork(CPU)(pixels(2, size))
    assert pooled.isfinite().all() and spatial.shape == (2, 448)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_features_do_not_depend_on_the_batch_size(tmp_path, batch_size):
    network = SmallNetwork(CPU)
    images = open_set(draw_images(tmp_path / "images", 7))
    expected = network(images.tiles(range(7)))
    for found, wanted in zip(extract(images, network, batch_size), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_statistics_alone_have_no_features(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(256), sigma=np.eye(256))
    pooled, spatial = extract(open_set(tmp_path / "a.npz"), SmallNetwork(CPU), 4)
    assert pooled.shape == (0, 256) and spatial.shape == (0, 448)


def test_inception_pools_and_gives_upstreams_7_channels_fastest(fidelity, weights):
    inception = create_extractor("inception", str(weights), CPU)
    images = pixels(2, 34)
    pooled, spatial = inception(images)
    assert pooled.shape == (2, 2048) and spatial.shape == (2, 2023)
    grid = torch.from_numpy(images).float().reshape(2, 17, 2, 17, 2, 3).mean((2, 4))
    kernel, bias = inception.network.Mixed_6d.parameters()
    maps = grid @ kernel[:7, :, 0, 0].T + bias[:7]  # [N, 17, 17, 7]
    torch.testing.assert_close(spatial, maps.flatten(1))
    torch.testing.assert_close(pooled[:, :7], maps.mean((1, 2)))
    assert inception.comparable and not SmallNetwork.comparable
    assert "not comparable with Inception's" in SmallNetwork.note


def test_auto_takes_inception_only_where_package_and_weights_are_at_hand(
    fidelity, weights, tmp_path, monkeypatch
):
    assert create_extractor("auto", "", CPU).name == "small"
    assert create_extractor("auto", str(weights), CPU).name == "inception"
    kept = tmp_path / "home" / "hub" / "checkpoints" / FILE
    kept.parent.mkdir(parents=True)
    kept.write_bytes(weights.read_bytes())
    assert create_extractor("auto", "", CPU).name == "inception"
    assert create_extractor("small", "", CPU).name == "small"
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert create_extractor("auto", "", CPU).name == "small"
    with pytest.raises(UserError, match=r"needs torch_fidelity: pip install .*\[inception\]"):
        create_extractor("auto", str(weights), CPU)


def test_inception_without_weights_downloads_them_once_or_says_where_they_are(
    fidelity, weights, tmp_path, monkeypatch
):
    with pytest.raises(UserError) as refused:
        create_extractor("inception", "", CPU)
    for part in (
        "weights: no Inception weights at",
        FILE,
        "no route to https://example.org",
        "--features small",
    ):
        assert part in str(refused.value)
    fetched = []

    def fetch(url, path):
        fetched.append(url)
        with open(path, "wb") as file:
            file.write(weights.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert create_extractor("inception", "", CPU).name == "inception"
    assert fetched == [fidelity.URL_INCEPTION_V3]


def test_weights_of_something_else_are_refused_before_they_can_run_code(fidelity, tmp_path):
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="other.pth: expected torch-fidelity's Inception weights"):
        create_extractor("inception", str(tmp_path / "other.pth"), CPU)

    def no_network(*args, **kwargs):
        raise AssertionError("unpickled")

    fidelity.FeatureExtractorInceptionV3 = no_network
    torch.save(nn.Linear(2, 2), tmp_path / "pickle.pth")
    with pytest.raises(UserError, match="pickle.pth: expected a checkpoint of plain tensors"):
        create_extractor("inception", str(tmp_path / "pickle.pth"), CPU)
    with pytest.raises(UserError, match="no.pth: no such checkpoint"):
        create_extractor("inception", str(tmp_path / "no.pth"), CPU)
    with pytest.raises(UserError, match="weights: expected with --features inception"):
        create_extractor("small", "no.pth", CPU)


def test_a_torchvision_for_another_torch_is_no_traceback(monkeypatch):
    def broken(module, extra):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("guided_diffusion.evaluation.feature_extractors.require", broken)
    assert create_extractor("auto", "", CPU).name == "small"
    with pytest.raises(UserError, match="torch-fidelity cannot be loaded .*nms does not exist"):
        create_extractor("inception", "", CPU)


def test_the_lengths_of_rows_are_those_announced():
    assert SmallNetwork.dims == {"fid": 256, "sfid": 448}
    assert Inception.dims == {"fid": 2048, "sfid": 2023}
