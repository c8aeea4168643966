"""Networks subclassed, blocks written anew from the parts of upstream's, and weights in files."""

import pytest
import torch as th
import torch.nn as nn
from support.upstream_program import SHAPE, awake, build

from guided_diffusion import dist_util
from guided_diffusion.nn import checkpoint, timestep_embedding
from guided_diffusion.script_util import create_gaussian_diffusion
from guided_diffusion.unet import (
    AttentionBlock,
    AttentionPool2d,
    Downsample,
    EncoderUNetModel,
    QKVAttention,
    QKVAttentionLegacy,
    ResBlock,
    SuperResModel,
    TimestepBlock,
    TimestepEmbedSequential,
    UNetModel,
    Upsample,
)

SIZES = dict(
    image_size=16,
    in_channels=3,
    model_channels=32,
    out_channels=3,
    num_res_blocks=1,
    attention_resolutions=(2,),
    channel_mult=(1, 2),
    num_heads=2,
)


class Conditioned(UNetModel):
    """Image-to-image: the condition joins the input's channels."""

    def __init__(self, image_size, in_channels, *args, **kwargs):
        super().__init__(image_size, in_channels * 2, *args, **kwargs)

    def forward(self, x, timesteps, source=None, **kwargs):
        return super().forward(th.cat([x, source], dim=1), timesteps, **kwargs)


def test_subclassed_network():
    model = Conditioned(16, 3, 32, 3, 1, (2,), channel_mult=(1, 2), num_heads=2)
    x = th.randn(SHAPE)
    assert model(x, th.tensor([1, 2]), source=x).shape == x.shape
    diffusion = create_gaussian_diffusion(steps=10, noise_schedule="cosine")
    losses = diffusion.training_losses(model, x, th.tensor([1, 2]), model_kwargs={"source": x})
    losses["loss"].mean().backward()
    assert model.input_blocks[0][0].weight.grad is not None
    assert len(model.output_blocks) == 4 and model.middle_block is not None


class Textual(UNetModel):
    """Another kind of condition: its embedding joins the timestep's, the loop is written anew."""

    def __init__(self, *args, text_width, **kwargs):
        super().__init__(*args, **kwargs)
        self.text = nn.Linear(text_width, self.model_channels * 4)
        self.input_blocks.append(TimestepEmbedSequential(nn.Identity()))
        self.output_blocks.insert(0, TimestepEmbedSequential(Halve(2 * 64, 64)))

    def forward(self, x, timesteps, text):
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels)) + self.text(text)
        hs, h = [], x.type(self.dtype)
        for module in self.input_blocks:
            h = module(h, emb)
            hs.append(h)
        h = self.middle_block(h, emb)
        for module in self.output_blocks:
            h = module(th.cat([h, hs.pop()], dim=1), emb)
        return self.out(h.type(x.dtype))


class Halve(TimestepBlock):
    """A block of one's own that takes the embedding."""

    def __init__(self, channels, out_channels):
        super().__init__()
        self.conv, self.shift = nn.Conv2d(channels, out_channels, 1), nn.Linear(128, out_channels)

    def forward(self, x, emb):
        return self.conv(x) + self.shift(emb)[:, :, None, None]


def test_a_network_with_a_block_and_a_condition_of_its_own():
    model = awake(Textual(**SIZES, text_width=5)).eval()
    x, t, text = th.randn(SHAPE), th.tensor([1, 20]), th.randn(2, 5)
    found = model(x, t, text)
    assert found.shape == SHAPE and not th.equal(found, model(x, t, 0 * text))
    assert not th.equal(found, model(x, t + 1, text))
    found.sum().backward()
    assert model.output_blocks[0][0].shift.weight.grad.any()
    model.convert_to_fp16()
    assert model.output_blocks[0][0].conv.weight.dtype == th.float16


