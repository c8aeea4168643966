"""Master parameters, loss scaling and the trainer around them."""

import math

import pytest
import torch
from support.reference_weights import draw, load_drawn_weights

from guided_diffusion import fp16_util, logger
from guided_diffusion.fp16_util import MixedPrecisionTrainer
from guided_diffusion.unet import UNetModel


class Half(torch.nn.Module):
    """A convolution that converts and a linear layer that does not."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(3, 4, 1)
        self.linear = torch.nn.Linear(4, 2)
        self.register_buffer("offset", torch.ones(2))

    def convert_to_fp16(self):
        self.conv.apply(fp16_util.convert_module_to_f16)

    def forward(self, x):
        h = self.conv(x.to(self.conv.weight.dtype)).float()
        return self.linear(h.mean(dim=2)) + self.offset


@pytest.fixture
def model():
    return load_drawn_weights(Half())


@pytest.fixture
def logged(monkeypatch):
    found = {"lines": [], "means": {}}
    monkeypatch.setattr(logger, "log", lambda *args: found["lines"].append(" ".join(args)))
    monkeypatch.setattr(logger, "logkv_mean", found["means"].__setitem__)
    return found


def loss_of(model):
    return model(draw(1, 5, 3, 6)).square().mean()


def test_groups_are_vectors_then_matrices(model):
    (vectors, flat), (matrices, row) = fp16_util.get_param_groups_and_shapes(
        model.named_parameters()
    )
    assert [name for name, _ in vectors] == ["conv.bias", "linear.bias"]
    assert [name for name, _ in matrices] == ["conv.weight", "linear.weight"]
    masters = fp16_util.make_master_params([(vectors, flat), (matrices, row)])
    assert [tuple(m.shape) for m in masters] == [(6,), (1, 20)]


def test_masters_round_trip_through_the_model(model):
    model.convert_to_fp16()
    groups = fp16_util.get_param_groups_and_shapes(model.named_parameters())
    masters = fp16_util.make_master_params(groups)
    assert all(m.dtype == torch.float32 and m.requires_grad and m.is_leaf for m in masters)
    expected = [2 * p.detach() for p in model.parameters()]
    with torch.no_grad():
        for master in masters:
            master.mul_(2)

    fp16_util.master_params_to_model_params(groups, masters)

    assert model.conv.weight.dtype == torch.float16
    assert all(torch.equal(p, e) for p, e in zip(model.parameters(), expected, strict=True))
    pieces = fp16_util.unflatten_master_params(groups[1][0], masters[1])
    assert [tuple(piece.shape) for piece in pieces] == [(4, 3, 1), (2, 4)]


def test_gradients_are_copied_and_missing_ones_are_zero(model):
    model.convert_to_fp16()
    groups = fp16_util.get_param_groups_and_shapes(model.named_parameters())
    masters = fp16_util.make_master_params(groups)
    model.conv.weight.grad = torch.full((4, 3, 1), 0.5, dtype=torch.float16)
    fp16_util.model_grads_to_master_grads(groups, masters)
    assert masters[1].grad.dtype == torch.float32
    assert torch.equal(masters[1].grad, torch.tensor([[0.5] * 12 + [0.0] * 8]))
    assert torch.equal(masters[0].grad, torch.zeros(6))

    fp16_util.zero_master_grads(masters)
    assert [m.grad for m in masters] == [None, None]


def test_masters_of_an_all_float16_group_are_float32():
    param = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float16))
    param.grad = torch.ones_like(param)
    groups = [([("weight", param)], (1, -1))]
    masters = fp16_util.make_master_params(groups)
    assert masters[0].dtype == torch.float32
    fp16_util.model_grads_to_master_grads(groups, masters)
    assert masters[0].grad.dtype == torch.float32


def test_zero_grad_keeps_the_buffer_and_drops_the_graph(model):
    for param in model.parameters():
        param.grad = 2 * param  # as after a backward pass that keeps its graph
    buffer = model.conv.bias.grad.data_ptr()
    fp16_util.zero_grad(model.parameters())
    assert model.conv.bias.grad.data_ptr() == buffer
    assert not any(p.grad.any() or p.grad.requires_grad for p in model.parameters())
    assert not fp16_util.param_grad_or_zeros(torch.nn.Parameter(torch.ones(3))).any()


@pytest.mark.parametrize("use_fp16", [False, True])
def test_state_dict_round_trip(model, use_fp16):
    trainer = MixedPrecisionTrainer(model=model, use_fp16=use_fp16)
    changed = [torch.nn.Parameter(m.detach() + 1) for m in trainer.master_params]
    state = trainer.master_params_to_state_dict(changed)

    assert list(state) == list(model.state_dict())
    assert all(not v.requires_grad and v.dtype == torch.float32 for v in state.values())
    for name, param in model.named_parameters():
        torch.testing.assert_close(state[name], param.detach().float() + 1, atol=1e-3, rtol=0)
    assert torch.equal(state["offset"], model.offset)
    again = trainer.state_dict_to_master_params(state)
    assert all(torch.equal(a, b) for a, b in zip(again, changed, strict=True))


def test_state_dict_names_a_foreign_parameter(model):
    groups = [([("nose.weight", torch.ones(2))], (-1,))]
    with pytest.raises(ValueError, match="no parameter 'nose.weight'"):
        fp16_util.master_params_to_state_dict(model, groups, [torch.ones(2)], True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, False), (0.0, False), (math.inf, True), (-math.inf, True), (math.nan, True)],
)
def test_check_overflow(value, expected):
    assert fp16_util.check_overflow(value) is expected
    assert fp16_util.check_overflow(torch.tensor(value)) is expected


def test_float32_step_equals_a_bare_optimizer_step_and_logs_norms(model, logged):
    twin = load_drawn_weights(Half())
    loss_of(twin).backward()
    grad_norm = math.sqrt(sum(p.grad.square().sum().item() for p in twin.parameters()))
    param_norm = math.sqrt(sum(p.square().sum().item() for p in twin.parameters()))
    torch.optim.SGD(twin.parameters(), lr=0.1).step()

    trainer = MixedPrecisionTrainer(model=model)
    assert all(a is b for a, b in zip(trainer.master_params, model.parameters(), strict=True))
    opt = torch.optim.SGD(trainer.master_params, lr=0.1)
    trainer.zero_grad()
    trainer.backward(loss_of(model))
    assert trainer.optimize(opt) is True

    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert logged["means"] == pytest.approx({"grad_norm": grad_norm, "param_norm": param_norm})
    trainer.zero_grad()
    assert not any(p.grad.any() for p in model.parameters())


def adam(trainer, fused=True):
    return torch.optim.AdamW(trainer.master_params, lr=0.1, fused=fused)


def from_a_plain_file(trainer):
    opt = adam(trainer)
    opt.load_state_dict(adam(trainer, fused=None).state_dict())
    return opt


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [
        (adam, torch.Tensor),
        (lambda t: adam(t, False), bool),
        (from_a_plain_file, bool),
        (lambda t: torch.optim.SGD(t.master_params, lr=0.1), bool),
    ],
)
@pytest.mark.parametrize("factor", [1.0, math.inf, math.nan])
def test_a_float32_step_is_taken_or_not_and_whoever_decides_says_so(
    model, recorder, optimizer, kind, factor
):
    trainer = MixedPrecisionTrainer(model=model)
    opt, before = optimizer(trainer), [p.detach().clone() for p in model.parameters()]
    trainer.backward(loss_of(model) * factor)
    taken = trainer.optimize(opt)
    assert type(taken) is kind and bool(taken) is (factor == 1)
    same = [torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
    assert same == [factor != 1] * len(before)
    assert {int(s["step"]) for s in opt.state.values() if "step" in s} <= {int(factor == 1)}
    assert not {"found_inf", "grad_scale"} & vars(opt).keys()
    assert (len(recorder.lines) == 0) is (kind is torch.Tensor or factor == 1)
    assert ("grad_norm" in logger.dumpkvs()) is (factor == 1)
    assert len(recorder.lines) == (factor != 1)


def test_float16_training_knows_at_once_and_halves_its_scale(model, recorder):
    trainer = MixedPrecisionTrainer(model=model, use_fp16=True)
    trainer.backward(loss_of(model) * math.inf)
    assert trainer.optimize(adam(trainer)) is False and trainer.lg_loss_scale == 19.0


def test_float16_step_unscales_every_gradient_and_grows_the_scale(model, logged):
    twin = load_drawn_weights(Half())
    loss_of(twin).backward()
    grad_norm = math.sqrt(sum(p.grad.square().sum().item() for p in twin.parameters()))
    torch.optim.SGD(twin.parameters(), lr=0.1).step()

    trainer = MixedPrecisionTrainer(
        model=model, use_fp16=True, fp16_scale_growth=0.25, initial_lg_loss_scale=8.0
    )
    assert model.conv.weight.dtype == torch.float16
    opt = torch.optim.SGD(trainer.master_params, lr=0.1)
    trainer.zero_grad()
    trainer.backward(loss_of(model))
    assert trainer.optimize(opt) is True

    assert trainer.lg_loss_scale == 8.25
    assert logged["means"]["lg_loss_scale"] == 8.0
    assert logged["means"]["grad_norm"] == pytest.approx(grad_norm, rel=0.01)
    state = trainer.master_params_to_state_dict(trainer.master_params)
    for name, param in twin.named_parameters():
        torch.testing.assert_close(state[name], param.detach(), atol=2e-3, rtol=0)
        torch.testing.assert_close(
            dict(model.named_parameters())[name].float(), state[name], atol=1e-3, rtol=0
        )
    assert [m.grad for m in trainer.master_params] == [None, None]


def test_overflow_skips_the_step_lowers_the_scale_and_says_so(model, logged):
    trainer = MixedPrecisionTrainer(model=model, use_fp16=True)
    assert trainer.lg_loss_scale == fp16_util.INITIAL_LOG_LOSS_SCALE == 20.0
    opt = torch.optim.SGD(trainer.master_params, lr=0.1)
    before = [m.detach().clone() for m in trainer.master_params]
    trainer.backward(loss_of(model) * math.inf)

    assert trainer.optimize(opt) is False

    assert trainer.lg_loss_scale == 19.0
    assert ["19.000" in line for line in logged["lines"]] == [True]
    assert all(torch.equal(a, b) for a, b in zip(trainer.master_params, before, strict=True))
    assert [m.grad for m in trainer.master_params] == [None, None]


def test_training_a_float16_unet_lowers_its_loss(logged):
    unet = UNetModel(8, 3, 32, 3, 1, (2,), channel_mult=(1, 1), num_heads=2, use_fp16=True)
    load_drawn_weights(unet)
    trainer = MixedPrecisionTrainer(model=unet, use_fp16=True, initial_lg_loss_scale=10.0)
    opt = torch.optim.SGD(trainer.master_params, lr=0.02)
    x, t = draw(2, 2, 3, 8, 8), torch.tensor([1, 500])
    losses = []
    for _ in range(4):
        trainer.zero_grad()
        loss = (unet(x, t) - x).square().mean()
        trainer.backward(loss)
        assert trainer.optimize(opt)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
