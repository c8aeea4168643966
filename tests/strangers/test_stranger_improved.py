"""Programs written for improved-diffusion, whose training loop has methods of its own."""

import os

import numpy as np
import pytest
import torch as th
from support.upstream_program import differ, loop_arguments

import guided_diffusion.improved_diffusion  # noqa: F401  (makes the next imports possible)
from guided_diffusion import logger as guided_logger

import improved_diffusion.gaussian_diffusion as gd  # isort: skip
from improved_diffusion import dist_util, logger, train_util  # isort: skip
from improved_diffusion.fp16_util import (  # isort: skip
    make_master_params,
    master_params_to_model_params,
    unflatten_master_params,
    zero_grad,
)
from improved_diffusion.nn import update_ema  # isort: skip
from improved_diffusion.resample import create_named_schedule_sampler  # isort: skip
from improved_diffusion.script_util import (  # isort: skip
    create_model_and_diffusion,
    model_and_diffusion_defaults,
)
from improved_diffusion.train_util import TrainLoop  # isort: skip

FLAGS = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "diffusion_steps": 40,
    "attention_resolutions": "8",
    "class_cond": True,
}


def build():
    model, diffusion = create_model_and_diffusion(**model_and_diffusion_defaults() | FLAGS)
    return model, diffusion


def images():
    while True:
        yield th.rand(4, 3, 32, 32) * 2 - 1, {"y": th.arange(4)}


def loop_of(kind, **changes):
    model, diffusion = build()
    sampler = create_named_schedule_sampler("uniform", diffusion)
    changes = {"data": images(), "schedule_sampler": sampler, "microbatch": -1, **changes}
    return kind(**loop_arguments(model, diffusion, **changes))


class Clipping(TrainLoop):
    """Clips gradients, written from the parts of improved-diffusion's method."""

    def optimize_normal(self):
        th.nn.utils.clip_grad_norm_(self.model_params, 1e-3)
        self._log_grad_norm()
        self._anneal_lr()
        self.opt.step()
        for rate, params in zip(self.ema_rate, self.ema_params, strict=True):
            update_ema(params, self.master_params, rate=rate)
        self.optimized = getattr(self, "optimized", 0) + 1


def test_overriding_the_step_of_the_optimizer():
    loop = loop_of(Clipping, lr_anneal_steps=2)
    before = [p.detach().clone() for p in loop.model_params]
    loop.run_loop()
    assert loop.optimized == 2 and differ(loop.master_params, before)
    assert differ(loop.ema_params[0], before) and differ(loop.ema_params[0], loop.master_params)
    with open(os.path.join(logger.get_dir(), "progress.csv")) as file:
        names, *rows = (line.strip().split(",") for line in file)
    norms = [float(row[names.index("grad_norm")]) for row in rows]
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-2)


def test_the_rate_falls_before_each_step():
    class Watching(TrainLoop):
        rates = ()

        def optimize_normal(self):
            super().optimize_normal()
            self.rates += (self.opt.param_groups[0]["lr"],)

    loop = loop_of(Watching, lr=1e-3, lr_anneal_steps=4)
    loop.run_loop()
    assert loop.rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


class Noting(TrainLoop):
    """Overrides what is logged and what is saved."""

    def _log_grad_norm(self):
        super()._log_grad_norm()
        squares = sum((p.grad**2).sum().item() for p in self.master_params if p.grad is not None)
        logger.logkv_mean("mine", np.sqrt(squares))

    def _master_params_to_state_dict(self, master_params):
        state = super()._master_params_to_state_dict(master_params)
        return {key: value + 5 for key, value in state.items()}

    def _state_dict_to_master_params(self, state_dict):
        params = super()._state_dict_to_master_params(state_dict)
        return [param - 5 for param in params]


def test_overriding_the_log_of_norms_and_the_saved_weights():
    loop = loop_of(Noting, lr_anneal_steps=1, save_interval=1)
    loop.run_loop()
    path = os.path.join(logger.get_dir(), "model000001.pt")
    saved, name = dist_util.load_state_dict(path), "time_embed.0.weight"
    assert th.equal(saved[name], loop.model.state_dict()[name] + 5)
    row = open(os.path.join(logger.get_dir(), "progress.csv")).read().split()
    row = dict(zip(*(line.split(",") for line in row), strict=True))
    assert float(row["mine"]) == pytest.approx(float(row["grad_norm"]), rel=1e-3)
    again = loop_of(Noting, resume_checkpoint=path)
    th.testing.assert_close(again.ema_params[0][0], loop.ema_params[0][0], rtol=0, atol=1e-5)


