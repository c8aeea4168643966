"""Feature extraction: hooks on blocks, and loops over blocks written by hand."""

import inspect
import json

import pytest
import torch as th
from support.upstream_program import SHAPE, awake, build

from guided_diffusion.nn import timestep_embedding
from guided_diffusion.script_util import (
    classifier_defaults,
    create_classifier,
    create_model_and_diffusion,
    model_and_diffusion_defaults,
)

CONFIG = """{
    "image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2",
    "attention_resolutions": "8", "num_heads": 2, "learn_sigma": true, "class_cond": false,
    "diffusion_steps": 100, "steps": [10, 60], "blocks": [0, 2], "share_noise": true,
    "model_path": "checkpoints/some_model.pt", "upsample_mode": "bilinear", "dim": [16, 16, 64]
}"""


def from_config(text):
    """Build from a file of settings, which holds the extractor's own ones too."""
    options = model_and_diffusion_defaults()
    options.update(json.loads(text))
    expected = inspect.getfullargspec(create_model_and_diffusion)[0]
    model, diffusion = create_model_and_diffusion(**{name: options[name] for name in expected})
    return options, awake(model).eval(), diffusion


def save_output(module, inputs, output):
    module.activations = output.detach()


def save_input(module, inputs, output):
    module.activations = inputs[0].detach()


def by_hand(model, x, timesteps, y=None):
    """Return what each output block gets and makes, and the network's result."""
    emb = model.time_embed(timestep_embedding(timesteps, model.model_channels))
    if model.num_classes is not None:
        assert y.shape == (x.shape[0],)
        emb = emb + model.label_emb(y)
    h, stack, features = x.type(model.dtype), [], []
    for module in model.input_blocks:
        h = module(h, emb)
        stack.append(h)
    h = model.middle_block(h, emb)
    for module in model.output_blocks:
        entering = th.cat([h, stack.pop()], dim=1)
        h = module(entering, emb)
        features.append((entering, h))
    return features, model.out(h.type(x.dtype))


@pytest.mark.parametrize("hook", [save_output, save_input])
def test_hooks_on_output_blocks_see_what_a_loop_by_hand_computes(hook):
    options, model, diffusion = from_config(CONFIG)
    x = th.rand(SHAPE) * 2 - 1
    noise = th.randn(1, 3, 16, 16).expand(SHAPE)
    hooked = [model.output_blocks[i] for i in options["blocks"]]
    handles = [block.register_forward_hook(hook) for block in hooked]
    for step in options["steps"]:
        t = th.tensor([step] * len(x))
        noisy = diffusion.q_sample(x, t, noise=noise)
        with th.no_grad():
            found = model(noisy, diffusion._scale_timesteps(t))
            features, expected = by_hand(model, noisy, t)
        th.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for index, block in zip(options["blocks"], hooked, strict=True):
            seen = features[index][hook is save_output]
            th.testing.assert_close(block.activations, seen, rtol=1e-4, atol=1e-4)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("shift", ["True", "False"])
def test_a_loop_over_blocks_of_a_conditional_network(shift):
    flags = f"--class_cond True --resblock_updown True --use_scale_shift_norm {shift}".split()
    _, model, _ = build(*flags)
    x, t, y = th.randn(SHAPE), th.tensor([0, 99]), th.tensor([999, 5])
    with th.no_grad():
        _, expected = by_hand(model, x, t, y)
        th.testing.assert_close(model(x, t, y=y), expected, rtol=1e-4, atol=1e-4)
        assert not th.equal(model(x, t, y=y.flip(0)), expected)


def test_hooks_that_change_an_activation_change_the_result():
    _, model, _ = build()
    x, t = th.randn(SHAPE), th.tensor([5, 50])
    before = model(x, t)
    for block in (model.middle_block, model.input_blocks[1], model.output_blocks[-1][0]):
        handle = block.register_forward_hook(lambda module, inputs, output: 0 * output)
        assert not th.equal(model(x, t), before)
        handle.remove()
    assert th.equal(model(x, t), before)


def test_features_of_a_classifier():
    flags = dict(
        classifier_defaults(),
        classifier_width=32,
        classifier_depth=1,
        classifier_pool="adaptive",
        classifier_attention_resolutions="8",
    )
    classifier = awake(create_classifier(**flags)).eval()
    x, t = th.randn(1, 3, 64, 64), th.tensor([70])
    with th.no_grad():
        emb = classifier.time_embed(timestep_embedding(t, classifier.model_channels))
        h = x.type(classifier.dtype)
        for module in classifier.input_blocks:
            h = module(h, emb)
        h = classifier.middle_block(h, emb).type(x.dtype)
        th.testing.assert_close(classifier(x, t), classifier.out(h), rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_input_through_every_block():
    _, model, _ = build("--use_checkpoint", "True")
    x, t = th.randn(SHAPE).requires_grad_(), th.tensor([5, 50])
    features, out = by_hand(model, x, t)
    slope = th.autograd.grad(out.sum(), x, retain_graph=True)[0]
    whole = th.autograd.grad(model(x, t).sum(), x)[0]
    th.testing.assert_close(slope, whole, rtol=1e-3, atol=1e-4)
    assert all(th.autograd.grad(h.sum(), x, retain_graph=True)[0].any() for _, h in features)
