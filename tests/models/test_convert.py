"""Checkpoints rewritten: a network in the other attention order computes the same."""

import pytest
import torch
from support.reference_weights import draw, load_drawn_weights

from guided_diffusion.errors import ArgumentError, UserError
from guided_diffusion.models import convert
from guided_diffusion.models.convert import AttentionLayout
from guided_diffusion.script_util import (
    classifier_defaults,
    create_classifier,
    create_model,
    model_and_diffusion_defaults,
)
from guided_diffusion.unet import EncoderUNetModel

T = torch.tensor([0, 39])
HEADS = [
    {"num_heads": 2},
    {"num_heads": 2, "num_heads_upsample": 4},
    {"num_heads": 4, "num_head_channels": 16},
]


def network(new, **heads):
    model = create_model(
        image_size=16,
        num_channels=32,
        num_res_blocks=1,
        channel_mult="1,2",
        attention_resolutions="16,8",
        use_new_attention_order=new,
        **heads,
    )
    return load_drawn_weights(model).eval()


def classifier(new, pool):
    own = {
        "image_size": 16,
        "classifier_width": 64,
        "classifier_depth": 1,
        "classifier_pool": pool,
        "classifier_attention_resolutions": "8",
        "classifier_use_new_attention_order": new,
    }
    return load_drawn_weights(create_classifier(**classifier_defaults() | own)).eval(), own


def equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


def outputs(model, state):
    model.load_state_dict(state)
    with torch.no_grad():
        return model(draw(0, 2, 3, 16, 16), T)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("order", ["legacy", "new"])
def test_a_network_computes_the_same_in_the_other_order(heads, order):
    before, after = network(order == "new", **heads), network(order != "new", **heads)
    state = before.state_dict()
    swapped = convert.swap_attention_order(state, AttentionLayout(order, **heads))
    expected = outputs(before, state)
    torch.testing.assert_close(outputs(after, swapped), expected, rtol=0, atol=1e-6)
    assert (outputs(after, state) - expected).abs().max() > 1e-3  # the orders do differ
    other = {"legacy": "new", "new": "legacy"}[order]
    assert equal(convert.swap_attention_order(swapped, AttentionLayout(other, **heads)), state)


def test_another_number_of_heads_is_another_network():
    state = network(False, num_heads=2).state_dict()
    swapped = convert.swap_attention_order(state, AttentionLayout("legacy", 4))
    expected = outputs(network(False, num_heads=2), state)
    assert (outputs(network(True, num_heads=2), swapped) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("pool", ["attention", "adaptive"])
def test_a_classifier_computes_the_same_and_its_pool_stays(pool):
    (before, args), (after, _) = classifier(False, pool), classifier(True, pool)
    state = before.state_dict()
    swapped = convert.swap_attention_order(state, convert.recorded_layout(args))
    assert isinstance(after, EncoderUNetModel)
    expected = outputs(before, state)
    torch.testing.assert_close(outputs(after, swapped), expected, rtol=0, atol=1e-6)
    changed = {key for key in state if not torch.equal(state[key], swapped[key])}
    assert changed and all(".qkv." in key for key in changed)


def test_a_record_tells_order_and_heads_and_takes_the_new_order():
    args = model_and_diffusion_defaults() | {"num_heads_upsample": 2, "num_head_channels": 64}
    assert convert.recorded_layout(args) == AttentionLayout("legacy", 4, 2, 64)
    new = convert.record_order(args, "new")
    assert convert.recorded_layout(new) == AttentionLayout("new", 4, 2, 64)
    assert convert.record_order(new, "legacy") == args
    assert convert.recorded_layout({}) == AttentionLayout("legacy", 4, -1, -1)
    own = convert.record_order({"classifier_width": 128}, "new")
    assert convert.recorded_layout(own) == AttentionLayout("new", 1, -1, 64)
    assert own["classifier_use_new_attention_order"] is True


@pytest.mark.parametrize(
    "args",
    [
        {"num_heads": "2"},
        {"num_head_channels": None},
        {"use_new_attention_order": "False"},
        {"classifier_width": 128, "classifier_use_new_attention_order": "yes"},
    ],
)
def test_a_record_that_somebody_edited_is_refused(args):
    with pytest.raises(ArgumentError, match=f"^{[*args][-1]}: expected .*, got "):
        convert.recorded_layout(args)


@pytest.mark.parametrize("heads", [{"num_heads": 3}, {"num_head_channels": 24}])
def test_heads_that_do_not_divide_the_channels_are_refused(heads):
    with pytest.raises(UserError, match=f"{[*heads][0]}: expected .*qkv"):
        convert.swap_attention_order(network(False).state_dict(), AttentionLayout("new", **heads))


def test_a_file_without_attention_is_refused():
    with pytest.raises(UserError, match="attention_order: .*no attention block"):
        convert.swap_attention_order({"weight": torch.ones(3)}, AttentionLayout("new"))


def test_a_cast_changes_floating_point_numbers_alone():
    state = {"a": torch.tensor([1.5, torch.inf]), "b": torch.tensor([3])}
    found = convert.cast(state, torch.float16)
    assert found["a"].dtype == torch.float16 and found["a"].tolist() == [1.5, torch.inf]
    assert found["b"].dtype == torch.int64
    with pytest.raises(UserError, match="dtype: 'a' holds numbers beyond the range of .*16"):
        convert.cast({"a": torch.tensor([1e5])}, torch.float16)
    assert convert.cast({"a": torch.tensor([1e5])}, torch.bfloat16)["a"].isfinite().all()