class ByHand(TrainLoop):
    """improved-diffusion's step, its losses computed by hand."""

    def forward_backward(self, batch, cond):
        zero_grad(self.model_params)
        t, weights = self.schedule_sampler.sample(batch.shape[0], dist_util.dev())
        losses = self.diffusion.training_losses(self.ddp_model, batch, t, model_kwargs=cond)
        loss = (losses["loss"] * weights).mean()
        if self.use_fp16:
            loss = loss * 2**self.lg_loss_scale
        loss.backward()

    def run_step(self, batch, cond):
        self.forward_backward(batch, cond)
        if self.use_fp16:
            self.optimize_fp16()
        else:
            self.optimize_normal()
        self.log_step()


def test_a_step_by_hand():
    loop = loop_of(ByHand, lr_anneal_steps=2)
    before = [p.detach().clone() for p in loop.model_params]
    loop.run_loop()
    assert differ(loop.model_params, before) and loop.step == 2
    assert loop.opt.param_groups[0]["params"][0] is loop.master_params[0]
    assert loop.master_params[0] is loop.model_params[0]  # float32 needs no copies


def test_one_master_in_half_precision():
    loop = loop_of(TrainLoop, use_fp16=True)
    assert loop.lg_loss_scale == train_util.INITIAL_LOG_LOSS_SCALE == 20
    loop.lg_loss_scale -= 1
    assert loop.lg_loss_scale == 19 and loop.model.inner_dtype == th.float16
    state = loop._master_params_to_state_dict(loop.master_params)
    assert set(state) == set(loop.model.state_dict())
    assert all(value.dtype == th.float32 for value in state.values())


class OwnSetup(TrainLoop):
    """Makes the master parameters in its own way."""

    def _setup_fp16(self):
        self.master_params = make_master_params(self.model_params)
        self.model.convert_to_fp16()


def test_overriding_how_half_precision_is_set_up():
    loop = loop_of(OwnSetup, use_fp16=True)
    assert len(loop.master_params) == 1 and loop.master_params[0].ndim == 1
    assert loop.opt.param_groups[0]["params"][0] is loop.master_params[0]
    assert loop.model.inner_dtype == th.float16


def test_flat_masters_by_hand():
    model, _ = build()
    masters = make_master_params(list(model.parameters()))
    assert len(masters) == 1 and masters[0].ndim == 1 and masters[0].requires_grad
    pieces = unflatten_master_params(list(model.parameters()), masters)
    assert not differ(pieces, model.parameters())
    with th.no_grad():
        masters[0].add_(1)
    before = [p.detach().clone() for p in model.parameters()]
    master_params_to_model_params(list(model.parameters()), masters)
    assert not differ(model.parameters(), [p + 1 for p in before])


def test_one_module_by_both_names():
    assert logger is guided_logger
    model, diffusion = build()
    assert isinstance(diffusion, gd.GaussianDiffusion) and diffusion.rescale_timesteps
    features = model.get_feature_vectors(th.randn(1, 3, 32, 32), th.tensor([3.0]), th.tensor([1]))
    assert set(features) == {"down", "middle", "up"}
    assert len(features["up"]) == len(model.output_blocks)


class CountingNorms(TrainLoop):
    """Logs the norm of the gradients by itself."""

    def _log_grad_norm(self):
        norm = sum(p.grad.norm().item() ** 2 for p in self.master_params) ** 0.5
        self.norms = [*getattr(self, "norms", []), norm]


@pytest.mark.parametrize("use_fp16", [False, True])
def test_norms_are_logged_once_a_step_without_the_loss_scale(use_fp16):
    loop = loop_of(CountingNorms, use_fp16=use_fp16, lr_anneal_steps=2)
    loop.lg_loss_scale = 10.0
    loop.run_loop()
    assert len(loop.norms) == 2 and 0 < max(loop.norms) < 100


def test_replacing_the_search_for_checkpoints(monkeypatch, tmp_path):
    path = tmp_path / "model000003.pt"
    th.save(build()[0].state_dict(), path)
    monkeypatch.setattr(train_util, "find_resume_checkpoint", lambda: str(path))
    assert loop_of(TrainLoop).resume_step == 3