class MyResBlock(ResBlock):
    """The block's pass written anew from upstream's parts, with a hook for the activations."""

    def _forward(self, x, emb):
        if self.updown:
            before, conv = self.in_layers[:-1], self.in_layers[-1]
            h = conv(self.h_upd(before(x)))
            x = self.x_upd(x)
        else:
            h = self.in_layers(x)
        self.seen = h.detach()
        shift = self.emb_layers(emb).type(h.dtype)[:, :, None, None]
        if self.use_scale_shift_norm:
            norm, rest = self.out_layers[0], self.out_layers[1:]
            scale, shift = th.chunk(shift, 2, dim=1)
            h = rest(norm(h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + shift)
        return self.skip_connection(x) + h


@pytest.mark.parametrize("use_scale_shift_norm", [True, False])
@pytest.mark.parametrize("way", [{}, {"up": True}, {"down": True}])
def test_a_residual_block_written_from_upstreams_parts(way, use_scale_shift_norm):
    arguments = dict(out_channels=64, use_scale_shift_norm=use_scale_shift_norm, **way)
    block, mine = ResBlock(32, 16, 0.0, **arguments), MyResBlock(32, 16, 0.0, **arguments)
    mine.load_state_dict(awake(block).state_dict())
    x, emb = th.randn(2, 32, 8, 8), th.randn(2, 16)
    th.testing.assert_close(mine(x, emb), block(x, emb), rtol=1e-4, atol=1e-4)
    assert mine.seen.shape[1] == 64
    assert (mine.channels, mine.emb_channels, mine.out_channels) == (32, 16, 64)
    assert mine.dropout == 0.0 and not mine.use_conv and not mine.use_checkpoint


class MyAttention(AttentionBlock):
    """The block's pass written anew, keeping queries, keys and values."""

    def forward(self, x):
        return checkpoint(self._forward, (x,), self.parameters(), True)

    def _forward(self, x):
        n, channels, *spatial = x.shape
        x = x.reshape(n, channels, -1)
        self.projection = self.qkv(self.norm(x))
        return (x + self.proj_out(self.attention(self.projection))).reshape(n, channels, *spatial)


@pytest.mark.parametrize("new_order", [True, False])
def test_an_attention_block_written_from_upstreams_parts(new_order):
    arguments = dict(num_head_channels=16, use_new_attention_order=new_order)
    block, mine = AttentionBlock(64, **arguments), MyAttention(64, **arguments)
    mine.load_state_dict(awake(block).state_dict())
    x = th.randn(2, 64, 4, 4)
    th.testing.assert_close(mine(x), block(x), rtol=1e-4, atol=1e-4)
    assert mine.channels == 64 and mine.num_heads == 4 and mine.projection.shape == (2, 192, 16)
    kind = QKVAttention if new_order else QKVAttentionLegacy
    assert isinstance(mine.attention, kind) and mine.attention.n_heads == 4
    heads = kind(4)(mine.projection)
    th.testing.assert_close(heads, mine.attention(mine.projection))


def by_einsum(qkv, heads, new_order):
    """Attention as its formula says it, in one of the two orders of channels."""
    n, width, length = qkv.shape
    order = (n, 3, heads, -1, length) if new_order else (n, heads, 3, -1, length)
    q, k, v = qkv.reshape(order).unbind(1 if new_order else 2)
    weights = th.einsum("nhct,nhcs->nhts", q, k).div(q.shape[2] ** 0.5).softmax(-1)
    return th.einsum("nhts,nhcs->nhct", weights, v).reshape(n, width // 3, length)


@pytest.mark.parametrize("new_order", [True, False])
def test_attention_against_its_formula(new_order):
    qkv = th.randn(2, 96, 9)
    found = (QKVAttention if new_order else QKVAttentionLegacy)(4)(qkv)
    th.testing.assert_close(found, by_einsum(qkv, 4, new_order), rtol=1e-4, atol=1e-5)


def test_replacing_the_parts_of_a_network():
    _, model, _ = build()
    x, t = th.randn(SHAPE), th.tensor([3, 8])
    before = model(x, t)
    for block in [*model.input_blocks, model.middle_block, *model.output_blocks]:
        for place, layer in enumerate(block):
            if isinstance(layer, AttentionBlock):
                block[place] = MyAttention(layer.channels, num_heads=layer.num_heads)
                block[place].load_state_dict(layer.state_dict())
    th.testing.assert_close(model(x, t), before, rtol=1e-4, atol=1e-4)
    assert sum(isinstance(module, MyAttention) for module in model.modules()) == 4


def test_attributes_that_programs_read():
    model = UNetModel(**SIZES, num_classes=10)
    names = "conv_resample use_checkpoint dropout num_head_channels num_heads_upsample dtype"
    assert all(hasattr(model, name) for name in names.split())
    assert {name: getattr(model, name) for name in SIZES} == SIZES
    assert model.num_classes == model.label_emb.num_embeddings == 10 and model.dtype == th.float32
    assert model.channel_mult == (1, 2) and model.image_size == 16


def test_attributes_of_layers_that_programs_read():
    for kind in (Upsample, Downsample):
        layer = kind(32, True, dims=2, out_channels=64)
        assert (layer.channels, layer.out_channels, layer.use_conv, layer.dims) == (32, 64, True, 2)


def test_the_attention_of_a_pool():
    pool = AttentionPool2d(4, 64, 16, 7)
    assert pool(th.randn(2, 64, 4, 4)).shape == (2, 7) and pool.num_heads == 4
    assert isinstance(pool.attention, QKVAttention)


class Regressor(EncoderUNetModel):
    """A head of one's own on the classifier's encoder."""

    def forward(self, x, timesteps):
        return super().forward(x, timesteps).sigmoid()


class Blurred(SuperResModel):
    """Changes the small picture before the network sees it."""

    def forward(self, x, timesteps, low_res=None, **kwargs):
        return super().forward(x, timesteps, low_res * 0 + low_res.mean(), **kwargs)


@pytest.mark.parametrize("pool", ["adaptive", "attention", "spatial", "spatial_v2"])
def test_subclassed_classifier(pool):
    sizes = dict(SIZES, out_channels=7, num_head_channels=16, pool=pool)
    model = awake(Regressor(**sizes)).eval()
    found = model(th.randn(SHAPE), th.tensor([3, 4]))
    assert found.shape == (2, 7) and found.min() > 0 and found.max() < 1 and model.pool == pool


def test_subclassed_super_resolution():
    model = awake(Blurred(**SIZES)).eval()
    x, t, low = th.randn(SHAPE), th.tensor([3, 4]), th.randn(2, 3, 4, 4)
    th.testing.assert_close(model(x, t, low), model(x, t, low_res=low.flip(3)), rtol=0, atol=1e-4)


def test_weights_travel_through_plain_files(tmp_path):
    _, model, _ = build()
    th.save(model.state_dict(), tmp_path / "weights.pt")
    _, other, _ = build()
    other.load_state_dict(
        dist_util.load_state_dict(str(tmp_path / "weights.pt"), map_location="cpu")
    )
    dist_util.sync_params(other.parameters())
    x, t = th.randn(1, 3, 16, 16), th.tensor([4])
    assert th.equal(model(x, t), other(x, t))
    other.convert_to_fp16()
    assert next(other.input_blocks.parameters()).dtype == th.float16
    other.convert_to_fp32()
    assert other(x, t).dtype == th.float32


def test_half_precision_as_notebooks_prepare_it():
    _, model, diffusion = build("--learn_sigma", "True", "--use_fp16", "True")
    x, t = th.randn(SHAPE), th.tensor([4, 60])
    assert model.dtype == th.float16
    model.convert_to_fp32()
    expected = model(x, t)
    model.requires_grad_(False).eval().to(dist_util.dev())
    for name, parameter in model.named_parameters():
        if "qkv" in name or "norm" in name or "proj" in name:
            parameter.requires_grad_()
    assert {p.requires_grad for p in model.parameters()} == {True, False}
    model.convert_to_fp16()
    found = model(x, t)
    assert found.dtype == th.float32 and not th.equal(found, expected)
    th.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert th.isfinite(diffusion.ddim_sample_loop(model, SHAPE)).all()
