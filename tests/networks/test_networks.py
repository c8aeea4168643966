"""Attention and networks against reference outputs, explicit formulas and each other."""

import json
import math

import numpy as np
import pytest
import torch
from support.reference_weights import REFERENCE, draw, load_drawn_weights

from guided_diffusion import unet
from guided_diffusion.networks.attention import (
    AttentionBlock,
    AttentionPool2d,
    QKVAttention,
    QKVAttentionLegacy,
    merge_heads,
    split_heads,
)
from guided_diffusion.nn import GroupNorm32
from guided_diffusion.unet import Downsample, EncoderUNetModel, ResBlock, UNetModel, Upsample

CASES = json.loads((REFERENCE / "public_networks.json").read_text())
SMALL = CASES["unet_updown_class_cond"]["kwargs"]
POOLS = ["adaptive", "attention", "spatial", "spatial_v2"]


def build(name, **changes):
    case = CASES[name]
    model = getattr(unet, case["class"])(**{**case["kwargs"], **changes})
    return load_drawn_weights(model).eval()


def inputs(name):
    kwargs = CASES[name]["kwargs"]
    size, channels = kwargs["image_size"], kwargs["in_channels"]
    found = {"x": draw(11, 2, channels, size, size), "timesteps": torch.tensor([3, 777])}
    if "num_classes" in kwargs:
        found["y"] = torch.tensor([1, 2])
    if CASES[name]["class"] == "SuperResModel":
        found["low_res"] = draw(12, 2, channels, size // 2, size // 2)
    return found


# --- the published networks ---


@pytest.mark.parametrize("name", CASES)
def test_reference_keys_in_order_and_shapes(name):
    with torch.device("meta"):
        model = getattr(unet, CASES[name]["class"])(**CASES[name]["kwargs"])
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == CASES[name]["state"]
    # The order of parameters is the order of an optimizer's state.
    assert list(shapes) == list(CASES[name]["state"])


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_reference_output(name):
    with np.load(REFERENCE / "public_networks.npz", allow_pickle=False) as reference:
        expected = torch.from_numpy(reference[name])
    out = build(name)(**inputs(name))
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_fresh_unet_predicts_zero():
    assert not UNetModel(**SMALL)(**inputs("unet_updown_class_cond")).any()


# --- attention ---


def explicit_attention(qkv, heads, order):
    """Head by head, with the softmax written out."""
    depth = qkv.shape[1] // (3 * heads)
    mixed = []
    for head in range(heads):
        rows = [3 * head + i if order == "legacy" else i * heads + head for i in range(3)]
        q, k, v = (qkv[:, row * depth : (row + 1) * depth] for row in rows)
        weights = (torch.einsum("nct,ncs->nts", q, k) / math.sqrt(depth)).exp()
        weights = weights / weights.sum(dim=2, keepdim=True)
        mixed.append(torch.einsum("nts,ncs->nct", weights, v))
    return torch.cat(mixed, dim=1)


@pytest.mark.parametrize("layout", ["channel-major", "position-major"])
@pytest.mark.parametrize(("cls", "order"), [(QKVAttentionLegacy, "legacy"), (QKVAttention, "new")])
def test_attention_equals_explicit_softmax(cls, order, layout):
    qkv = draw(20, 2, 3 * 4 * 8, 9).double()
    if layout == "position-major":
        qkv = qkv.transpose(1, 2).contiguous().transpose(1, 2)
    expected = explicit_attention(qkv, 4, order)
    torch.testing.assert_close(cls(4)(qkv), expected, atol=1e-12, rtol=1e-12)


def legacy_rows(heads, depth):
    """Row of a `new` projection for each row of the `legacy` one."""
    return torch.arange(3 * heads * depth).view(3, heads, depth).transpose(0, 1).flatten()


def test_permuting_rows_turns_one_order_into_the_other_exactly():
    new = load_drawn_weights(AttentionBlock(64, num_heads=4, use_new_attention_order=True))
    legacy = AttentionBlock(64, num_heads=4)
    state, rows = new.state_dict(), legacy_rows(4, 16)
    state |= {key: state[key][rows] for key in ("qkv.weight", "qkv.bias")}
    x = draw(21, 2, 64, 4, 4)

    legacy.load_state_dict(new.state_dict())
    assert not torch.allclose(legacy(x), new(x), atol=1e-3)
    legacy.load_state_dict(state)
    assert torch.equal(legacy(x), new(x))


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_split_heads_views_position_major_memory_with_depth_innermost(order):
    qkv = draw(22, 2, 5, 3 * 4 * 8).transpose(1, 2)
    for part in split_heads(qkv, 4, order):
        assert part.shape == (2, 4, 5, 8)
        assert part.stride(3) == 1  # what CUDA's fused kernels require
        assert part.untyped_storage().data_ptr() == qkv.untyped_storage().data_ptr()
    assert all(part.stride(3) == 1 for part in split_heads(qkv.contiguous(), 4, order))


def test_merge_heads_stacks_heads_on_channels():
    heads = draw(23, 2, 4, 5, 8)
    torch.testing.assert_close(merge_heads(heads)[1, 8 * 3 + 2], heads[1, 3, :, 2])


def test_split_heads_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"multiple of 3 \* 4 heads, got 64"):
        split_heads(torch.zeros(1, 64, 2), 4, "new")
    with pytest.raises(ValueError, match="expected one of .*'legacy', 'new'.*, got 'old'"):
        split_heads(torch.zeros(1, 24, 2), 4, "old")


