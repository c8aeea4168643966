"""Classifier guidance: the gradient, and where it takes samples of a toy of two classes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guided_diffusion import logger
from guided_diffusion.config.network_settings import ModelSettings
from guided_diffusion.data.classes import Classes
from guided_diffusion.errors import UserError
from guided_diffusion.runtime.random_streams import generator
from guided_diffusion.sampling.guidance import Guided, classifier_gradient
from guided_diffusion.script_util import create_gaussian_diffusion
from guided_diffusion.training.classifier_training import ClassifierLoop
from guided_diffusion.unet import EncoderUNetModel

SAMPLERS = ("p_sample_loop", "ddim_sample_loop")
SIDE, STEPS = 4, 25
EDGE = torch.ones(1, SIDE, SIDE)
EDGE[..., SIDE // 2 :] = -1  # bright on the left
MEANS, SPREAD = 0.4 * torch.stack([EDGE, -EDGE]), 0.1  # [2, 1, SIDE, SIDE], of each pixel


def toy_diffusion(**options):
    return create_gaussian_diffusion(steps=1000, timestep_respacing=str(STEPS), **options)


class TwoClasses:
    """Images whose pixels are normal around one of two edges: everything is known."""

    def __init__(self):
        self.alpha_bar = torch.from_numpy(create_gaussian_diffusion(steps=1000).alphas_cumprod)

    def log_density(self, x, t):
        """log p(x_t | class) without its constant, [N, 2], and its gradient, [N, 2, C, H, W]."""
        alpha_bar = self.alpha_bar[t].reshape(-1, 1, 1, 1, 1)
        away = x[:, None].double() - alpha_bar.sqrt() * MEANS
        variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
        return (-0.5 * away**2 / variance).flatten(2).sum(2), -away / variance

    def denoiser(self, x, t, y=None):
        """The noise in x_t of a class unknown: minus sigma times the gradient of log p(x_t)."""
        logs, gradients = self.log_density(x, t)
        share = logs.softmax(1).reshape(-1, 2, 1, 1, 1)
        sigma = (1 - self.alpha_bar[t]).sqrt().reshape(-1, 1, 1, 1)
        return (-sigma * (share * gradients).sum(1)).float()

    def denoiser_of_a_class(self, x, t, y):
        """The noise in x_t of class y [N]."""
        _, gradients = self.log_density(x, t)
        sigma = (1 - self.alpha_bar[t]).sqrt().reshape(-1, 1, 1, 1)
        return (-sigma * gradients[torch.arange(len(y)), y]).float()

    def classifier(self, x, t):
        return self.log_density(x, t)[0]


def landed(images):
    return ((images * EDGE).mean(dim=(1, 2, 3)) < 0).long()


def sample(sampler, model, cond_fn, y, **options):
    loop = getattr(toy_diffusion(), sampler)
    drawn = generator(0, 99).standard_normal((len(y), 1, SIDE, SIDE), np.float32)
    torch.manual_seed(0)  # of the ancestral noise
    start = torch.from_numpy(drawn)
    return loop(model, start.shape, start, cond_fn=cond_fn, model_kwargs={"y": y}, **options)


@pytest.fixture(scope="module")
def y():
    return torch.arange(200) % 2


@pytest.fixture(scope="module")
def toy():
    return TwoClasses()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier that the training loop has made, of 100 noised batches."""
    torch.manual_seed(0)
    model = EncoderUNetModel(
        SIDE,
        1,
        32,
        2,
        1,
        (),
        channel_mult=(1,),
        use_scale_shift_norm=True,
        pool="attention",
        num_head_channels=32,
    )
    with logger.scoped_configure(str(tmp_path_factory.mktemp("log")), format_strs=[]):
        ClassifierLoop(
            model,
            create_gaussian_diffusion(steps=1000),
            batches(64),
            batch_size=64,
            microbatch=-1,
            lr=3e-3,
            lr_anneal_steps=100,
            log_interval=100,
            save_interval=100,
            resume_checkpoint="",
            out_dir=tmp_path_factory.mktemp("classifier"),
        ).run_loop()
    return model.eval().requires_grad_(False)


def batches(count):
    rng = np.random.default_rng(0)
    while True:
        labels = torch.from_numpy(rng.integers(2, size=count))
        noise = torch.from_numpy(rng.standard_normal((count, 1, SIDE, SIDE), np.float32))
        yield MEANS[labels] + SPREAD * noise, {"y": labels}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_a_classifier_samples_land_in_either_class(toy, y, sampler):
    hits = landed(sample(sampler, toy.denoiser, None, y)) == y
    assert 0.4 < hits.float().mean() < 0.6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_exact_classifier_makes_samples_of_the_asked_class(toy, y, sampler):
    images = sample(sampler, toy.denoiser, classifier_gradient(toy.classifier), y)
    assert (landed(images) == y).float().mean() > 0.95
    assert (images - MEANS[y]).mean().abs() < 0.02


