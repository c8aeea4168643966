"""Windows against a masked full attention; the hybrid block against its two pure kinds."""

import pytest
import torch
from support.hybrid_networks import PRIORITIES, build, hybrid, pictures
from torch import nn

from guided_diffusion.errors import UserError
from guided_diffusion.fp16_util import MixedPrecisionTrainer
from guided_diffusion.models import convert
from guided_diffusion.networks import attention
from guided_diffusion.networks.attention import HybridAttention, attend_in_windows


def heads_of(spatial, count=2, heads=3, depth=4):
    generator = torch.Generator().manual_seed(1)
    length = spatial[0] * spatial[1]
    return torch.randn(3, count, heads, length, depth, generator=generator)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("spatial", "window"),
    [((4, 4), 2), ((8, 8), 4), ((5, 7), 3), ((3, 8), 4), ((9, 2), 4), ((3, 3), 8), ((7, 7), 1)],
)
def test_windows_equal_full_attention_under_a_mask(spatial, window, shifted):
    q, k, v = heads_of(spatial)
    starts = [window // 2 if shifted and side > window else 0 for side in spatial]
    place = [
        (torch.arange(n) - s).div(window, rounding_mode="floor")
        for n, s in zip(spatial, starts, strict=True)
    ]
    number = (100 * place[0][:, None] + place[1]).flatten()
    scores = (q @ k.mT) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(number[:, None] != number, -torch.inf)
    expected = scores.softmax(dim=-1) @ v
    found = attend_in_windows(q, k, v, spatial, window, shifted)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("new", [False, True])
def test_a_standard_checkpoint_computes_the_same_with_global_priority(new, size):
    standard = build(use_new_attention_order=new)
    model = hybrid("global", seed=1, use_new_attention_order=new)
    missing, extra = model.load_state_dict(standard.state_dict(), strict=False)
    assert extra == [] and all(key.endswith(".attention.blend") for key in missing)
    x, t = torch.randn(2, 3, size, size), torch.tensor([0, 700])
    for learns in (False, True):  # with gradients both kinds are computed
        model.requires_grad_(learns)
        torch.testing.assert_close(model(x, t), standard(x, t), rtol=0, atol=1e-6)


def test_local_priority_starts_with_windows_alone():
    block = HybridAttention(2, "legacy", 2, False, "local")
    qkv = torch.randn(1, 24, 16)
    q, k, v = attention.split_heads(qkv, 2, "legacy")
    expected = attention.merge_heads(attend_in_windows(q, k, v, (4, 4), 2))
    torch.testing.assert_close(block(qkv, (4, 4)), expected)


def test_every_head_has_a_share_of_its_own():
    block = HybridAttention(2, "new", 2, True, "global").requires_grad_(False)
    block.load_state_dict({"blend": torch.tensor([[0.25, 1.0]])})
    qkv = torch.randn(1, 24, 20)
    q, k, v = attention.split_heads(qkv, 2, "new")
    everywhere, nearby = attention.attend(q, k, v), attend_in_windows(q, k, v, (4, 5), 2, True)
    expected = torch.stack([0.75 * everywhere[:, 0] + 0.25 * nearby[:, 0], nearby[:, 1]], dim=1)
    torch.testing.assert_close(block(qkv, (4, 5)), attention.merge_heads(expected))


@pytest.mark.parametrize("shares", [(-0.3, -0.2), (0.0, -0.2), (1.3, 1.2), (1.0, 1.2), (0.0, 1.0)])
def test_learned_shares_count_the_same_with_and_without_gradients(shares):
    block = HybridAttention(2, "legacy", 2, False, "global")
    block.load_state_dict({"blend": torch.tensor([shares])})
    qkv = torch.randn(1, 24, 16)
    learning = block.eval()(qkv, (4, 4)).detach()
    with torch.no_grad():
        torch.testing.assert_close(block(qkv, (4, 4)), learning)


def test_both_priorities_are_one_network_with_two_sets_of_weights():
    model, x = hybrid("both"), pictures()
    assert attention.priorities_of(model) == ("global", "local")
    alone = {priority: hybrid(priority) for priority in ("global", "local")}
    for priority, other in alone.items():
        shared = {k: v for k, v in model.state_dict().items() if not k.endswith("blend")}
        other.load_state_dict(shared, strict=False)
        model.set_priority(priority)
        torch.testing.assert_close(model(*x), other(*x))
    model.set_priority("global")
    as_source = model(*x)
    model.set_priority("local")
    assert not torch.allclose(as_source, model(*x), atol=1e-4)


def test_a_role_that_a_network_does_not_have_changes_nothing():
    for model in (hybrid("global"), build()):
        before = model(*pictures())
        model.set_priority("local")
        torch.testing.assert_close(model(*pictures()), before)
    assert attention.priorities_of(build()) == ()


def test_windows_are_shifted_in_every_other_block():
    blocks = [m for m in hybrid("local").modules() if isinstance(m, HybridAttention)]
    assert [block.shifted for block in blocks] == [i % 2 == 1 for i in range(len(blocks))]
    assert len(blocks) == 7


@pytest.mark.parametrize("priority", PRIORITIES)
def test_gradients_reach_every_parameter(priority):
    model = hybrid(priority, attention_window=3)
    for role in attention.priorities_of(model):
        model.zero_grad()
        model.set_priority(role)
        model(*pictures()).square().mean().backward()
        without = [name for name, p in model.named_parameters() if p.grad is None]
        assert without == []
        for block in model.modules():
            if isinstance(block, HybridAttention):
                assert block.blend.grad[block.row].abs().min() > 0
                assert block.blend.grad.ne(0).any(dim=1).sum() == 1  # the other role's rest


@pytest.fixture
def calls(monkeypatch):
    """The number of positions of each attention that is computed."""
    found = []

    def attend(q, *args):
        found.append(q.shape[2])
        return original(q, *args)

    original = attention.attend
    monkeypatch.setattr(attention, "attend", attend)
    return found


def test_a_branch_without_weight_is_not_computed(calls):
    block = HybridAttention(2, "legacy", 2, False, "both").requires_grad_(False)
    qkv = torch.randn(1, 24, 16)

    def lengths(priority, spatial=(4, 4)):
        calls.clear()
        block.set_priority(priority)
        block(qkv[:, :, : spatial[0] * spatial[1]], spatial)
        return list(calls)

    assert lengths("global") == [16] and lengths("local") == [4]
    block.load_state_dict({"blend": torch.tensor([[0.0, 0.5], [1.0, 1.0]])})
    assert lengths("global") == [16, 4] and lengths("local") == [4]
    block.blend.zero_()
    block.eval()  # looks again
    assert lengths("global") == [16] and lengths("local") == [16]
    assert lengths("local", (2, 2)) == [4]
    block.requires_grad_(True)
    assert lengths("global") == [16, 4]
    assert lengths("global", (2, 2)) == [4]  # all positions are one window


def test_a_block_in_training_follows_its_optimizer_without_gradients_too():
    block = HybridAttention(2, "legacy", 2, False, "global")
    qkv = torch.randn(1, 24, 16)
    with torch.no_grad():
        before = block(qkv, (4, 4))
        block.blend.fill_(0.5)  # as an optimizer moves it
        without = block(qkv, (4, 4))
    torch.testing.assert_close(without, block(qkv, (4, 4)).detach())
    assert not torch.allclose(without, before)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_the_other_channel_order_computes_the_same(priority):
    model = hybrid(priority)
    layout = convert.AttentionLayout("legacy", num_heads=2)
    swapped = hybrid(priority, seed=1, use_new_attention_order=True)
    swapped.load_state_dict(convert.swap_attention_order(model.state_dict(), layout))
    torch.testing.assert_close(swapped(*pictures()), model(*pictures()), rtol=0, atol=1e-6)


def test_checkpointing_recomputes_the_same(monkeypatch):
    grads = []
    for use_checkpoint in (False, True):
        model = hybrid("both", use_checkpoint=use_checkpoint)
        model.set_priority("global")
        model(*pictures()).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*grads)