def test_attention_block_is_the_identity_at_first_and_takes_any_spatial_shape():
    block = AttentionBlock(32, num_head_channels=8)
    assert block.num_heads == 4
    for shape in [(5,), (3, 4), (2, 3, 2)]:
        x = draw(24, 2, 32, *shape)
        assert torch.equal(block(x), x)
    load_drawn_weights(block)
    x = draw(25, 2, 32, 3, 4)
    torch.testing.assert_close(block(x).flatten(2), block(x.flatten(2)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_head_channels": 48}, "num_head_channels: .* divisor of .* 64 channels, got 48"),
        ({"num_heads": 3}, "num_heads: expected a divisor of .* 64 channels, got 3"),
    ],
)
def test_heads_must_divide_the_channels(kwargs, message):
    with pytest.raises(ValueError, match=message):
        AttentionBlock(64, **kwargs)


def test_attention_pool_equals_full_attention_read_at_the_mean():
    pool = load_drawn_weights(AttentionPool2d(3, 32, 8, 5))
    x = draw(26, 2, 32, 3, 3)
    tokens = torch.cat([x.mean(dim=(2, 3))[..., None], x.flatten(2)], dim=2)
    tokens = tokens + pool.positional_embedding
    mixed = explicit_attention(pool.qkv_proj(tokens), 4, "new")
    torch.testing.assert_close(pool(x), pool.c_proj(mixed)[..., 0])
    assert AttentionPool2d(3, 32, 8)(x).shape == (2, 32)


def test_attention_pool_names_the_size_it_was_built_for():
    with pytest.raises(ValueError, match="expected a feature map of 3x3, got 4x2"):
        AttentionPool2d(3, 32, 8)(torch.zeros(1, 32, 4, 2))


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: (y,)])
def test_attention_flops_count_both_products(wrap):
    module = QKVAttention(2)
    module.total_ops = torch.zeros(1, dtype=torch.float64)
    QKVAttention.count_flops(module, None, wrap(torch.zeros(2, 8, 10)))
    assert module.total_ops.item() == 2 * (2 * 8 * 10 * 10)


# --- blocks ---


