"""Subclasses of the training loop, where every override takes effect and `super()` still works."""

import functools
import os

import pytest
import torch as th
from support.upstream_program import build, differ, loop_arguments

from guided_diffusion import dist_util, logger, train_util
from guided_diffusion.nn import mean_flat, update_ema
from guided_diffusion.train_util import (
    TrainLoop,
    find_ema_checkpoint,
    log_loss_dict,
    parse_resume_step_from_filename,
)

CONDITIONAL = "--class_cond True --timestep_respacing=".split()


def trained(kind, model=None, **changes):
    """Run a loop of this class for two steps, and return it."""
    _, fresh, diffusion = build(*CONDITIONAL)
    loop = kind(**loop_arguments(model or fresh, diffusion, **{"lr_anneal_steps": 2, **changes}))
    loop.run_loop()
    return loop


class MyTrainLoop(TrainLoop):
    """The method users override most: their own loss inside upstream's loop."""

    def forward_backward(self, batch, cond):
        self.mp_trainer.zero_grad()
        for i in range(0, batch.shape[0], self.microbatch):
            micro = batch[i : i + self.microbatch].to(dist_util.dev())
            kwargs = {k: v[i : i + self.microbatch].to(dist_util.dev()) for k, v in cond.items()}
            t, weights = self.schedule_sampler.sample(micro.shape[0], dist_util.dev())
            compute = functools.partial(
                self.diffusion.training_losses, self.ddp_model, micro, t, model_kwargs=kwargs
            )
            if i + self.microbatch >= batch.shape[0] or not self.use_ddp:
                losses = compute()
            else:
                with self.ddp_model.no_sync():
                    losses = compute()
            losses["mine"] = mean_flat(micro**2)
            log_loss_dict(self.diffusion, t, {k: v * weights for k, v in losses.items()})
            self.mp_trainer.backward((losses["loss"] * weights).mean())