def test_bf16_autocast_is_near():
    model, x = hybrid("both"), pictures()
    expected = model(*x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(*x), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("role", ["global", "local"])
def test_compiles_without_graph_breaks(role):
    model = hybrid("both").requires_grad_(False)
    model.set_priority(role)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*pictures()), model(*pictures()))


def test_the_float16_recipe_keeps_the_blend_in_float32():
    model = hybrid("both", use_fp16=True)
    trainer = MixedPrecisionTrainer(model=model, use_fp16=True)
    state = trainer.master_params_to_state_dict(trainer.master_params)
    key = "middle_block.1.attention.blend"
    assert model.state_dict()[key].dtype == state[key].dtype == torch.float32
    torch.testing.assert_close(state[key], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_priority": "local"}, "attention_priority: local goes with attention_kind"),
        (
            {"attention_kind": "wide"},
            "attention_kind: expected one of standard, hybrid, got 'wide'",
        ),
        ({"attention_kind": "hybrid", "attention_window": 0}, "attention_window: .* 1, got 0"),
        ({"attention_kind": "hybrid", "attention_priority": "no"}, "attention_priority: .*'no'"),
    ],
)
def test_flags_that_cannot_work_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_the_blend_is_a_parameter_and_the_choice_is_not_in_the_state():
    block = HybridAttention(3, "new", 4, True, "both")
    assert isinstance(block.blend, nn.Parameter)
    assert list(block.state_dict()) == ["blend"] and block.blend.shape == (2, 3)