def test_upsample_repeats_and_downsample_averages():
    x = torch.arange(4.0).view(1, 1, 2, 2)
    up = Upsample(1, False)(x)
    assert torch.equal(up, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(Downsample(1, False)(up), x)
    assert Downsample(1, False)(x).item() == 1.5


@pytest.mark.parametrize(("dims", "sizes"), [(1, [4]), (2, [4, 4]), (3, [2, 4, 4])])
def test_resampling_shapes_and_keys(dims, sizes):
    up, down = Upsample(32, True, dims, 64), Downsample(64, True, dims, 32)
    assert set(up.state_dict()) == {"conv.weight", "conv.bias"}
    assert set(down.state_dict()) == {"op.weight", "op.bias"}
    x = draw(30, 1, 32, *sizes)
    doubled = [2 * s for s in sizes] if dims < 3 else [sizes[0], 2 * sizes[1], 2 * sizes[2]]
    assert up(x).shape == (1, 64, *doubled)
    assert down(up(x)).shape == x.shape
    assert Upsample(32, False, dims)(x).shape == (1, 32, *doubled)


def test_averaging_cannot_change_channels():
    with pytest.raises(ValueError, match="out_channels: without a convolution expected 32, got 64"):
        Downsample(32, False, 2, 64)


@pytest.mark.parametrize(("use_conv", "kernel"), [(False, 1), (True, 3)])
def test_res_block_skips_unchanged_at_first(use_conv, kernel):
    block = ResBlock(32, 16, 0.0, out_channels=64, use_conv=use_conv)
    assert block.skip_connection.weight.shape == (64, 32, kernel, kernel)
    x = draw(31, 2, 32, 4, 4)
    assert torch.equal(block(x, draw(32, 2, 16)), block.skip_connection(x))


def test_res_block_dropout_acts_in_training_only():
    block = load_drawn_weights(ResBlock(32, 16, 0.5))
    x, emb = draw(33, 2, 32, 4, 4), draw(34, 2, 16)
    assert not torch.equal(block(x, emb), block(x, emb))
    block.eval()
    assert torch.equal(block(x, emb), block(x, emb))


def test_three_dimensional_network_keeps_its_first_size():
    model = UNetModel(8, 3, 32, 3, 1, (2,), channel_mult=(1, 2), dims=3, num_heads=2)
    assert model(draw(35, 1, 3, 3, 8, 8), torch.tensor([5])).shape == (1, 3, 3, 8, 8)


# --- precision, memory layout, recomputation ---


@pytest.mark.parametrize("name", ["unet_updown_class_cond", "encoder_spatial_v2"])
def test_checkpointing_gives_equal_gradients(name):
    gradients = []
    for use_checkpoint in (False, True):
        model = build(name, use_checkpoint=use_checkpoint, dropout=0.1).train()
        torch.manual_seed(0)
        model(**inputs(name)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_blocks_recompute_only_where_asked(use_checkpoint):
    model, calls = build("unet_legacy_order", use_checkpoint=use_checkpoint), []
    blocks = [m for m in model.modules() if isinstance(m, (AttentionBlock, ResBlock))]
    for block in blocks:
        norm = block.norm if isinstance(block, AttentionBlock) else block.in_layers[0]
        norm.register_forward_hook(lambda *_: calls.append(1))
    model(**inputs("unet_legacy_order")).sum().backward()
    assert len(calls) == (2 if use_checkpoint else 1) * len(blocks)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_gets_a_gradient(name):
    model = build(name)
    model(**inputs(name)).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["unet_updown_class_cond", "superres", "encoder_attention"])
def test_float16_torso(name):
    model, reference = build(name, use_fp16=True), build(name)
    assert model.dtype == torch.float16
    keys = list(model.state_dict())
    model.convert_to_fp16()

    assert list(model.state_dict()) == keys
    norms = [m for m in model.modules() if isinstance(m, GroupNorm32)]
    assert {p.dtype for m in norms for p in m.parameters()} == {torch.float32}
    halves = {key.split(".")[0] for key, p in model.named_parameters() if p.dtype == torch.float16}
    torso = {"input_blocks", "middle_block", "output_blocks"}
    assert halves == torso & {key.split(".")[0] for key in keys}
    with torch.no_grad():
        out, expected = model(**inputs(name)), reference(**inputs(name))
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, expected, atol=0.02, rtol=0.02)
        assert not torch.equal(out, expected)

    model.convert_to_fp32()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.dtype == torch.float32