def test_subclassed_train_loop():
    _, model, _ = build(*CONDITIONAL)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained(MyTrainLoop, model)
    assert any(not th.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "mine" in open(os.path.join(logger.get_dir(), "progress.csv")).readline()


class UpstreamStyleLoop(TrainLoop):
    """Upstream's own run_loop, as copied into many repositories."""

    def run_loop(self):
        while not self.lr_anneal_steps or self.step + self.resume_step < self.lr_anneal_steps:
            batch, cond = next(self.data)
            self.run_step(batch, cond)
            if self.step % self.log_interval == 0:
                logger.dumpkvs()
            if self.step % self.save_interval == 0:
                self.save()
            self.step += 1
        if (self.step - 1) % self.save_interval != 0:
            self.save()


def test_a_copied_run_loop_runs():
    trained(UpstreamStyleLoop)
    assert {"model000000.pt", "model000002.pt"} <= set(os.listdir(logger.get_dir()))


class OwnStep(TrainLoop):
    """Upstream's order of things in a step, with a note of one's own."""

    took = ()

    def run_step(self, batch, cond):
        self.forward_backward(batch, cond)
        took_step = self.mp_trainer.optimize(self.opt)
        if took_step:
            self._update_ema()
        self._anneal_lr()
        self.log_step()
        self.took += (bool(took_step),)


def test_overriding_run_step():
    loop = trained(OwnStep)
    assert loop.took == (True, True)
    assert differ(loop.ema_params[0], loop.mp_trainer.master_params)
    assert loop.opt.param_groups[0]["lr"] == pytest.approx(0.5e-4)


class NoAverage(TrainLoop):
    """Averages nothing, and keeps the rate of learning."""

    def _update_ema(self):
        for rate, params in zip(self.ema_rate, self.ema_params, strict=True):
            update_ema(params, self.mp_trainer.master_params, rate=1 + 0 * rate)

    def _anneal_lr(self):
        self.annealed = getattr(self, "annealed", 0) + 1

    def log_step(self):
        super().log_step()
        logger.logkv("mine", self.step + self.resume_step)


def test_overriding_the_averages_the_rate_and_the_log():
    _, model, _ = build(*CONDITIONAL)
    before = [p.detach().clone() for p in model.parameters()]
    loop = trained(NoAverage, model)
    assert differ(model.parameters(), before) and not differ(loop.ema_params[1], before)
    assert loop.annealed == 2 and loop.opt.param_groups[0]["lr"] == 1e-4
    assert "mine" in open(os.path.join(logger.get_dir(), "progress.csv")).readline()


class Slower(TrainLoop):
    """Calls what it overrides, more than once."""

    saves = 0

    def _update_ema(self):
        super()._update_ema()
        super()._update_ema()

    def save(self):
        self.saves += 1
        if self.saves > 1:
            super().save()

    def forward_backward(self, batch, cond):
        super().forward_backward(batch * 0, cond)


def test_overrides_that_call_upstreams():
    start = build(*CONDITIONAL)[1].state_dict()
    loops = []
    for kind in (TrainLoop, Slower):
        model = build(*CONDITIONAL)[1]
        model.load_state_dict(start)
        before = [p.detach().clone() for p in model.parameters()]
        # Two losses differ if the images that they are of do.
        loops.append(trained(kind, model, lr_anneal_steps=1, save_interval=1))
    assert differ(*[loop.mp_trainer.master_params for loop in loops])
    weights, average = loops[1].mp_trainer.master_params[0], loops[1].ema_params[0][0]
    expected = before[0] + (1 - 0.9**2) * (weights - before[0])
    th.testing.assert_close(average.detach(), expected.detach(), rtol=1e-4, atol=1e-7)
    assert loops[1].saves == 1


def test_a_save_that_is_overridden_writes_nothing():
    class Silent(TrainLoop):
        def save(self):
            logger.log(f"would save {self.step + self.resume_step}")

    trained(Silent)
    assert not [name for name in os.listdir(logger.get_dir()) if name.endswith(".pt")]


@pytest.fixture
def checkpoint():
    """A checkpoint of two steps of training."""
    trained(TrainLoop)
    return os.path.join(logger.get_dir(), "model000002.pt")


class OwnLoading(TrainLoop):
    """Loads weights, averages and optimizer in its own way, from upstream's files."""

    def _load_and_sync_parameters(self):
        path = train_util.find_resume_checkpoint() or self.resume_checkpoint
        if path:
            self.resume_step = parse_resume_step_from_filename(path)
            state = dist_util.load_state_dict(path, map_location=dist_util.dev())
            state["out.2.bias"] += 7  # a sign that these weights came this way
            self.model.load_state_dict(state, strict=False)
        dist_util.sync_params(self.model.parameters())

    def _load_ema_parameters(self, rate):
        path = find_ema_checkpoint(self.resume_checkpoint, self.resume_step, rate)
        state = dist_util.load_state_dict(path, map_location=dist_util.dev())
        params = self.mp_trainer.state_dict_to_master_params(state)
        dist_util.sync_params(params)
        return [param + 9 for param in params]

    def _load_optimizer_state(self):
        folder = os.path.dirname(self.resume_checkpoint)
        state = dist_util.load_state_dict(os.path.join(folder, f"opt{self.resume_step:06}.pt"))
        self.opt.load_state_dict(state)
        self.loaded = True


def test_overriding_how_a_checkpoint_is_loaded(checkpoint):
    _, model, diffusion = build(*CONDITIONAL)
    loop = OwnLoading(**loop_arguments(model, diffusion, resume_checkpoint=checkpoint))
    saved = dist_util.load_state_dict(checkpoint)
    assert th.equal(model.state_dict()["out.2.bias"], saved["out.2.bias"] + 7)
    average = dist_util.load_state_dict(checkpoint.replace("model", "ema_0.99_"))
    assert th.equal(loop.ema_params[1][0], average["time_embed.0.weight"] + 9)
    assert loop.loaded and loop.opt.state_dict()["state"][0]["step"] == 2
    loop.run_loop()
    assert loop.step == 1


class Elsewhere(OwnLoading):
    """Knows where its checkpoint is without being told, and says so by the step alone."""

    place = None

    def _load_and_sync_parameters(self):
        self.resume_step = parse_resume_step_from_filename(self.place)
        self.model.load_state_dict(dist_util.load_state_dict(self.place))

    def _load_ema_parameters(self, rate):
        return [param.detach() + 9 for param in self.mp_trainer.master_params]

    def _load_optimizer_state(self):
        self.loaded = True


def test_a_loop_that_finds_its_checkpoint_itself(checkpoint):
    _, model, diffusion = build(*CONDITIONAL)
    Elsewhere.place = checkpoint
    loop = Elsewhere(**loop_arguments(model, diffusion))
    assert loop.resume_step == 2 and loop.loaded
    assert th.equal(loop.ema_params[0][0], loop.mp_trainer.master_params[0] + 9)


class Calling(TrainLoop):
    """Adds to what upstream's methods load."""

    called = ()

    def _load_and_sync_parameters(self):
        super()._load_and_sync_parameters()
        self.called += ("weights",)

    def _load_ema_parameters(self, rate):
        self.called += (f"average {rate}",)
        return super()._load_ema_parameters(rate)

    def _load_optimizer_state(self):
        super()._load_optimizer_state()
        self.called += ("optimizer",)


def test_overrides_of_loading_that_call_upstreams(checkpoint):
    _, model, diffusion = build(*CONDITIONAL)
    loop = Calling(**loop_arguments(model, diffusion, resume_checkpoint=checkpoint))
    expected = {"weights", "average 0.9", "average 0.99", "optimizer"}
    assert set(loop.called) == expected and len(loop.called) == 4
    assert loop.opt.state_dict()["state"][0]["step"] == 2
    assert Calling(**loop_arguments(model, diffusion)).called == ("weights",)


class WithArguments(TrainLoop):
    """Takes arguments of its own and prepares itself after upstream's loop."""

    def __init__(self, *, clip=None, **kwargs):
        super().__init__(**kwargs)
        self.clip = clip
        self.opt = th.optim.SGD(self.mp_trainer.master_params, lr=self.lr)

    def forward_backward(self, batch, cond):
        super().forward_backward(batch, cond)
        th.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)


def test_a_loop_with_arguments_and_an_optimizer_of_its_own():
    _, model, _ = build(*CONDITIONAL)
    before = [p.detach().clone() for p in model.parameters()]
    changes = dict(clip=1e-3, lr=1.0, lr_anneal_steps=0)
    _, _, diffusion = build(*CONDITIONAL)
    loop = WithArguments(**loop_arguments(model, diffusion, **changes))
    loop.run_step(*next(loop.data))
    moved = th.stack([(a - b).norm() for a, b in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)
    loop.save()
    state = dist_util.load_state_dict(os.path.join(logger.get_dir(), "opt000000.pt"))
    assert state["param_groups"][0]["lr"] == 1.0