def test_the_exact_classifier_makes_of_the_model_that_of_each_class(toy, y):
    cond_fn = classifier_gradient(toy.classifier)
    guided = sample("ddim_sample_loop", toy.denoiser, cond_fn, y, clip_denoised=False)
    alone = sample("ddim_sample_loop", toy.denoiser_of_a_class, None, y, clip_denoised=False)
    torch.testing.assert_close(guided, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trained_classifier_takes_samples_to_the_asked_class(toy, trained, y, sampler):
    images = sample(sampler, toy.denoiser, classifier_gradient(trained, scale=4), y)
    assert (landed(images) == y).float().mean() > 0.95


def test_the_gradient_is_that_of_the_log_probability_and_scales(toy, y):
    x = torch.from_numpy(generator(0, 98).standard_normal((200, 1, SIDE, SIDE), np.float32))
    t = torch.arange(200) * 5
    logs, gradients = toy.log_density(x, t)
    share = logs.softmax(1).reshape(-1, 2, 1, 1, 1)
    expected = (gradients[torch.arange(200), y] - (share * gradients).sum(1)).float()
    with torch.no_grad():
        found = classifier_gradient(toy.classifier)(x, t, y)
        doubled = classifier_gradient(toy.classifier, 2.0)(x, t, y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(doubled, 2 * expected, rtol=1e-4, atol=1e-6)
    assert not found.requires_grad and not x.requires_grad and x.grad is None


@pytest.mark.parametrize("rescale", [False, True])
def test_a_classifier_is_trained_and_asked_at_the_same_timesteps(rescale):
    diffusion = create_gaussian_diffusion(
        steps=500, timestep_respacing="5", rescale_timesteps=rescale
    )
    t, asked = torch.arange(5), []
    x = torch.zeros(5, 1, SIDE, SIDE)
    out = {"mean": x, "variance": x}
    diffusion.condition_mean(lambda x, t: asked.append(t) or x, out, x, t)
    told = diffusion.network_timesteps(t)
    assert torch.equal(told, asked[0]) and told[-1] == (998 if rescale else 499)


def test_an_unconditional_model_is_not_told_the_labels_but_the_classifier_is(toy):
    told = []

    def network(x, t, **kwargs):
        told.append(kwargs)
        return x

    settings = SimpleNamespace(class_cond=False)
    classifier = SimpleNamespace(model=toy.classifier, classes=Classes.of("ab", ""))
    guided = Guided(SimpleNamespace(model=network, network=settings, classes=None), classifier)
    x, y = torch.zeros(1, 1, SIDE, SIDE), torch.tensor([1])
    guided.model(x, torch.tensor([3]), y=y)
    assert told == [{}] and len(guided.classes) == 2
    assert guided.cond_fn(x, torch.tensor([3]), y).abs().sum() > 0
    settings.class_cond = True
    guided.model(x, torch.tensor([3]), y=y)
    assert told[1:] == [{"y": y}]


def guided_by(model, classifier):
    network = ModelSettings(class_cond=model is not None)
    return Guided(
        SimpleNamespace(classes=model, network=network),
        classifier and SimpleNamespace(classes=classifier),
    )


NUMBERS = Classes.unnamed(range(5), "the model")
FEWER = Classes.unnamed(range(3), "the classifier")
NAMES = Classes.of(["benign", "tumour"], "the model")


@pytest.mark.parametrize(
    ("model", "classifier", "expected"),
    [
        (NUMBERS, None, NUMBERS),
        (None, FEWER, FEWER),
        (NUMBERS, FEWER, FEWER),
        (NAMES, FEWER, NAMES),
        (NUMBERS, NAMES, NAMES),
        (NAMES, Classes.of(["tumour", "benign"], "the classifier"), NAMES),
    ],
)
def test_two_networks_know_the_classes_that_both_know_and_by_name_if_one_has_names(
    model, classifier, expected
):
    assert guided_by(model, classifier).classes is expected


@pytest.mark.parametrize("other", [["atypia", "benign", "tumour"], ["benign"], ["a", "benign"]])
def test_a_classifier_of_other_classes_is_refused_with_both_lists(other):
    message = r"classifier_path: .*: (0 .*\(.*\)) and (0 .*\(.*\))$"
    with pytest.raises(UserError, match=message) as error:
        print(guided_by(NAMES, Classes.of(other, "the classifier")).classes)
    for listed in ("0 benign, 1 tumour (the model)", f"{other[-1]} (the classifier)"):
        assert listed in str(error.value)
    with pytest.raises(UserError, match="classifier_path: .* 0 benign, 1 tumour"):
        print(guided_by(NAMES, Classes.unnamed([0], "the classifier")).classes)