@torch.no_grad()
def test_float16_conversion_of_a_model_built_for_float32():
    model = build("unet_plain")
    model.convert_to_fp16()
    assert model(**inputs("unet_plain")).isfinite().all()


@pytest.mark.parametrize("name", ["unet_new_order", "encoder_spatial_v2"])
@torch.no_grad()
def test_bf16_autocast_returns_float32_near_the_float32_result(name):
    model = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**inputs(name))
    expected = model(**inputs(name))
    assert out.dtype == torch.float32
    assert 0 < (out - expected).abs().max() < 0.1


@pytest.mark.parametrize("name", ["unet_legacy_order", "unet_updown_class_cond", "unet_plain"])
@torch.no_grad()
def test_channels_last_changes_nothing(name):
    model = build(name)
    expected = model(**inputs(name))
    model = model.to(memory_format=torch.channels_last)
    found = inputs(name)
    found["x"] = found["x"].contiguous(memory_format=torch.channels_last)
    formats = []
    for module in model.modules():
        if isinstance(module, (AttentionBlock, ResBlock)):
            module.register_forward_hook(
                lambda _m, _x, y: formats.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    torch.testing.assert_close(model(**found), expected, atol=1e-5, rtol=1e-5)
    assert formats
    assert all(formats)


@torch.no_grad()
def test_compiles_without_graph_breaks():
    model = build("unet_updown_class_cond")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    found = inputs("unet_updown_class_cond")
    torch.testing.assert_close(compiled(**found), model(**found))


# --- errors ---


def call(name, **changes):
    return build(name)(**{**inputs(name), **changes})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("unet_plain", {"y": torch.tensor([0, 1])}, "y: expected no labels.*shape \\[2\\]"),
        ("unet_updown_class_cond", {"y": None}, "y: expected \\[2\\] labels.*=5, got None"),
        ("unet_updown_class_cond", {"y": torch.tensor([0])}, "shape \\[2\\].*got \\[1\\]"),
        ("unet_plain", {"x": torch.zeros(2, 3, 16, 17)}, "divisible by 2.*got 16x17"),
        ("unet_plain", {"x": torch.zeros(2, 3, 15, 16)}, "divisible by 2.*got 15x16"),
        ("superres", {"low_res": None}, "low_res: expected .*, got None"),
        ("encoder_attention", {"x": torch.zeros(2, 3, 32, 32)}, "of 8x8, got 16x16"),
    ],
)
def test_bad_inputs_are_named(name, changes, message):
    with pytest.raises(ValueError, match=message):
        call(name, **changes)


@pytest.mark.parametrize(
    ("cls", "changes", "message"),
    [
        (EncoderUNetModel, {"pool": "max"}, "one of adaptive, .*, spatial_v2, got 'max'"),
        (
            EncoderUNetModel,
            {"pool": "attention", "num_head_channels": -1},
            "num_head_channels: .* attention pool, got -1",
        ),
        (UNetModel, {"num_head_channels": 48}, "divisor of the block's 64 channels, got 48"),
    ],
)
def test_bad_constructor_arguments_are_named(cls, changes, message):
    kwargs = {**SMALL, **changes}
    if cls is EncoderUNetModel:
        del kwargs["num_classes"]
    with pytest.raises(ValueError, match=message):
        cls(**kwargs)


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_encoder_pools_differ_per_example(pool):
    out = build(f"encoder_{pool}")(draw(40, 2, 3, 16, 16), torch.tensor([3, 3]))
    assert out.shape == (2, 10)
    assert not torch.allclose(out[0], out[1])
